"""Limits and quotas: what is refused, when it is told to come back, and what is never counted."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from flaskr.db import db, from_now
from flaskr.limits import Limit, Limits, QuotaExceeded, network
from flaskr.models import Task
from tests import services
from tests.api.conftest import PASSWORD, Hand, Person, person
from worker.contract.logs import set_up_logs


def log_in(app: Flask, email: str, password: str = PASSWORD, address: str = "192.0.2.1") -> TestResponse:
    body = {"email": email, "password": password}
    return app.test_client().post("/api/auth/login", json=body, environ_base={"REMOTE_ADDR": address})


def refused(answer: TestResponse, quota: str) -> bool:
    """Whether it is a 429 that says which limit, when to come back, and a sentence."""
    if answer.status_code != 429:
        return False
    body = answer.get_json()
    assert body["quota"] == quota
    assert body["error"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    return True


def test_failed_log_ins_of_an_account_are_limited(make_app: Callable[..., Flask]) -> None:
    """After so many wrong passwords an account takes no log-in, from any address; others and unknown ones are alike."""
    app = make_app(login_failures_per_account="3 per hour")
    ana, ben = person(app, "ana"), person(app, "ben")
    for email in (ana.email, "nobody@example.com"):
        for number in range(3):
            assert log_in(app, email, "Otra-cosa-9", f"192.0.2.{number}").status_code == 401
        assert refused(log_in(app, email, "Otra-cosa-9"), "log-in-account")
        assert refused(log_in(app, email.upper()), "log-in-account")  # the right password too: it may be guessed
    assert log_in(app, ben.email).status_code == 200
    assert ana.call("GET", "/api/tasks").status_code == 200  # who is in stays in


def test_failed_log_ins_from_an_address_are_limited(make_app: Callable[..., Flask]) -> None:
    """One address that tries account after account is stopped, on every instance; other addresses are not."""
    app = make_app(login_failures_per_address="3 per hour")
    other = make_app(login_failures_per_address="3 per hour")
    ana = person(app)
    for number in range(3):
        assert log_in(app, f"guess{number}@example.com").status_code == 401
    assert refused(log_in(other, "guess9@example.com"), "log-in-address")
    assert log_in(other, ana.email, address="192.0.2.2").status_code == 200


def test_log_ins_that_succeed_are_not_counted(make_app: Callable[..., Flask]) -> None:
    """People behind one address log in as often as they like."""
    app = make_app(login_failures_per_account="2 per hour", login_failures_per_address="2 per hour")
    ana = person(app)
    for _ in range(5):
        assert log_in(app, ana.email).status_code == 200


def test_sign_ups_from_an_address_are_limited(make_app: Callable[..., Flask]) -> None:
    """So many sign-ups, then 429; IPv6 addresses of one customer count as one."""
    app = make_app(sign_ups_per_address="2 per hour")
    answers = []
    for number in range(3):
        body = {"user": f"u{number}", "email": f"u{number}@example.com", "password1": PASSWORD, "password2": PASSWORD}
        environ = {"REMOTE_ADDR": f"2001:db8::{number}"}
        answers.append(app.test_client().post("/api/auth/signup", json=body, environ_base=environ))
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert refused(answers[2], "sign-up-address")


def test_addresses_count_as_their_networks() -> None:
    """An IPv4 address is itself, however written; of an IPv6 address the first 64 bits count."""
    assert network("192.0.2.7") == network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("2001:db8:0:1::7") == network("2001:db8:0:1:ffff::") != network("2001:db8:0:2::7")
    assert network("") == ""
    assert network("unix:") == "unix:"


class Unread:
    """A body of which nothing may be read."""

    def read(self, *_: Any) -> bytes:
        raise AssertionError("The body was read.")

    readline = readinto = read


def test_conversions_of_an_account_are_limited_before_their_bytes_are_read(
    make_app: Callable[..., Flask], hand: Hand
) -> None:
    """Uploads and changes together: beyond the rate 429, and not a byte of the body is taken."""
    app = make_app(conversions_per_account="2 per minute")
    ana, ben = person(app, "ana"), person(app, "ben")
    task = ana.upload().get_json()["task"]["id"]
    assert ana.call("PUT", f"/api/tasks/{task}", json={"newFormat": "wav"}).status_code == 200
    answer = ana.call(
        "POST", "/api/tasks", content_type="multipart/form-data; boundary=x", environ_overrides={
            "wsgi.input": Unread(), "CONTENT_LENGTH": "1000000000"},
    )  # fmt: skip
    assert refused(answer, "conversions")
    assert refused(ana.call("PUT", f"/api/tasks/{task}", json={"newFormat": "mp3"}), "conversions")
    assert ana.task(task)["attempt"] == 2
    assert ben.upload().status_code == 200


def test_waiting_tasks_of_an_account_are_limited(make_app: Callable[..., Flask], hand: Hand) -> None:
    """So many wait and no more; when one is done there is room at once."""
    app = make_app(max_waiting_tasks=2)
    ana, ben = person(app, "ana"), person(app, "ben")
    assert [ana.upload().status_code for _ in range(2)] == [200, 200]
    assert refused(ana.upload(), "waiting")
    assert ben.upload().status_code == 200
    assert hand.report(hand.jobs()[0]).status_code == 200
    assert ana.upload().status_code == 200
    assert refused(ana.upload(), "waiting")


def test_stored_bytes_of_an_account_are_limited(make_app: Callable[..., Flask], hand: Hand) -> None:
    """Originals and results count, each as large as it is; removing a task makes room at once."""
    app = make_app(max_stored_bytes=1000)
    ana = person(app)
    first = ana.upload(data=b"x" * 600).get_json()["task"]["id"]
    assert refused(ana.upload(data=b"x" * 401), "bytes")
    assert ana.upload(data=b"x" * 100).status_code == 200
    result = {"codec": "vorbis", "crc32c": "00000001", "bytes": 250}
    assert hand.report(hand.jobs()[0], result=result).status_code == 200
    assert refused(make_same(make_app, ana).upload(data=b"x" * 100), "bytes")
    assert ana.call("DELETE", f"/api/tasks/{first}").status_code == 200
    assert ana.upload(data=b"x" * 900).status_code == 200
    assert refused(ana.upload(data=b"x"), "bytes")


def make_same(make_app: Callable[..., Flask], who: Person) -> Person:
    """The same person on another instance."""
    return Person(make_app(max_stored_bytes=1000).test_client(), who.email, who.token, who.refresh_token)


@pytest.mark.parametrize("size", ["5", -1, 1.5, True, 2**70])
def test_a_result_of_no_size_is_refused(ana: Person, hand: Hand, size: Any) -> None:
    """What is added up must be a number: a report that says otherwise gets 400 and changes nothing."""
    task = ana.upload().get_json()["task"]["id"]
    assert hand.report(hand.job(), result={"bytes": size}).status_code == 400
    assert ana.task(task)["state"] == "UPLOADED"


def test_without_redis_each_process_counts_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Redis away: people still log in, a guesser is still stopped, and Redis is not asked anew for each request."""
    set_up_logs("web")
    limits = Limits("unix:///nowhere/redis.sock")
    limit = Limit("x", "2 per hour", "Too much.")
    for _ in range(2):
        limits.count(limit, "ana")
    limits.check(limit, "ben")
    for _ in range(3):
        with pytest.raises(QuotaExceeded) as caught:
            limits.check(limit, "ana")
        assert 60 < caught.value.seconds <= 3600
    assert capsys.readouterr().err.count("limits.alone") == 1


