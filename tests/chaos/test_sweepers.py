"""What sweepers do to many tasks, and many sweepers to the same: on PostgreSQL, with real transactions side by side."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text, update

from flaskr.db import db, from_now
from flaskr.models import State, Task
from tests import services
from tests.api.conftest import Hand, Person, ana, app, hand, make_app, postgres_template
from tests.api.test_tasks import objects, put_result, sweep

__all__ = ["ana", "app", "hand", "make_app", "postgres_template"]  # fixtures

BACKLOG = 10_000


@pytest.fixture
def database_url(postgres_server: services.Postgres, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database of PostgreSQL."""
    with postgres_server.database(postgres_template) as url:
        yield url.replace("postgresql://", "postgresql+psycopg2://")


def change(app: Flask, *where: Any, **values: Any) -> None:
    with app.app_context():
        db.session.execute(update(Task).where(*where).values(**values))
        db.session.commit()


def sends(app: Flask) -> Counter[int]:
    """How many tasks were announced how many times."""
    with app.app_context():
        found = Counter(dict(db.session.execute(select(Task.sends, func.count()).group_by(Task.sends)).all()))
        db.session.remove()
    return found


def test_a_backlog_is_not_announced_again(app: Flask, ana: Person, redis_server: services.Redis) -> None:
    """10,000 tasks wait for hours: not one message more. One of them is lost: exactly one more, and for that one."""
    first = ana.upload().get_json()["task"]["id"]
    redis = redis_server.client
    (message,) = redis.lrange("conversions", 0, -1)
    with app.app_context():
        columns = [c.name for c in Task.__table__.columns if c.name != "id"]
        copy = text(
            f"INSERT INTO tasks ({', '.join(columns)}) SELECT {', '.join(columns)} FROM tasks, "  # noqa: S608
            f"generate_series(2, {BACKLOG}) WHERE id = :first"
        )
        db.session.execute(copy, {"first": first})
        # An hour of uploads, the last one an hour ago.
        db.session.execute(update(Task).values(sent_at=from_now(-7200) + (Task.id - first) * text("interval '0.36 s'")))
        db.session.commit()
    redis.lpush("conversions", *[message] * (BACKLOG - 1))
    for _ in range(5):
        sweep(app)
    assert redis.llen("conversions") == BACKLOG
    assert sends(app) == Counter({1: BACKLOG})
    # Workers took up the first hundred in their order, but for the tenth, whose message got lost.
    lost = first + 9
    for _ in range(100):
        redis.rpop("conversions")
    taken = Task.id.between(first, first + 99), Task.id != lost
    change(app, *taken, state=State.PROCESSED, started_at=from_now(-60), finished_at=from_now(-50))
    for _ in range(5):
        sweep(app)
    assert redis.llen("conversions") == BACKLOG - 100 + 1
    assert sends(app) == Counter({1: BACKLOG - 1, 2: 1})
    job = json.loads(base64.b64decode(json.loads(redis.lindex("conversions", 0))["body"]))[0][0]
    assert job["task"] == lost


@pytest.mark.parametrize("number", [1, 2, 10])
def test_any_number_of_sweepers_does_the_same(
    app: Flask, make_app: Callable[..., Flask], ana: Person, hand: Hand, tmp_path: Path, number: int
) -> None:
    """Tasks in every kind of trouble are put right once, however many sweepers find them at the same moment."""
    each = 6
    tasks = [ana.upload(name=f"{n}.mp3").get_json()["task"]["id"] for n in range(5 * each)]
    unsent, silent, tired, late, given_up = (tasks[n * each : (n + 1) * each] for n in range(5))
    for job in hand.jobs():
        if job["task"] in silent + tired:
            assert hand.claim(job).status_code == 200
        if job["task"] in late:
            hand.claim(job)
            put_result(app, job)
            hand.fail(job)
    change(app, Task.id.in_(unsent), sent_at=None, sends=0)
    change(app, Task.id.in_(silent + tired), lease_until=from_now(-1))
    change(app, Task.id.in_(tired), tries=3)
    change(app, Task.id.in_(late), tidy_at=from_now(-1))
    change(app, Task.id.in_(given_up), state=State.RECEIVING, created_at=from_now(-100_000))
    apps = [make_app() for _ in range(number)]
    start = threading.Barrier(number)

    def run(one: Flask) -> dict[str, int]:
        start.wait()
        return sweep(one)

    with ThreadPoolExecutor(number) as side_by_side:
        found = Counter[str]()
        for counts in side_by_side.map(run, apps):
            found.update(counts)
    once = {"upload_given_up": each, "lease_expired": 2 * each, "message_unsent": each, "message_lost": 0}
    assert {kind: found[kind] for kind in once} == once
    jobs = sorted((job["task"], job["attempt"]) for job in hand.jobs())
    assert jobs == sorted([(t, 1) for t in unsent] + [(t, 2) for t in silent]), "one message each"
    assert [ana.task(t)["state"] for t in tired] == ["FAILED"] * each
    assert [len(objects(app, t)) for t in late] == [1] * each, "the late results are gone, the originals are not"
    assert [objects(app, t) for t in given_up] == [[]] * each
