"""Everything around the conversion: tasks a second through upload, queue, claim and report, with a worker that copies."""

import time
from typing import Any

from tests.bench.clients import Person, upload_form
from tests.bench.figures import Figure, Report
from tests.bench.system import System, memory, system
from tests.client import tone
from tests.services import wait_for

TASKS = 900
WANTED = 60.0
SHAPES = ((1, 1), (1, 2), (2, 2), (2, 4))  # API processes, worker processes
FLAT_TASKS = 20_000


def measure(report: Report, rounds: int) -> None:
    """Each shape; then whether memory grows over many tasks."""
    form = upload_form(tone(0.05), "tone.wav", "wav")
    for apis, workers in SHAPES:
        with copying(apis, workers) as running:
            rates = [through(running, form, TASKS) for _ in range(rounds)]
        best = (apis, workers) == SHAPES[-1]
        report.add(
            Figure(f"control plane, API processes {apis}, worker processes {workers}", "tasks/s", rates,
                   ("least", WANTED) if best else None)
        )  # fmt: skip
    with copying(2, 2) as running:
        trees = [running.stack.web[0].pid, running.stack.workers[0].pid, running.stack.sweepers[0].pid]
        through(running, form, FLAT_TASKS // 20)
        before = memory(*trees)
        through(running, form, FLAT_TASKS)
        grown = (memory(*trees) - before) / 1e6
    report.add(Figure(f"memory grown over {FLAT_TASKS} tasks", "MB", [grown], ("most", 20)))


def copying(apis: int, workers: int) -> Any:
    """The service with a worker of `tests.bench.copying`."""
    return system(
        concurrency=workers, worker_app="tests.bench.copying",
        environment={"WEB_WORKERS": str(apis), "MAX_WAITING_TASKS": "100000", "CONVERSIONS_PER_ACCOUNT": "off"},
    )  # fmt: skip


def through(running: System, form: bytes, tasks: int) -> float:
    """Return tasks a second from the first upload to the last PROCESSED."""
    from concurrent.futures import ThreadPoolExecutor

    people = [Person(running.url).log_in() for _ in range(4)]
    last, began = running.last, time.time()

    def upload(person: Person) -> None:
        for _ in range(tasks // len(people)):
            answer = person.upload(form)
            assert answer.status == 200, answer.body

    with ThreadPoolExecutor(len(people)) as several:
        list(several.map(upload, people))
    wait_for(lambda: running.settled(last) == tasks, "all are done", 600, 0.05)
    ((finished,),) = running.rows("SELECT extract(epoch FROM max(finished_at))::float FROM tasks")
    return tasks / float(finished - began)
