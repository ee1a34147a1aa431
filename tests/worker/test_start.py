"""A worker that could not do its jobs takes none: it ends at its start, and says why."""

import ctypes
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.stack import PROJECT
from worker.contract.queue import QUEUE

# Every system call is allowed but landlock_create_ruleset, as on a kernel that has no Landlock.
_WITHOUT_LANDLOCK = b"".join(
    struct.pack("=HBBI", *line)
    for line in ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000))
)


def without_landlock() -> None:
    """In the child, before it becomes the worker."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(_WITHOUT_LANDLOCK, len(_WITHOUT_LANDLOCK))
    header = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxP", len(_WITHOUT_LANDLOCK) // 8, ctypes.addressof(program))
    )
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, header, 0, 0) == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("protection", "do not work here"), ("ffmpeg", "ffmpeg"), ("scratch", "scratch"), ("store", "storage")],
)
def test_a_worker_that_could_not_convert_takes_no_job(fault: str, reason: str, redis_url: str, tmp_path: Path) -> None:
    """Without a protection, ffmpeg, scratch space or store it ends with 2, names what is missing, and leaves the queue."""
    environment = {
        "PATH": os.environ["PATH"], "REDIS_URL": redis_url, "API_URL": "http://127.0.0.1:9",
        "STORAGE_URL": f"file://{tmp_path}/store", "SCRATCH_DIR": str(tmp_path / "scratch"),
    }  # fmt: skip
    (tmp_path / "file").touch()
    if fault == "ffmpeg":
        environment["FFMPEG"] = str(tmp_path / "no-ffmpeg")
    elif fault == "scratch":
        environment["SCRATCH_DIR"] = str(tmp_path / "file" / "scratch")
    elif fault == "store":
        environment["STORAGE_URL"] = f"file://{tmp_path}/file/storage"
    client = redis.Redis.from_url(redis_url)
    client.rpush(QUEUE, "a job")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--concurrency", "1"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=without_landlock if fault == "protection" else None,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    [said] = [line for line in lines if line["event"] == "worker.cannot_start"]
    assert reason in said["reason"]
    assert client.llen(QUEUE) == 1
    assert client.keys("swnube:worker:*") == []
