"""Asking cheaply whether anything has changed."""

from collections.abc import Callable
from typing import Any

import time_machine
from flask import Flask

from tests.api.conftest import Hand, Person
from worker.contract.queue import Progress
from worker.contract.settings import Addresses


def test_every_change_that_is_shown_changes_the_word(app: Flask, ana: Person, ben: Person, hand: Hand) -> None:
    """Upload, claim, report, another conversion, DELETE each give another word; renewals, progress and others' do not."""
    begun = ana.call("POST", "/api/tasks/watch").get_json()
    anybody = app.test_client()
    words = [begun["version"]]

    def word() -> str:
        return str(anybody.get(begun["url"]).get_json()["version"])

    def moves(act: Callable[[], Any]) -> None:
        assert word() == words[-1]
        act()
        assert word() not in words
        words.append(word())

    moves(ana.upload)
    job = hand.job()
    ben.upload()
    hand.jobs()
    moves(lambda: hand.claim(job))
    hand.claim(job)
    app.extensions["queue"].write_progress(job["task"], Progress(1, "converting", 50.0))
    moves(lambda: hand.report(job))
    moves(lambda: ana.call("PUT", f"/api/tasks/{job['task']}", json={"newFormat": "flac"}))
    moves(lambda: ana.call("DELETE", f"/api/tasks/{job['task']}"))


def test_an_unchanged_word_is_a_304(app: Flask, ana: Person) -> None:
    """With the ETag of the last answer there is no body until something changes."""
    url = ana.call("POST", "/api/tasks/watch").get_json()["url"]
    first = app.test_client().get(url)
    same = app.test_client().get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    ana.upload()
    assert app.test_client().get(url, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_an_address_for_watching_opens_nothing_else(app: Flask, ana: Person) -> None:
    """It is no token, no link and no other account's; it ends with its time."""
    url = ana.call("POST", "/api/tasks/watch").get_json()["url"]
    secret = url.rpartition("/")[2]
    client = app.test_client()
    assert client.get(f"/api/links/{secret}").status_code == 401
    assert client.get("/api/tasks", headers={"Authorization": f"Bearer {secret}"}).status_code == 401
    assert client.get(f"/api/watch/x{secret}").status_code == 401
    archive = ana.call("POST", "/api/tasks/archive", json={}).get_json()["url"].rpartition("/")[2]
    assert client.get(f"/api/watch/{archive}").status_code == 401
    with time_machine.travel(3600 * 24 * 365):
        assert client.get(url).status_code == 401


def test_without_the_broker_nobody_can_tell(make_app: Callable[..., Flask], ana: Person, app: Flask) -> None:
    """503 while Redis is away, never a wrong "nothing changed"; the list still answers."""
    url = ana.call("POST", "/api/tasks/watch").get_json()["url"]
    folder = app.extensions["store"]._objects.parent
    cut_off = make_app(addresses=Addresses("redis://127.0.0.1:1/0", f"file://{folder}"))
    assert cut_off.test_client().get(url).status_code == 503
    away = Person(cut_off.test_client(), ana.email, ana.token, ana.refresh_token)
    assert away.call("POST", "/api/tasks/watch").status_code == 503
    assert away.call("GET", "/api/tasks").status_code == 200
