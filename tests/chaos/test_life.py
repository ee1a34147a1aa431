"""The life of tasks under every call in any order, late and repeated, several side by side, on PostgreSQL.

Hypothesis makes up the calls. The test plays clients and workers; API, sweeper, database, queue and store are real.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, text, update

from flaskr.db import db, from_now
from flaskr.models import State, Task
from tests import services
from tests.api.conftest import Hand, Person, app, make_app, person, postgres_template
from tests.api.test_tasks import objects, sweep
from worker.contract.job import waveform_route
from worker.contract.store import RouteTaken

__all__ = ["app", "make_app", "postgres_template"]  # fixtures

FORMATS = ("ogg", "mp3", "flac", "wav")
WORKERS = ("w1", "w2", "w3")
# Once per outcome that the database ever held, whoever wrote it.
WATCH = """
    CREATE TABLE outcomes (task bigint, attempt int);
    CREATE FUNCTION note_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO outcomes VALUES (NEW.id, NEW.attempt); RETURN NEW; END $$;
    CREATE TRIGGER outcome AFTER UPDATE ON tasks FOR EACH ROW WHEN (NEW.state IN ('PROCESSED', 'FAILED')
        AND (OLD.finished_at, OLD.state, OLD.result::text) IS DISTINCT FROM (NEW.finished_at, NEW.state, NEW.result::text))
        EXECUTE FUNCTION note_outcome();
"""


@pytest.fixture
def database_url(postgres_server: services.Postgres, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database of PostgreSQL."""
    with postgres_server.database(postgres_template) as url:
        yield url.replace("postgresql://", "postgresql+psycopg2://")


@dataclass(eq=False)
class Claimed:
    """A worker at work: what it claimed, whether its result is in the store, and what it reports, maybe repeatedly."""

    job: dict[str, Any]
    worker: str
    stored: bool = False
    outcome: str = ""
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)


def content(job: dict[str, Any]) -> bytes:
    """What a worker makes of a job: other bytes for each."""
    return f"{job['task']} {job['attempt']} {job['format']}".encode()


