"""Two calls for one task at the same moment, interleaved exactly where it hurts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from flask import Flask

from flaskr.accounts import Caller
from flaskr.db import db
from flaskr.models import State, Task
from tests.api.conftest import Hand, Person, ana, app, database_url, hand, make_app, postgres_template
from tests.api.test_tasks import age, objects, put_result, sweep
from worker.contract.settings import Addresses

__all__ = ["ana", "app", "database_url", "hand", "make_app", "postgres_template"]  # fixtures


class Between:
    """A store that lets something happen right before or after one of its calls."""

    def __init__(self, store: Any, method: str, act: Callable[[], None]) -> None:
        self._store = store
        self._method = method
        self._act: Callable[[], None] | None = act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name == self._method and self._act is not None:
            act, self._act = self._act, None
            act()
        return found


def test_tidying_spares_the_result_of_an_attempt_issued_meanwhile(app: Flask, ana: Person, hand: Hand) -> None:
    """A sweeper that took up a task before a PUT, and lists its prefix after the new result is there, leaves that."""
    task_id = ana.upload("song.mp3", "ogg").get_json()["task"]["id"]
    first = hand.job()
    hand.claim(first)
    put_result(app, first)
    hand.report(first)
    ana.call("PUT", f"/api/tasks/{task_id}", json={"newFormat": "flac"})
    second = hand.job()
    age(app, task_id, tidy_at=-1)

    def meanwhile() -> None:
        ana.call("PUT", f"/api/tasks/{task_id}", json={"newFormat": "mp3"})
        job = hand.job()
        hand.claim(job)
        put_result(app, job)
        assert hand.report(job).status_code == 200

    conversions = app.extensions["conversions"]
    conversions._store = Between(conversions._store, "list", meanwhile)
    sweep(app)
    assert second["attempt"] == 2
    assert ana.task(task_id)["state"] == "PROCESSED"
    assert ana.call("GET", f"/api/tasks/{task_id}/converted").status_code == 200


def test_a_failed_task_keeps_no_result(app: Flask, ana: Person, hand: Hand) -> None:
    """A result that reached the store although its worker reported a failure is removed."""
    task_id = ana.upload("song.mp3", "ogg").get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    put_result(app, job)
    hand.fail(job, "store_unavailable")
    age(app, task_id, tidy_at=-1)
    sweep(app)
    assert objects(app, task_id) == [f"{task_id}/song.mp3"]


def test_rows_stay_as_they_were_read(app: Flask, ana: Person) -> None:
    """A task that was read is whole in memory: it needs no transaction, and its removal meanwhile does no harm."""
    task_id = ana.upload().get_json()["task"]["id"]
    conversions = app.extensions["conversions"]
    with app.app_context():
        user_id = db.session.scalar(sqlalchemy.select(Task.user_id).where(Task.id == task_id))
        someone = Caller(id=user_id, name="ana", email=ana.email, session="s")
        db.session.rollback()
        task = conversions.get(someone, task_id)
        assert ana.call("DELETE", f"/api/tasks/{task_id}").status_code == 200
        assert task.state is State.UPLOADED
        assert not db.session().in_transaction()
        db.session.remove()


def test_redis_away_for_long_is_no_message_lost(
    app: Flask, make_app: Callable[..., Flask], tmp_path: Path, ana: Person
) -> None:
    """However often the sweeper finds Redis away, the task is not counted as announced in vain, and is sent after."""
    task_id = ana.upload().get_json()["task"]["id"]
    cut_off = make_app(addresses=Addresses("unix:///nowhere/redis.sock", f"file://{tmp_path}/store"))
    with app.app_context():
        db.session.execute(sqlalchemy.update(Task).values(sent_at=None, sends=0))
        db.session.commit()
    for _ in range(15):
        sweep(cut_off)
    with app.app_context():
        assert db.session.execute(sqlalchemy.select(Task.sends, Task.sent_at)).one() == (0, None)
        db.session.remove()
    assert sweep(app)["message_unsent"] == 1
    assert ana.task(task_id)["state"] == "UPLOADED"
