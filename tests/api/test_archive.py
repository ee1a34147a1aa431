"""Many files as one zip, and addresses that need no token."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from flask import Flask
from werkzeug.test import TestResponse

from flaskr.conversions import Conversions
from tests.api.conftest import Hand, Person, person
from tests.api.test_tasks import put_result
from worker.contract.store import FolderStore


def converted(app: Flask, ana: Person, hand: Hand, name: str, data: bytes = b"converted") -> int:
    task_id: int = ana.upload(name).get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    put_result(app, job, data)
    assert hand.report(job).status_code == 200
    return task_id


def members(answer: TestResponse) -> dict[str, bytes]:
    assert (answer.status_code, answer.mimetype) == (200, "application/zip"), answer.text
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_all_conversions_come_in_one_zip(app: Flask, ana: Person, ben: Person, hand: Hand) -> None:
    """Every converted file of the caller under its own name, duplicates numbered; nobody else's, none that has no result."""
    first = converted(app, ana, hand, "canción 🎵.mp3", b"one")
    converted(app, ana, hand, "SONG.mp3", b"two")
    third = converted(app, ana, hand, "song.wav", b"three")
    converted(app, ana, hand, "song.flac", b"four")
    converted(app, ben, hand, "ben.mp3", b"five")
    ana.upload("waiting.mp3")
    whole = {"canción 🎵.ogg": b"one", "SONG.ogg": b"two", "song (2).ogg": b"three", "song (3).ogg": b"four"}
    assert members(ana.call("GET", "/api/tasks/archive")) == whole
    assert members(ana.call("GET", f"/api/tasks/archive?tasks={first},{third},9999")) == {
        "canción 🎵.ogg": b"one", "song.ogg": b"three"}  # fmt: skip
    assert set(members(ana.call("GET", "/api/tasks/archive?name=canci"))) == {"canción 🎵.ogg"}
    for query in ("tasks=x", "tasks=", "tasks=-1"):
        assert ana.call("GET", f"/api/tasks/archive?{query}").status_code == 400


def test_a_file_that_disappears_is_named_at_the_end(app: Flask, ana: Person, hand: Hand) -> None:
    """An object that is gone when its turn comes is left out, the others are there, and a text says which is not."""
    converted(app, ana, hand, "kept.mp3", b"kept")
    gone = converted(app, ana, hand, "gone.mp3", b"gone")
    converted(app, ana, hand, "last.mp3", b"last")
    app.extensions["store"].remove(f"{gone}/gone.ogg")
    found = members(ana.call("GET", "/api/tasks/archive"))
    assert "gone.ogg" in found.pop("NOT INCLUDED.txt").decode()
    assert found == {"kept.ogg": b"kept", "last.ogg": b"last"}


def test_an_archive_of_nothing_is_an_empty_zip(ana: Person) -> None:
    """Without conversions there is an archive without files."""
    assert members(ana.call("GET", "/api/tasks/archive")) == {}


def test_an_archive_takes_constant_memory(app: Flask, ana: Person, hand: Hand) -> None:
    """320 MB of files pass through a few megabytes."""
    store = app.extensions["store"]
    for number in range(20):
        ana.upload(f"{number}.mp3")
        job = hand.job()
        hand.claim(job)
        with store.spool() as file:
            os.truncate(file.name, 16_000_000)
            store.put(job["target"], file)
        hand.report(job)
    headers = {"Authorization": f"Bearer {ana.token}"}
    answer = ana.client.get("/api/tasks/archive", headers=headers, buffered=False)
    tracemalloc.start()
    try:
        total = sum(len(chunk) for chunk in answer.response)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        answer.close()
    assert total > 320_000_000
    assert peak < 4_000_000


def test_few_archives_are_made_at_once(app: Flask, ana: Person, hand: Hand) -> None:
    """Beyond a few the answer is 503 with Retry-After; one that is broken off makes room."""
    converted(app, ana, hand, "a.mp3", b"x" * 1_000_000)
    headers = {"Authorization": f"Bearer {ana.token}"}
    under_way = [ana.client.get("/api/tasks/archive", headers=headers, buffered=False) for _ in range(4)]
    refused = ana.call("GET", "/api/tasks/archive")
    assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
    under_way[0].close()
    assert ana.call("GET", "/api/tasks/archive").status_code == 200
    for answer in under_way[1:]:
        answer.close()


