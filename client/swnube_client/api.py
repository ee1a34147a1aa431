"""The service as the client sees it: every call, with its retries."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import google_crc32c
import httpx

from swnube_client.errors import Interrupted, LocalTrouble, NotSignedIn, Refused, ServiceTrouble
from swnube_client.session import Session, Sessions, retry_after

Task = dict[str, Any]
Hear = Callable[[int], None]
_CHUNK = 256 * 1024
_LONGEST = 30.0  # seconds between two tries, unless the service asks for more
_BUSY = (429, 503)  # nothing was done


class Api:
    """Calls as the signed-in person. Threads may share one. patience: seconds for which a failing call is repeated."""

    def __init__(
        self, sessions: Sessions, patience: float = 300.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._sessions = sessions
        self._patience = patience
        self.stop = threading.Event()
        self.http = httpx.Client(
            transport=transport,
            timeout=httpx.Timeout(60, connect=10), follow_redirects=True,
            limits=httpx.Limits(max_connections=32), headers={"User-Agent": "swnube-client"},
        )  # fmt: skip
        self._lock = threading.Lock()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The living session; raises NotSignedIn."""
        with self._lock:
            if self._session is None or self._session.ends - 30 < time.time():
                self._session = self._sessions.renewed(self.http)
            return self._session

    def _renew(self, refused: str) -> None:
        with self._lock:
            self._session = self._sessions.renewed(self.http, refused)

    # -- small calls --------------------------------------------------------------------------------------------------

    def formats(self, url: str | None = None) -> dict[str, Any]:
        """What can be converted into what; needs no session when the service is named."""
        if url is None:
            return dict(self._json("GET", "/api/formats"))
        try:
            answer = self.http.get(f"{url}/api/formats")
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceTrouble(f"{url} does not answer as a SWNube service does.") from error

    def task(self, number: int) -> Task:
        return dict(self._json("GET", f"/api/tasks/{number}"))

    def tasks(self, **query: Any) -> list[Task]:
        return list(self._json("GET", "/api/tasks", params=query))

    def again(self, number: int, target: str, options: Mapping[str, Any]) -> Task:
        return dict(self._json("PUT", f"/api/tasks/{number}", json={"newFormat": target, **options}))

    def delete(self, number: int) -> None:
        self._json("DELETE", f"/api/tasks/{number}")

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        for pause in self._pauses():
            try:
                answer = self._once(method, path, **arguments)
            except httpx.HTTPError as error:
                pause.because(f"{type(error).__name__}: {error}")
                continue
            if answer.status_code in (429, 500, 502, 503, 504):
                pause.because(sentence_of(answer), retry_after(answer))
                continue
            if answer.status_code >= 400:
                raise Refused(answer.status_code, sentence_of(answer))
            return answer.json()
        raise AssertionError

    def _once(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request, with a new token when the old one was refused."""
        session = self.session
        for _ in range(2):
            headers = {"Authorization": f"Bearer {session.access}"}
            answer = self.http.request(method, session.url + path, headers=headers, **arguments)
            if answer.status_code != 401:
                return answer
            self._renew(session.access)
            session = self.session
        raise NotSignedIn("The service does not take your session. Sign in again with: swnube login")

    # -- uploads ------------------------------------------------------------------------------------------------------

    def upload(
        self, path: Path, target: str, options: Mapping[str, Any], hear: Hear, mine: Callable[[int], bool],
        since: int, sent_before: bool = False,
    ) -> Task:  # fmt: skip
        """Send a file to be converted; return its task.

        When an upload ends without an answer, the file may have arrived: then the list of tasks is looked through
        before it is sent again. since: the newest task's id before the first try; mine: whether a task found there is
        this file's, and not another one's of the same name and size. sent_before: begin by looking.
        """
        try:
            size = path.stat().st_size
        except OSError as error:
            raise LocalTrouble(f"{path}: {error.strerror}.") from error
        form = {"filename": path.name, "newFormat": target, **{name: _text(value) for name, value in options.items()}}
        unsure = sent_before
        for pause in self._pauses():
            if unsure and (found := self._arrived(size, target, options, since, mine)):
                hear(size)
                return found
            try:
                with path.open("rb") as file:
                    reader = _Reader(file, hear, self.stop)
                    answer = self._post_file(form, path.name, reader)
            except OSError as error:
                raise LocalTrouble(f"{path}: {error.strerror}.") from error
            except httpx.HTTPError as error:
                unsure = reader.done
                pause.because(f"{type(error).__name__}: {error}")
                continue
            if answer.status_code in _BUSY:
                unsure = False
                pause.because(sentence_of(answer), retry_after(answer))
                continue
            if answer.status_code >= 500:
                unsure = reader.done
                pause.because(sentence_of(answer))
                continue
            if answer.status_code != 200:
                raise Refused(answer.status_code, sentence_of(answer))
            return dict(answer.json()["task"])
        raise AssertionError

    def _post_file(self, form: Mapping[str, str], name: str, reader: "_Reader") -> httpx.Response:
        session = self.session
        for _ in range(2):
            headers = {"Authorization": f"Bearer {session.access}"}
            files = {"audio": (name, reader, "application/octet-stream")}
            answer = self.http.post(f"{session.url}/api/tasks", headers=headers, data=form, files=files)  # type: ignore[arg-type]
            if answer.status_code != 401:
                return answer
            self._renew(session.access)
            session = self.session
            reader.rewind()
        raise NotSignedIn("The service does not take your session. Sign in again with: swnube login")

    def _arrived(
        self, size: int, target: str, options: Mapping[str, Any], since: int, mine: Callable[[int], bool]
    ) -> Task | None:
        """The task that an upload without an answer became, if it became one."""
        for task in self.tasks(after=since, order=0, max=1000):
            # The service may have changed the name to one that every system can hold; the rest says enough.
            same = (task["originalBytes"], task["newFormat"]) == (size, target)
            same = same and all(task["options"].get(name, value) == value for name, value in options.items())
            if same and mine(task["id"]):
                return task
        return None

    # -- downloads ----------------------------------------------------------------------------------------------------

    def download(self, task: Task, path: Path, hear: Hear, *, original: bool = False) -> None:
        """Bring a result to ``path``, whole and checked, or not at all."""
        kind = "original" if original else "converted"
        wanted = None if original else (task["result"]["bytes"], task["result"]["crc32c"])
        part = path.with_name(f".{path.name}.{os.getpid()}-{task['id']}.part")
        try:
            for pause in self._pauses():
                try:
                    trouble = self._fetch(f"/api/tasks/{task['id']}/{kind}", part, wanted, hear)
                except httpx.HTTPError as error:
                    pause.because(f"{type(error).__name__}: {error}")
                    continue
                if trouble is None:
                    os.replace(part, path)
                    return
                pause.because(trouble)
        except OSError as error:
            raise LocalTrouble(f"{path}: {error.strerror}.") from error
        finally:
            part.unlink(missing_ok=True)

    def _fetch(self, path: str, part: Path, wanted: tuple[int, str] | None, hear: Hear) -> str | None:
        """Download into ``part`` once; return what is wrong with it, or None."""
        session = self.session
        headers = {"Authorization": f"Bearer {session.access}"}
        with self.http.stream("GET", session.url + path, headers=headers) as answer:
            if answer.status_code == 401:
                self._renew(session.access)
                return "The session was renewed"
            if answer.status_code in (429, 500, 502, 503, 504):
                return f"The service answered {answer.status_code}"
            if answer.status_code != 200:
                answer.read()
                raise Refused(answer.status_code, sentence_of(answer))
            checksum = google_crc32c.Checksum()
            size = 0
            with part.open("wb") as file:
                for chunk in answer.iter_bytes(_CHUNK):
                    if self.stop.is_set():
                        raise Interrupted
                    file.write(chunk)
                    checksum.update(chunk)
                    size += len(chunk)
                    hear(size)
                file.flush()
                os.fsync(file.fileno())
        if wanted is not None and wanted != (size, checksum.digest().hex()):
            return f"What came ({size} bytes) is not what was made ({wanted[0]} bytes)"
        return None

    # -- patience -----------------------------------------------------------------------------------------------------

    def _pauses(self) -> Iterator["_Pause"]:
        """Tries, with growing pauses between them, until patience is at its end."""
        began, length = time.monotonic(), 0.5
        while True:
            pause = _Pause()
            yield pause
            seconds = max(pause.asked, random.uniform(length / 2, length))  # noqa: S311 - only to spread the load
            if time.monotonic() - began + seconds > self._patience:
                raise ServiceTrouble(pause.reason or "The service keeps failing.")
            if self.stop.wait(seconds):
                raise Interrupted
            length = min(_LONGEST, length * 2)


class _Pause:
    """Why a call is to be repeated, and how long the service asked to wait."""

    def __init__(self) -> None:
        self.reason, self.asked = "", 0.0

    def because(self, reason: str, asked: float = 0.0) -> None:
        self.reason, self.asked = reason, asked


class _Reader:
    """A file on its way: tells how far it is, and stops at Ctrl-C."""

    def __init__(self, file: IO[bytes], hear: Hear, stop: threading.Event) -> None:
        self._file, self._hear, self._stop = file, hear, stop
        self._size = os.fstat(file.fileno()).st_size
        self.done = False
        """Whether all of it was handed over, so that it may have arrived."""

    def read(self, size: int = -1) -> bytes:
        if self._stop.is_set():
            raise Interrupted
        data = self._file.read(size)
        at = self._file.tell()
        self.done = self.done or at >= self._size
        self._hear(at)
        return data

    def rewind(self) -> None:
        self._file.seek(0)
        self.done = False

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(_CHUNK):
            yield data


def sentence_of(answer: httpx.Response) -> str:
    """What an answer says, in a sentence."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered {answer.status_code}."


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
