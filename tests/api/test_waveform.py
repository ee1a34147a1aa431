"""The waveform over HTTP, the test playing the worker."""

from typing import Any

from flask import Flask

from tests.api.conftest import Hand, Person
from tests.api.test_tasks import age, objects, put_result, sweep
from worker.contract.job import waveform_route

PICTURE = b'{"version":1,"full":32768,"peaks":[1,2,3]}'
STAT = {"bytes": len(PICTURE), "crc32c": "0badcafe"}


def put_waveform(app: Flask, job: dict[str, Any]) -> str:
    route = waveform_route(job["task"], job["attempt"])
    put_result(app, {"target": route}, PICTURE)
    return route


def converted(app: Flask, ana: Person, hand: Hand, **report: Any) -> int:
    task_id: int = ana.upload().get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    put_result(app, job)
    put_waveform(app, job)
    assert hand.report(job, **report).status_code == 200
    return task_id


def test_the_owner_reads_it_once_it_is_there(app: Flask, ana: Person, ben: Person, hand: Hand) -> None:
    """409 until it is converted, then the picture with an ETag that answers 304; nobody else's business."""
    task_id = ana.upload().get_json()["task"]["id"]
    path = f"/api/tasks/{task_id}/waveform"
    assert ana.call("GET", path).status_code == 409
    assert ana.task(task_id)["waveform"] is False
    job = hand.job()
    hand.claim(job)
    put_result(app, job)
    put_waveform(app, job)
    hand.report(job, waveform=STAT)
    assert ana.task(task_id)["waveform"] is True
    answer = ana.call("GET", path)
    assert (answer.status_code, answer.data, answer.mimetype) == (200, PICTURE, "application/json")
    again = ana.call("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert ben.call("GET", path).status_code == 404
    assert ben.client.get(path).status_code == 401


def test_a_report_without_one_is_as_welcome(app: Flask, ana: Person, hand: Hand) -> None:
    """A worker of an earlier release says nothing of a waveform: the task is converted and has none."""
    task_id = converted(app, ana, hand)
    task = ana.task(task_id)
    assert (task["state"], task["waveform"]) == ("PROCESSED", False)
    answer = ana.call("GET", f"/api/tasks/{task_id}/waveform")
    assert (answer.status_code, answer.get_json()["error"]) == (404, "This task has no waveform.")


def test_a_report_with_a_senseless_one_is_refused(ana: Person, hand: Hand) -> None:
    """What is no checksum is not recorded."""
    ana.upload()
    job = hand.job()
    hand.claim(job)
    for wrong in ({"bytes": 1}, {"bytes": 1, "crc32c": "../../x"}, "yes"):
        assert hand.report(job, waveform=wrong).status_code == 400


def test_it_goes_with_its_attempt(app: Flask, ana: Person, hand: Hand) -> None:
    """Converted again, the former waveform is removed and the new one shown; the sweeper leaves the current one alone."""
    task_id = converted(app, ana, hand, waveform=STAT)
    first = waveform_route(task_id, 1)
    assert first in objects(app, task_id)
    age(app, task_id, tidy_at=-1)
    sweep(app)
    assert first in objects(app, task_id)
    ana.call("PUT", f"/api/tasks/{task_id}", json={"newFormat": "flac"})
    assert first not in objects(app, task_id)
    assert ana.call("GET", f"/api/tasks/{task_id}/waveform").status_code == 409
    job = hand.job()
    hand.claim(job)
    put_result(app, job)
    second = put_waveform(app, job)
    put_waveform(app, {"task": task_id, "attempt": 1})  # left by a worker that came too late and died
    age(app, task_id, tidy_at=-1)
    sweep(app)
    assert second in objects(app, task_id)
    assert first not in objects(app, task_id)
    hand.report(job, waveform=STAT)
    assert ana.task(task_id)["waveform"] is True


def test_a_failed_task_keeps_none(app: Flask, ana: Person, hand: Hand) -> None:
    """When an attempt fails after it stored its waveform, the sweeper removes that, and DELETE removes all."""
    task_id = ana.upload().get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    route = put_waveform(app, job)
    hand.fail(job)
    age(app, task_id, tidy_at=-1)
    sweep(app)
    assert route not in objects(app, task_id)
    done = converted(app, ana, hand, waveform=STAT)
    assert ana.call("DELETE", f"/api/tasks/{done}").status_code == 200
    assert objects(app, done) == []
