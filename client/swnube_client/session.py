"""Who is signed in: tokens in a file that its owner alone can read, shared by every process that uses it."""

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from filelock import FileLock

from swnube_client.errors import NotSignedIn, ServiceTrouble

_EARLY = 30  # seconds before its end at which an access token is renewed


@dataclass(frozen=True, slots=True)
class Session:
    """One log-in. ends: when the access token does, in seconds since 1970."""

    url: str
    email: str
    access: str
    refresh: str
    ends: float


class Sessions:
    """The session file. A refresh token is good for one use, so renewals wait for each other, across processes too."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "session.json"
        self._lock = FileLock(folder / "session.lock", mode=0o600)

    def read(self) -> Session:
        """Return the session; raises NotSignedIn."""
        try:
            return Session(**json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise NotSignedIn("You are not signed in. Sign in with: swnube login") from error

    def begin(self, http: httpx.Client, url: str, email: str, password: str) -> Session:
        """Sign in and remember it; raises NotSignedIn when the service does not know the e-mail with this password."""
        answer = _post(http, f"{url}/api/auth/login", json={"email": email, "password": password})
        if answer.status_code != 200:
            raise NotSignedIn(_sentence(answer))
        with self._lock:
            return self._keep(url, email, answer)

    def renewed(self, http: httpx.Client, refused: str | None = None) -> Session:
        """Return a session whose access token lives for a while. refused: one that the service did not take."""
        with self._lock:
            session = self.read()  # another process may have renewed it meanwhile
            if session.access != refused and session.ends - _EARLY > time.time():
                return session
            answer = _post(
                http, f"{session.url}/api/auth/refresh", headers={"Authorization": f"Bearer {session.refresh}"}
            )
            if answer.status_code == 401:
                self._path.unlink(missing_ok=True)
                raise NotSignedIn("Your session has ended. Sign in again with: swnube login")
            if answer.status_code != 200:
                raise ServiceTrouble(_sentence(answer))
            return self._keep(session.url, session.email, answer, session.refresh)

    def end(self, http: httpx.Client) -> None:
        """Sign out, here and at the service."""
        session = self.renewed(http)
        _post(http, f"{session.url}/api/auth/logout", headers={"Authorization": f"Bearer {session.access}"})
        with self._lock:
            self._path.unlink(missing_ok=True)

    def _keep(self, url: str, email: str, answer: httpx.Response, refresh: str = "") -> Session:
        body = answer.json()
        ends = time.time() + body["expiresIn"]
        session = Session(url, email, body["token"], body.get("refreshToken", refresh), ends)
        write_private(self._path, json.dumps(asdict(session)))
        return session


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp's files have mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _post(http: httpx.Client, url: str, **arguments: object) -> httpx.Response:
    """POST, again after a while when no connection comes about or the service is busy."""
    pause = 0.5
    for last in (False, False, False, True):
        try:
            answer = http.post(url, **arguments)  # type: ignore[arg-type]
            if answer.status_code not in (429, 502, 503, 504) or last:
                return answer
            pause = max(pause, retry_after(answer))
        except httpx.ConnectError as error:
            if last:
                raise ServiceTrouble(f"{url.partition('/api/')[0]} cannot be reached: {error}.") from error
        except httpx.HTTPError as error:
            # It may have been done: a refresh token that was used must not be used again.
            raise ServiceTrouble(f"The service did not answer: {type(error).__name__}.") from error
        time.sleep(min(pause, 30))
        pause *= 2
    raise AssertionError


def retry_after(answer: httpx.Response) -> float:
    """How many seconds an answer asks to wait."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 5.0


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered {answer.status_code}."
