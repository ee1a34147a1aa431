"""Memory: the whole of `make run` when idle, an API process under large uploads, a worker with an hour of audio."""

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.bench.clients import Person, upload_form
from tests.bench.figures import Figure, Report
from tests.bench.system import memory, song, system
from tests.services import free_port, process_family, wait_for
from tests.stack import PROJECT

IDLE_MB, UPLOAD_MB, WORKER_MB = 300, 32, 150
LARGE_BYTES = 500_000_000


def measure(report: Report, rounds: int) -> None:
    """Proportional set sizes, so that what processes share counts once."""
    report.add(Figure("memory of an idle `make run`", "MB", [idle()], ("most", IDLE_MB)))
    with song(3600) as hour, system(environment={"WEB_WORKERS": "1"}) as running:
        person = Person(running.url).log_in()
        tree = running.stack.workers[0].pid
        assert person.upload(upload_form(b"x" * 1000, "warm.mp3", "ogg")).status == 200
        wait_for(lambda: running.rows("SELECT 1 FROM tasks WHERE state = 'FAILED'"), "the worker is warm")
        running.rows("DELETE FROM tasks")
        form = upload_form(hour.read_bytes(), "hour.mp3", "ogg")
        with Peak(tree) as converting:
            assert person.upload(form).status == 200
            wait_for(lambda: running.settled() == 1, "the hour is converted", 600, 0.2)
        note = f"of it {converting.least / 1e6:.0f} MB when idle"
        report.add(
            Figure("worker's tree while it converts one hour", "MB", [converting.peak / 1e6], ("most", WORKER_MB), note)
        )
        api = process_family(running.stack.web[0].pid)[-1].pid
        large = upload_form(bytes(LARGE_BYTES), "large.wav", "ogg")
        people = [Person(running.url).log_in() for _ in range(2)]
        with Peak(api) as receiving, ThreadPoolExecutor(2) as several:
            list(several.map(lambda each: each.upload(large), people))
        grown = (receiving.peak - receiving.least) / 1e6
        report.add(
            Figure("API process while it takes two uploads of 500 MB, beyond idle", "MB", [grown], ("most", UPLOAD_MB))
        )


class Peak:
    """The least and the most that process trees held while it was entered."""

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.least = self.peak = memory(*roots)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, memory(*self._roots))


def idle() -> float:
    """Return the memory of everything that `make run` starts, in MB, some seconds after it is ready."""
    with tempfile.TemporaryDirectory(prefix="swnube-bench-") as folder:
        port = free_port()
        environment = {**os.environ, "INSTANCE_DIR": folder, "PORT": str(port)}
        log = Path(folder) / "log"
        with log.open("wb") as file:
            run = subprocess.Popen(
                [sys.executable, "-m", "deploy.local"], cwd=PROJECT, env=environment, stdout=file, stderr=file
            )
        try:
            wait_for(lambda: _ready(port), "it is ready", 90, 0.2)
            wait_for(lambda: "ready." in log.read_text(errors="replace"), "its worker is ready", 60, 0.2)
            with Peak(run.pid) as held:
                threading.Event().wait(10)
            return held.peak / 1e6
        finally:
            run.terminate()
            run.wait(30)


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2).ok
    except requests.RequestException:
        return False
