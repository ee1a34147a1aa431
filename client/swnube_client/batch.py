"""Many files from upload to download, with a journal from which another process can go on."""

import contextlib
import functools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from swnube_client.api import Api, Task
from swnube_client.errors import ClientError, Interrupted, LocalTrouble, NotSignedIn, Refused, ServiceTrouble
from swnube_client.session import write_private

# What an item goes through. "sending": an upload had begun; whether it arrived is to be looked up.
NEW, SENDING, WAITING, DONE, FAILED = "new", "sending", "waiting", "done", "failed"
_ENDED = (DONE, FAILED)


@dataclass(slots=True)
class Item:
    """One file: where it is, what it is to become, and how far it is. target: where its result goes."""

    source: str
    target: str
    state: str = NEW
    task: int | None = None
    since: int = 0
    error: str = ""
    code: str = ""
    exit_code: int = 0
    result: dict[str, Any] | None = None


@dataclass(slots=True)
class Plan:
    """What is asked of all files of a batch. overwrite: whether results may take the place of files that are there."""

    url: str
    email: str
    format: str
    options: dict[str, Any]
    overwrite: bool = False
    items: list[Item] = field(default_factory=list)


class Watcher(Protocol):
    """Who is told how it goes, from any thread."""

    def moves(self, item: Item, phase: str, done: float, total: float) -> None: ...
    def ends(self, item: Item) -> None: ...


class Journal:
    """A batch's file. Whoever works on it holds its lock, so that two processes never do the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_suffix(".lock"), mode=0o600)
        self._writing = threading.Lock()

    @classmethod
    def new(cls, folder: Path) -> "Journal":
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json")

    @classmethod
    def all(cls, folder: Path) -> list["Journal"]:
        """Every batch that has not ended, oldest first."""
        return [cls(path) for path in sorted(folder.glob("*.json"))]

    def read(self) -> Plan:
        body = json.loads(self.path.read_text(encoding="utf-8"))
        return Plan(**{**body, "items": [Item(**item) for item in body["items"]]})

    def write(self, plan: Plan) -> None:
        with self._writing:
            write_private(self.path, json.dumps(asdict(plan)))

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the journal; False when another process does."""
        try:
            with self._lock.acquire(blocking=False):
                yield True
        except Timeout:
            yield False

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)


