"""The service under measurement, and what it uses."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import psycopg2

from tests import audio
from tests.services import process_family
from tests.stack import Stack

SONG_SECONDS = 186  # with 128 kbit/s: 2.98 MB, the file of the old stress tests


@contextlib.contextmanager
def system(store: Literal["folder", "gcs"] = "folder", **arguments: Any) -> Iterator["System"]:
    """Start the service with PostgreSQL and two conversions at a time; clients talk to its one instance directly."""
    with Stack(database="postgres", store=store, direct=True, **{"concurrency": 2, **arguments}) as stack:
        yield System(stack)


@contextlib.contextmanager
def song(seconds: float = SONG_SECONDS) -> Iterator[Path]:
    """Make an MP3 of 128 kbit/s in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="swnube-bench-") as folder:
        yield audio.make(Path(folder) / "song.mp3", seconds, 44_100, 2, "-b:a", "128k")


class System:
    """A running service and its database, which is asked directly: polling over HTTP would be part of the load."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.url = stack.url
        self._database = psycopg2.connect(
            host="127.0.0.1", port=stack.postgres.port, user="postgres", dbname="postgres"
        )
        self._database.autocommit = True

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._database.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall()) if cursor.description else []

    def settled(self, after: int = 0) -> int:
        """Return how many tasks with a greater id are done; raises AssertionError when one failed."""
        states = dict(self.rows("SELECT state, count(*) FROM tasks WHERE id > %s GROUP BY state", after))
        assert "FAILED" not in states, states
        return int(states.get("PROCESSED", 0))

    @property
    def last(self) -> int:
        """Return the id of the newest task."""
        return int(self.rows("SELECT coalesce(max(id), 0) FROM tasks")[0][0])


def cpu_seconds(*roots: int) -> float:
    """Return what process trees have used so far, their children that have ended included."""
    total = 0.0
    for root in roots:
        for process in process_family(root):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(*roots: int) -> int:
    """Return the proportional set size of process trees in bytes: what they would free by ending."""
    total = 0
    for root in roots:
        for process in process_family(root):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total