class Life(RuleBasedStateMachine):
    """One person's tasks, and the workers that take them up."""

    app: Flask
    redis: Any
    count = 0

    def __init__(self) -> None:
        super().__init__()
        Life.count += 1
        self.redis.flushdb()
        self.person = person(self.app, f"someone{Life.count}")
        self.lock = threading.Lock()
        self.tasks: list[int] = []
        self.removed: set[int] = set()
        self.jobs: list[dict[str, Any]] = []
        self.claims: list[Claimed] = []
        self.claimants: dict[tuple[int, int], set[str]] = defaultdict(set)
        self.attempts: dict[int, int] = {}
        self.wishes: dict[int, set[str]] = {}
        self.answers: list[tuple[str, int]] = []

    # -- what people, workers, sweepers and bad luck do ---------------------------------------------------------------

    def submit(self, number: int) -> None:
        answer = self._person().upload(name=f"{number}.mp3", target=FORMATS[number % 4])
        self._answered("submit", answer.status_code, 200)
        with self.lock:
            self.tasks.append(answer.get_json()["task"]["id"])

    def put(self, number: int) -> None:
        if task_id := self._task(number):
            wish = FORMATS[number % 4]
            answer = self._person().call("PUT", f"/api/tasks/{task_id}", json={"newFormat": wish})
            self._answered("put", answer.status_code, 200, 404)
            if answer.status_code == 200:
                with self.lock:
                    self.wishes.setdefault(task_id, set()).add(wish)

    def delete(self, number: int) -> None:
        if task_id := self._task(number):
            answer = self._person().call("DELETE", f"/api/tasks/{task_id}")
            self._answered("delete", answer.status_code, 200, 404)
            if answer.status_code == 200:
                with self.lock:
                    assert task_id not in self.removed, "removed twice"
                    self.removed.add(task_id)

    def claim(self, number: int) -> None:
        if self.jobs:
            job, worker = self.jobs[number % len(self.jobs)], WORKERS[number % 3]
            status = self._hand().claim(job, worker).status_code
            self._answered("claim", status, 200, 404, 409)
            if status == 200:
                with self.lock:
                    self.claimants[job["task"], job["attempt"]].add(worker)
                    if not any(claimed.job is job and claimed.worker == worker for claimed in self.claims):
                        self.claims.append(Claimed(job, worker))

    def store(self, number: int) -> None:
        if claimed := self._claimed(number):
            with claimed.one_at_a_time:
                if not claimed.outcome:
                    self._store(claimed)

    def report(self, number: int) -> None:
        if claimed := self._claimed(number):
            self._report(claimed, "done")

    def fail(self, number: int) -> None:
        if claimed := self._claimed(number):
            self._report(claimed, "failed")

    def release(self, number: int) -> None:
        if claimed := self._claimed(number):
            status = self._hand().release(claimed.job, claimed.worker).status_code
            self._answered("release", status, 200, 404, 409)

    def sweep(self, number: int) -> None:
        sweep(self.app)

    def lease_ends(self, number: int) -> None:
        self._change(self._task(number), Task.state == State.PROCESSING, lease_until=from_now(-1))

    def message_lost(self, number: int) -> None:
        self.redis.delete("conversions")
        self._change(self._task(number), Task.state == State.UPLOADED, sent_at=from_now(-3600))

    def time_to_tidy(self, number: int) -> None:
        self._change(self._task(number), Task.tidy_at.is_not(None), tidy_at=from_now(-1))

    @rule(
        calls=st.lists(
            st.tuples(
                st.sampled_from(
                    [submit, put, delete, claim, claim, store, report, report, fail, release, sweep, lease_ends,
                     message_lost, time_to_tidy]
                ),
                st.integers(0, 11),
            ),
            min_size=1, max_size=4,
        )
    )  # fmt: skip
    def together(self, calls: list[tuple[Callable[["Life", int], None], int]]) -> None:
        """Some calls at the same moment. Messages that are on the queue after them are delivered, and never forgotten."""
        wishes, self.wishes = self.wishes, {}
        start = threading.Barrier(len(calls))

        def run(call: tuple[Callable[["Life", int], None], int]) -> None:
            start.wait()
            call[0](self, call[1])

        with ThreadPoolExecutor(len(calls)) as side_by_side:
            list(side_by_side.map(run, calls))
        self.wishes = wishes | self.wishes
        self.jobs += self._hand().jobs()

    # -- what must be so at any time ----------------------------------------------------------------------------------

    @invariant()
    def nothing_is_doubled_or_lost(self) -> None:
        """One outcome and one worker for each attempt; attempts only go up; what is PROCESSED can be fetched."""
        for attempt, workers in self.claimants.items():
            assert len(workers) == 1, f"two workers hold {attempt}"
        with self.app.app_context():
            doubled = db.session.execute(text("SELECT task, attempt FROM outcomes GROUP BY 1, 2 HAVING count(*) > 1"))
            assert list(doubled) == []
            rows = {task.id: task for task in db.session.scalars(select(Task).where(Task.id.in_(self.tasks)))}
            db.session.remove()
        shown = {task_id for task_id, task in rows.items() if task.state is not State.REMOVED}
        assert shown == set(self.tasks) - self.removed
        there = self._objects()
        for task_id in shown:
            task = rows[task_id]
            assert task.attempt >= self.attempts.get(task_id, 1)
            self.attempts[task_id] = task.attempt
            assert task.original_route in there
            if task.state is State.PROCESSED:
                assert task.converted_route in there
            if wishes := self.wishes.get(task_id):
                assert task.format in wishes, "the newest wish wins"

    def teardown(self) -> None:
        """Time passes, sweepers sweep, one sound worker works: everything comes to its end, and nothing else stays."""
        for claimed in self.claims:
            if claimed.stored and not claimed.outcome:
                self._report(claimed, "done")  # the slowest of zombies
        for _ in range(30):
            for task_id in self.tasks:
                self._change(task_id, Task.state == State.PROCESSING, lease_until=from_now(-1))
                self._change(task_id, Task.state == State.UPLOADED, sent_at=from_now(-3600))
                self._change(task_id, Task.tidy_at.is_not(None), tidy_at=from_now(-1))
            sweep(self.app)
            for job in self._hand().jobs():
                if self._hand().claim(job, "sound").status_code == 200:
                    self._report(Claimed(job, "sound"), "done")
            with self.app.app_context():
                rows = {task.id: task for task in db.session.scalars(select(Task).where(Task.id.in_(self.tasks)))}
                db.session.remove()
            if all(task.state in (State.PROCESSED, State.FAILED) and task.tidy_at is None for task in rows.values()):
                break
        else:
            pytest.fail(f"stuck: {[(task.id, task.state, task.tidy_at) for task in rows.values()]}")
        self.nothing_is_doubled_or_lost()
        assert set(rows) == set(self.tasks) - self.removed
        named = {route for task in rows.values() for route in task.objects()}
        drawn = {waveform_route(task.id, task.attempt) for task in rows.values()}  # by none of these workers
        assert self._objects() == named - drawn
        for task in rows.values():
            if task.state is State.PROCESSED:
                fetched = self.person.call("GET", f"/api/tasks/{task.id}/converted")
                assert fetched.data == f"{task.id} {task.attempt} {task.format}".encode()

    # -- hands --------------------------------------------------------------------------------------------------------

    def _person(self) -> Person:
        return Person(self.app.test_client(), self.person.email, self.person.token, "")

    def _hand(self) -> Hand:
        return Hand(self.app.test_client(), self.redis)

    def _task(self, number: int) -> int | None:
        return self.tasks[number % len(self.tasks)] if self.tasks else None

    def _claimed(self, number: int) -> Claimed | None:
        return self.claims[number % len(self.claims)] if self.claims else None

    def _store(self, claimed: Claimed) -> None:
        if claimed.stored:
            return
        store = self.app.extensions["store"]
        with store.spool() as file:
            file.write(content(claimed.job))
            try:
                store.put(claimed.job["target"], file)
            except RouteTaken:
                pytest.fail("two workers wrote to one route")
        claimed.stored = True

    def _report(self, claimed: Claimed, outcome: str) -> None:
        """As a worker does: the result first, the same report whenever it is repeated, and away with what is refused."""
        with claimed.one_at_a_time:
            claimed.outcome = claimed.outcome or outcome
            if claimed.outcome == "done":
                self._store(claimed)
            hand = self._hand()
            answer = hand.report(claimed.job) if claimed.outcome == "done" else hand.fail(claimed.job)
            self._answered("report", answer.status_code, 200, 404, 409)
            if answer.status_code != 200 and claimed.stored:
                self.app.extensions["store"].remove(claimed.job["target"])

    def _change(self, task_id: int | None, *where: Any, **values: Any) -> None:
        with self.app.app_context():
            db.session.execute(update(Task).where(Task.id == task_id, *where).values(**values))
            db.session.commit()
            db.session.remove()

    def _objects(self) -> set[str]:
        return {route for task_id in self.tasks for route in objects(self.app, task_id)}

    def _answered(self, call: str, status: int, *expected: int) -> None:
        assert status in expected, f"{call} was answered {status}"


def live(app: Flask, redis: services.Redis, examples: int, steps: int) -> None:
    with app.app_context():
        db.session.execute(text(WATCH))
        db.session.commit()
        db.session.remove()
    world = type("World", (Life,), {"app": app, "redis": redis.client})
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        ),
    )


def test_any_calls_in_any_order(app: Flask, redis_server: services.Redis) -> None:
    """A few hundred made-up calls, the same ones each time."""
    live(app, redis_server, examples=20, steps=25)


@pytest.mark.slow
def test_many_calls_in_any_order(app: Flask, redis_server: services.Redis) -> None:
    """Some ten thousand."""
    live(app, redis_server, examples=400, steps=40)
