"""Uploads while the workers saturate the same cores."""

import contextlib
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.clients import Answer, Crowd, Person, upload_form
from tests.bench.figures import Figure, Report, percentile
from tests.bench.system import System, song, system
from tests.services import wait_for

AT_ONCE, AT_ONCE_SECONDS = 100, 1.0
CONNECTED, STREAM_RATE, STREAM_SECONDS, STREAM_P95 = 750, 20.0, 30.0, 0.5
SMALL_SECONDS = 18.7  # of 128 kbit/s: 300 kB


def measure(report: Report, rounds: int) -> None:
    """A hundred people at once; then 750 who stay connected, and twenty uploads a second."""
    with song() as large, song(SMALL_SECONDS) as small, system() as running:
        with ThreadPoolExecutor(4) as several:
            people = list(several.map(lambda _: Person(running.url).log_in(), range(CONNECTED)))
        forms = [upload_form(large.read_bytes(), f"large{number}.mp3", "ogg") for number in range(AT_ONCE)]
        crowd = Crowd(running.url, people[:AT_ONCE])
        rounds_of = []
        for _ in range(rounds):
            with saturated(running, people[0], large.read_bytes()):
                rounds_of.append(crowd.all_at_once(forms))
        tell(report, f"{AT_ONCE} uploads of 2.98 MB at once, workers busy", rounds_of, AT_ONCE_SECONDS)
        forms = [upload_form(small.read_bytes(), f"small{number}.mp3", "ogg") for number in range(20)]
        with saturated(running, people[0], large.read_bytes()):
            answers = Crowd(running.url, people).stream(STREAM_SECONDS, STREAM_RATE, forms)
        name = f"{CONNECTED} connected, {STREAM_RATE:g} uploads of 300 kB a second, workers busy"
        tell(report, name, [answers], STREAM_P95)


def tell(report: Report, name: str, rounds: list[list[Answer]], p95: float) -> None:
    """Add errors and percentiles of some rounds."""
    errors = [float(sum(answer.status != 200 for answer in answers)) for answers in rounds]
    report.add(Figure(f"{name}: errors", "", errors, ("most", 0)))
    seconds = [[answer.seconds for answer in answers] for answers in rounds]
    report.add(Figure(f"{name}: median", "s", [statistics.median(each) for each in seconds]))
    report.add(Figure(f"{name}: p95", "s", [percentile(each, 0.95) for each in seconds], ("most", p95)))


@contextlib.contextmanager
def saturated(running: System, person: Person, audio: bytes) -> Iterator[None]:
    """Keep the workers busy for the length of the block; afterwards take what is left off their hands."""
    last = running.last
    for number in range(80):
        assert person.upload(upload_form(audio, f"busy{number}.mp3", "ogg")).status == 200
    wait_for(lambda: len(running.rows("SELECT 1 FROM tasks WHERE state = 'PROCESSING'")) >= 2, "workers are busy", 30)
    yield
    busy = running.rows("SELECT 1 FROM tasks WHERE state = 'PROCESSING'")
    assert busy, "the workers ran out of work"
    running.stack.redis.client.delete("conversions")
    running.rows("UPDATE tasks SET state = 'REMOVED', tidy_at = now() WHERE id > %s AND state <> 'REMOVED'", last)
    waiting = "SELECT 1 FROM tasks WHERE state = 'REMOVED' AND tidy_at < now()"
    wait_for(lambda: running.rows(waiting) == [], "the sweeper has freed the disk", 120, 0.5)
