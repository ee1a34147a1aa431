"""Log-ins beside what argon2 alone does; lists and reads among a million tasks."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher

from tests.bench.clients import Crowd, Person
from tests.bench.figures import Figure, Report, percentile
from tests.bench.system import System, system
from tests.client import PASSWORD
from tests.measure.many_tasks import fill
from worker.contract.settings import cores

SECONDS = 5.0
WANTED = 0.80
TASKS, MINE = 1_000_000, 1000
READERS, READS_A_SECOND, READ_SECONDS, READ_P95 = 50, 50.0, 20.0, 0.030


def measure(report: Report, rounds: int) -> None:
    """Log-ins a second against verifications a second of the same parameters, in turn."""
    hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
    known = hasher.hash(PASSWORD)
    with system() as running:
        with ThreadPoolExecutor(4) as several:
            people = list(several.map(lambda _: Person(running.url).log_in(), range(2 * cores())))
        ours, bare = [], []
        for _ in range(max(3, rounds)):
            bare.append(rate(lambda _: hasher.verify(known, PASSWORD), cores()))
            ours.append(rate(lambda number: people[number].log_in(), len(people)))
        report.ratios("log-ins a second, beside argon2 alone", "/s", ours, bare, WANTED)
        large_table(report, running)


def large_table(report: Report, running: System) -> None:
    """Fifty clients who each read something once a second, all of one account with a thousand of the million tasks."""
    filled = fill(running.stack.environment["DATABASE_URL"], TASKS, MINE)
    person = Person(running.url, filled.email).log_in()
    ((middle,),) = running.rows(
        "SELECT id FROM tasks WHERE user_id = %s ORDER BY id LIMIT 1 OFFSET %s", filled.user_id, MINE // 2
    )
    crowd = Crowd(running.url, [person] * READERS)
    for name, path, query in (
        ("the newest 20", "/api/tasks?order=1&max=20", "ORDER BY id DESC LIMIT 21"),
        (
            "20 from the middle",
            f"/api/tasks?order=1&max=20&after={middle}",
            f"AND id < {middle} ORDER BY id DESC LIMIT 21",
        ),
        ("one task", f"/api/tasks/{middle}", f"AND id = {middle}"),
    ):
        answers = crowd.stream(READ_SECONDS, READS_A_SECOND, path=path)
        assert all(answer.status == 200 for answer in answers)
        seconds = percentile([answer.seconds for answer in answers], 0.95)
        report.add(Figure(f"p95 of {name} among {TASKS:,} tasks, 50 clients", "s", [seconds], ("most", READ_P95)))
        explain = f"EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM tasks WHERE user_id = %s {query}"  # noqa: S608 - our own words
        plan = running.rows(explain, filled.user_id)
        report.facts[f"query plan of {name}"] = [line for (line,) in plan]


def rate(deed: Callable[[int], object], threads: int) -> float:
    """Return how often a second some threads together do something."""
    counts = [0] * threads
    stop = threading.Event()

    def run(number: int) -> None:
        while not stop.is_set():
            deed(number)
            counts[number] += 1

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as several:
        runs = [several.submit(run, number) for number in range(threads)]
        time.sleep(SECONDS)
        stop.set()
        for each in runs:
            each.result()
    return sum(counts) / (time.perf_counter() - began)
