"""Conversions a minute with workers saturated, and one file alone, beside bare ffmpeg with the same arguments."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import redis

from tests.bench.clients import Person, upload_form
from tests.bench.figures import Figure, Report
from tests.bench.system import System, cpu_seconds, song, system
from tests.services import Redis, Service, wait_for
from tests.stack import PROJECT
from worker.contract.formats import Options, plan
from worker.contract.settings import cores
from worker.transcode import Transcoder
from worker.transcode.ffmpeg import filters, writing

# Enough files for the start and the end of a run to count little.
FILES = {"wav": 60, "ogg": 20}
WANTED = {"wav": 0.85, "ogg": 0.92}
ALONE = 9
MORE_SECONDS = 0.1  # that a file alone may take beyond bare ffmpeg


def throughput(report: Report, rounds: int) -> None:
    """Ours with each store, bare ffmpeg, and pydub in a Celery task as people usually write it."""
    with song() as source, Transcoder() as transcoder:
        report.facts["ffmpeg"] = f"{transcoder.version} ({transcoder.path})"
        for target in FILES:
            command = bare_command(transcoder, source, target)
            ours, bare = [], []
            with system() as running:
                warm_up(running, source, target)
                for _ in range(rounds):
                    bare.append(bare_rate(command, FILES[target], target))
                    ours.append(our_rate(running, source, target))
            report.ratios(f"conversions a minute, mp3 → {target}, folder", "/min", ours, bare, WANTED[target])
            with system("gcs") as running:
                warm_up(running, source, target)
                before = cpu_seconds(running.stack.gcs.pid)
                rate = our_rate(running, source, target)
                used = (cpu_seconds(running.stack.gcs.pid) - before) / FILES[target]
            report.add(
                Figure(f"conversions a minute, mp3 → {target}, bucket emulator", "/min", [rate],
                       note=f"the emulator itself: {1000 * used:.0f} ms of CPU a file")
            )  # fmt: skip
            report.add(
                Figure(f"conversions a minute, mp3 → {target}, pydub in Celery", "/min", [usual_rate(source, target)])
            )


def single(report: Report, rounds: int) -> None:
    """One file alone from the upload's first byte to PROCESSED, and bare ffmpeg in between."""
    with song() as source, Transcoder() as transcoder, system() as running:
        for target in FILES:
            command = bare_command(transcoder, source, target)
            person = warm_up(running, source, target)
            form = upload_form(source.read_bytes(), "alone.mp3", target)
            ours, bare = [], []
            for _ in range(max(ALONE, rounds)):
                bare.append(bare_seconds(command, target))
                last, began = running.last, time.time()
                assert person.upload(form).status == 200
                wait_for(lambda last=last: running.settled(last) == 1, "it is converted", 60, 0.02)  # type: ignore[misc]
                ((finished,),) = running.rows("SELECT extract(epoch FROM max(finished_at))::float FROM tasks")
                ours.append(finished - began)
            more = [mine - theirs for mine, theirs in zip(ours, bare, strict=True)]
            report.add(Figure(f"one file alone, mp3 → {target}, upload to PROCESSED", "s", ours))
            report.add(Figure(f"one file alone, mp3 → {target}, bare ffmpeg", "s", bare))
            report.add(Figure(f"one file alone, mp3 → {target}, beyond it", "s", more, ("most", MORE_SECONDS)))


def bare_command(transcoder: Transcoder, source: Path, target: str) -> list[str]:
    """Return ffmpeg's command line with the arguments of our own conversion, less the output's name."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(source, folder))
        planned = plan(transcoder.probe(copy, copy.parent), target, Options())
    chain = filters(planned, Options(), None)
    command = [transcoder.path, "-v", "error", "-nostdin", "-y", "-i", str(source), "-map", "0:a:0", "-vn"]
    command += ["-af", ",".join(chain)] if chain else []
    return [*command, *writing(transcoder._ffmpeg, planned, 4096)]


def bare_rate(command: list[str], files: int, target: str) -> float:
    """Return conversions a minute of ffmpeg alone, as many at a time as there are cores."""
    with tempfile.TemporaryDirectory(prefix="swnube-bench-") as folder:
        names = "".join(f"{folder}/{number}.{target}\n" for number in range(files)).encode()
        began = time.perf_counter()
        subprocess.run(["xargs", f"-P{cores()}", "-n1", *command], input=names, check=True)
        return 60 * files / (time.perf_counter() - began)


def bare_seconds(command: list[str], target: str) -> float:
    with tempfile.TemporaryDirectory(prefix="swnube-bench-") as folder:
        began = time.perf_counter()
        subprocess.run([*command, f"{folder}/0.{target}"], check=True)
        return time.perf_counter() - began


def warm_up(running: System, source: Path, target: str) -> Person:
    """Have every process of the service done its first work; return somebody logged in."""
    person = Person(running.url).log_in()
    last = running.last
    for number in range(4):
        assert person.upload(upload_form(source.read_bytes(), f"warm{number}.mp3", target)).status == 200
    wait_for(lambda: running.settled(last) == 4, "the first files are converted", 120, 0.1)
    return person


def our_rate(running: System, source: Path, target: str) -> float:
    """Return conversions a minute from the first upload's first byte to the last PROCESSED."""
    person = Person(running.url).log_in()
    data = source.read_bytes()
    forms = [upload_form(data, f"song{number}.mp3", target) for number in range(FILES[target])]
    last, began = running.last, time.time()
    for form in forms:
        answer = person.upload(form)
        assert answer.status == 200, answer.body
    wait_for(lambda: running.settled(last) == len(forms), "all are converted", 600, 0.1)
    ((finished,),) = running.rows("SELECT extract(epoch FROM max(finished_at))::float FROM tasks")
    running.rows(
        "UPDATE tasks SET state = 'REMOVED', tidy_at = now() WHERE id > %s", last
    )  # the sweeper frees the disk
    return 60 * len(forms) / float(finished - began)


class _Usual(Service):
    """A worker of `tests.bench.usual`."""

    name = "usual"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.directory = PROJECT
        self.environment = {**os.environ, "REDIS_URL": url}

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "tests.bench.usual", "worker", "--concurrency", str(cores())]

    def _answers(self) -> bool:
        return "ready." in self.log_path.read_text(errors="replace")


def usual_rate(source: Path, target: Literal["wav", "ogg"] | str) -> float:
    """Return conversions a minute of pydub's load and export in Celery tasks; nothing is uploaded or recorded."""
    with tempfile.TemporaryDirectory(prefix="swnube-bench-") as folder, Redis() as broker:
        os.environ["REDIS_URL"] = broker.url
        from tests.bench import usual

        with _Usual(broker.url) as worker:
            client: redis.Redis = broker.client
            paths = [f"{folder}/{number}.{target}" for number in range(FILES[target])]
            began = time.perf_counter()
            for path in paths:
                usual.convert.delay(str(source), path, target)
            wait_for(lambda: _succeeded(worker) == len(paths), "all are converted", 600, 0.1)
            took = time.perf_counter() - began
            client.flushall()
        return 60 * len(paths) / took


def _succeeded(worker: Service) -> int:
    return worker.log_path.read_text(errors="replace").count(" succeeded in ")
