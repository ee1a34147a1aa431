"""Log-ins beside what argon2 alone does; lists and reads in a large table."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher

from tests.bench.clients import Person
from tests.bench.figures import Report
from tests.bench.system import system
from tests.client import PASSWORD
from worker.contract.settings import cores

SECONDS = 5.0
WANTED = 0.80


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