class Batch:
    """Runs one plan. Uploads and downloads go side by side; waiting costs one request for all tasks at a time."""

    def __init__(
        self, api: Api, journal: Journal, plan: Plan, watcher: Watcher, jobs: int, *, wait: bool = True
    ) -> None:
        self._api, self._journal, self._plan, self._watcher = api, journal, plan, watcher
        self._jobs, self._wait = jobs, wait
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._claimed = {item.task for item in plan.items if item.task is not None}

    def run(self) -> None:
        """Bring every item to its end. Raises Interrupted at Ctrl-C, NotSignedIn and ServiceTrouble; the journal then has where to go on."""
        self._journal.write(self._plan)
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="swnube")
        try:
            waiting = [item for item in self._plan.items if item.state in (NEW, SENDING)]
            if waiting:
                newest = self._api.tasks(order=1, max=1)
                since = newest[0]["id"] if newest else 0
                for item in waiting:
                    item.since = item.since if item.state == SENDING else since
            futures = [pool.submit(self._guard, item, self._upload) for item in waiting]
            self._watch(pool, futures)
        except (KeyboardInterrupt, Interrupted):
            self._api.stop.set()
            raise Interrupted from None
        except BaseException:
            self._api.stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._journal.write(self._plan)
        if all(item.state in _ENDED for item in self._plan.items):
            self._journal.forget()

    def _watch(self, pool: ThreadPoolExecutor, futures: "list[Future[None]]") -> None:
        """Ask how the tasks are, less often while nothing changes, and fetch what is done."""
        fetching: set[int] = set()
        pause = 0.5
        while True:
            for future in [one for one in futures if one.done()]:
                futures.remove(future)
                future.result()  # raises what concerns the whole batch
            waiting = [item for item in self._plan.items if item.state == WAITING and item.task not in fetching]
            if not futures and (not waiting or not self._wait):
                return
            if waiting and self._wait:
                pause = 0.5 if self._look(waiting, pool, futures, fetching) else min(5.0, pause * 1.3)
            self._changed.clear()
            self._changed.wait(pause if waiting else 0.2)

    def _look(
        self, waiting: list[Item], pool: ThreadPoolExecutor, futures: "list[Future[None]]", fetching: set[int]
    ) -> bool:
        """One look at all waiting tasks; whether anything has moved on."""
        moved = False
        known = self._tasks([item.task for item in waiting if item.task is not None])
        for item in waiting:
            task = known.get(item.task or 0)
            if task is None:
                self._end(item, FAILED, "The task is gone: it was deleted.", "deleted")
            elif task["state"] == "FAILED":
                self._end(item, FAILED, task["error"]["message"], task["error"]["code"])
            elif task["state"] == "PROCESSED":
                fetching.add(task["id"])
                futures.append(pool.submit(self._guard, item, functools.partial(self._download, task)))
            else:
                progress = task["progress"] or {"phase": "waiting", "percent": None}
                self._watcher.moves(item, progress["phase"], progress["percent"] or 0, 100)
                moved = moved or bool(progress["percent"])
                continue
            moved = True
        return moved

    def _tasks(self, numbers: list[int]) -> dict[int, Task]:
        """The tasks of these numbers, by pages of the list: one request for hundreds of files."""
        found: dict[int, Task] = {}
        after, last = min(numbers) - 1, max(numbers)
        while after < last:
            page = self._api.tasks(after=after, order=0, max=500)
            found.update({task["id"]: task for task in page})
            if len(page) < 500:
                break
            after = page[-1]["id"]
        return found

    def _guard(self, item: Item, act: Callable[[Item], None]) -> None:
        """Run one step of one item: its trouble is its own; a dead session or service is everybody's."""
        try:
            act(item)
        except (Interrupted, NotSignedIn, ServiceTrouble):
            raise  # the journal knows where to go on
        except ClientError as error:
            code = str(error.status) if isinstance(error, Refused) else type(error).__name__
            self._end(item, FAILED, str(error), code, error.exit_code)
        finally:
            self._changed.set()

    def _upload(self, item: Item) -> None:
        again = item.state == SENDING
        self._move(item, SENDING)
        path = Path(item.source)
        size = path.stat().st_size if path.is_file() else 0
        task = self._api.upload(
            path, self._plan.format, self._plan.options,
            lambda done: self._watcher.moves(item, "sending", done, size), self._claim, item.since, again,
        )  # fmt: skip
        with self._lock:
            self._claimed.add(task["id"])
            item.task = task["id"]
        self._move(item, WAITING)

    def _claim(self, task: int) -> bool:
        """Take a task that was found in the list for one item, unless it is another's."""
        with self._lock:
            if task in self._claimed:
                return False
            self._claimed.add(task)
            return True

    def _download(self, task: Task, item: Item) -> None:
        total = task["result"]["bytes"]
        with self._lock:
            path = Path(item.target)
            if not self._plan.overwrite:
                path = free_name(path)
                item.target = str(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not self._plan.overwrite:
                    path.open("xb").close()  # the name is taken from here on
            except OSError as error:
                raise LocalTrouble(f"{path}: {error.strerror}.") from error
        try:
            self._api.download(task, path, lambda done: self._watcher.moves(item, "fetching", done, total))
        except BaseException:
            if not self._plan.overwrite and path.exists() and path.stat().st_size == 0:
                path.unlink(missing_ok=True)
            raise
        item.result = task["result"]
        self._end(item, DONE)

    def _move(self, item: Item, state: str) -> None:
        item.state = state
        self._journal.write(self._plan)

    def _end(self, item: Item, state: str, error: str = "", code: str = "", exit_code: int = 1) -> None:
        item.error, item.code = error, code
        item.exit_code = exit_code if state == FAILED else 0
        self._move(item, state)
        self._watcher.ends(item)


def free_name(path: Path) -> Path:
    """A name beside a path that no file has: the path itself, or one with a number."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return free