def test_nothing_readable_is_left_in_redis(app: Flask, redis_server: services.Redis) -> None:
    """Neither e-mails nor addresses are in the keys, and every key goes by itself."""
    log_in(app, "carla@example.com")
    keys = list(redis_server.client.keys("swnube:limit*"))
    assert keys
    for key in keys:
        text = key if isinstance(key, str) else key.decode()
        assert "carla" not in text
        assert "192.0.2.1" not in text
        assert 0 < redis_server.client.ttl(key) <= 3600


def test_old_tasks_expire_with_their_objects(make_app: Callable[..., Flask], hand: Hand) -> None:
    """What ended longer ago than KEEP_TASK_SECONDS goes, row and objects; what waits or is younger stays."""
    app = make_app(keep_task_seconds=3600)
    ana = person(app)
    old, young, waiting = (ana.upload().get_json()["task"]["id"] for _ in range(3))
    jobs = hand.jobs()
    for job in jobs[:2]:
        assert hand.report(job).status_code == 200
    assert ana.task(waiting)["expiresAt"] is None
    assert ana.task(old)["expiresAt"] > ana.task(old)["finishedAt"]
    with app.app_context():
        db.session.execute(update(Task).where(Task.id == old).values(finished_at=from_now(-3601)))
        db.session.commit()
        conversions = app.extensions["conversions"]
        assert conversions.sweep()["expired"] == 1
        assert conversions.sweep()["expired"] == 0
        assert set(db.session.scalars(select(Task.id))) == {young, waiting}
        store = app.extensions["store"]
        assert list(store.list(f"{old}/")) == []
        assert len(list(store.list(f"{young}/"))) == 1
        db.session.rollback()
    assert ana.call("GET", f"/api/tasks/{old}").status_code == 404
    forever = make_app()
    with forever.app_context():
        db.session.execute(update(Task).where(Task.id == young).values(finished_at=from_now(-(10**9))))
        db.session.commit()
        assert forever.extensions["conversions"].sweep()["expired"] == 0