def test_a_long_archive_reads_few_rows_at_a_time(app: Flask, ana: Person, hand: Hand, monkeypatch: Any) -> None:
    """More files than one batch of rows all come, once each and in order."""
    monkeypatch.setattr("flaskr.conversions._BATCH", 2)
    for number in range(5):
        converted(app, ana, hand, f"{number}.mp3")
    assert list(members(ana.call("GET", "/api/tasks/archive"))) == [f"{number}.ogg" for number in range(5)]


def test_an_address_opens_one_file_without_a_token(app: Flask, ana: Person, ben: Person, hand: Hand) -> None:
    """A player gets the bytes, whole or by Range, from an address that its owner asked for; others cannot ask."""
    task_id = converted(app, ana, hand, "tune.mp3", b"0123456789")
    path = f"/api/tasks/{task_id}/link"
    link = ana.call("POST", path, json={}).get_json()
    assert link["expiresIn"] == 300
    anybody = app.test_client()
    answer = anybody.get(link["url"])
    assert (answer.status_code, answer.data) == (200, b"0123456789")
    assert "tune.ogg" in answer.headers["Content-Disposition"]
    part = anybody.get(link["url"], headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.data) == (206, b"234")
    original = ana.call("POST", path, json={"file": "original"}).get_json()
    assert anybody.get(original["url"]).data == b"abc" * 999
    assert ben.call("POST", path, json={}).status_code == 404
    assert ana.call("POST", path, json={"file": "../x"}).status_code == 400
    waiting = ana.upload("b.mp3").get_json()["task"]["id"]
    assert ana.call("POST", f"/api/tasks/{waiting}/link", json={}).status_code == 409


def test_an_address_dies_with_its_time_its_session_and_its_task(app: Flask, ana: Person, hand: Hand) -> None:
    """After its seconds, after a log-out or after DELETE it opens nothing; changed by a letter neither."""
    task_id = converted(app, ana, hand, "tune.mp3")
    anybody = app.test_client()

    def address() -> str:
        return str(ana.call("POST", f"/api/tasks/{task_id}/link", json={}).get_json()["url"])

    first = address()
    assert anybody.get(first[:-5] + ("a" if first[-5] != "a" else "b") + first[-4:]).status_code == 401
    assert anybody.get("/api/links/" + ana.token).status_code == 401
    with time_machine.travel(3600 * 24 * 365):
        assert anybody.get(first).status_code == 401
    other = Person(ana.client, ana.email, ana.token, ana.refresh_token)
    assert anybody.get(first).status_code == 200
    ana.call("DELETE", f"/api/tasks/{task_id}")
    assert anybody.get(first).status_code == 404
    archive = other.call("POST", "/api/tasks/archive", json={}).get_json()["url"]
    assert anybody.get(archive).status_code == 200
    ana.call("POST", "/api/auth/logout")
    answer = anybody.get(archive)
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")


def test_an_address_of_an_archive_keeps_its_selection(app: Flask, ana: Person, hand: Hand) -> None:
    """What the POST selected is what the address gives, and it is the owner's alone."""
    first = converted(app, ana, hand, "a.mp3", b"one")
    converted(app, ana, hand, "b.mp3", b"two")
    cleo = person(app, "cleo")
    for owner, body, names in (
        (ana, {"tasks": [first]}, {"a.ogg"}), (ana, {"name": "b"}, {"b.ogg"}), (ana, {}, {"a.ogg", "b.ogg"}),
        (cleo, {"tasks": [first]}, set()),
    ):  # fmt: skip
        url = owner.call("POST", "/api/tasks/archive", json=body).get_json()["url"]
        assert set(members(app.test_client().get(url))) == names


def test_a_store_that_signs_gives_its_own_address(
    app: Flask, ana: Person, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the bucket can sign, the address is the bucket's, and the bytes do not pass here."""
    task_id = converted(app, ana, hand, "tune.mp3")
    signed: Callable[..., str] = lambda _self, download: f"https://bucket.example/{download.route}?signed"  # noqa: E731
    monkeypatch.setattr(Conversions, "signed_url", signed)
    link = ana.call("POST", f"/api/tasks/{task_id}/link", json={}).get_json()
    assert link["url"] == f"https://bucket.example/{task_id}/tune.ogg?signed"


def test_players_may_take_files_from_where_the_store_signs_addresses(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's policy names the store's origin for players where there is one, and nothing but ourselves otherwise."""

    def media(app: Flask) -> str:
        policy = app.test_client().get("/").headers["Content-Security-Policy"]
        (found,) = [part.strip() for part in policy.split(";") if "media-src" in part]
        return found

    assert media(make_app()) == "media-src 'self'"
    monkeypatch.setattr(FolderStore, "origin", "https://bucket.example")
    assert media(make_app()) == "media-src 'self' https://bucket.example"
