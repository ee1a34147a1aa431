"""The client's retries against answers that a healthy service does not give; the service is played by hand."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import httpx
import pytest
from swnube_client.api import Api
from swnube_client.errors import LocalTrouble, Refused, ServiceTrouble
from swnube_client.session import Sessions

Answer = Callable[[httpx.Request], httpx.Response]


def api_over(folder: Path, answers: list[Answer], patience: float = 60) -> tuple[Api, list[str]]:
    """A client whose requests are answered one after the other, and the list of what it asked for."""
    sessions = Sessions(folder)
    body = {"url": "http://service", "email": "a@example.com", "access": "t", "refresh": "r", "ends": time.time() + 999}
    (folder / "session.json").write_text(json.dumps(body))
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(f"{request.method} {request.url.path}")
        return answers.pop(0)(request)

    return Api(sessions, patience, httpx.MockTransport(handle)), asked


def says(status: int, body: object = None, **headers: str) -> Answer:
    return lambda _request: httpx.Response(status, json=body if body is not None else {"error": "no"}, headers=headers)


def breaks(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("gone", request=request)


TASK = {"id": 8, "originalBytes": 3, "newFormat": "ogg", "options": {}}


def upload(api: Api, folder: Path) -> int:
    path = folder / "a.wav"
    path.write_bytes(b"abc")
    number: int = api.upload(path, "ogg", {}, lambda _done: None, lambda _task: True, 7)["id"]
    return number


def test_busy_means_that_nothing_was_done(tmp_path: Path) -> None:
    """After 429 and 503 the file is sent again, not before the time that the service names."""
    api, asked = api_over(tmp_path, [says(429, **{"Retry-After": "1"}), says(503), says(200, {"task": TASK})])
    began = time.monotonic()
    assert upload(api, tmp_path) == 8
    assert time.monotonic() - began >= 1
    assert asked == ["POST /api/tasks"] * 3


@pytest.mark.parametrize("trouble", [breaks, says(502), says(504), says(500)])
def test_an_unsure_upload_is_looked_up(tmp_path: Path, trouble: Answer) -> None:
    """After an answer that leaves open whether the file arrived, the list is read: found, it is not sent again."""
    other = {**TASK, "id": 9, "originalBytes": 4}
    api, asked = api_over(tmp_path, [trouble, says(200, [other, TASK])])
    assert upload(api, tmp_path) == 8
    assert asked == ["POST /api/tasks", "GET /api/tasks"]
    api, asked = api_over(tmp_path, [trouble, says(200, [other]), says(200, {"task": TASK})])
    assert upload(api, tmp_path) == 8
    assert asked == ["POST /api/tasks", "GET /api/tasks", "POST /api/tasks"]


def test_a_refusal_is_final(tmp_path: Path) -> None:
    """What the service refuses is not tried again."""
    api, asked = api_over(tmp_path, [says(413, {"error": "Too large."})])
    with pytest.raises(Refused, match="Too large"):
        upload(api, tmp_path)
    assert len(asked) == 1


def test_patience_ends(tmp_path: Path) -> None:
    """A service that fails on and on is given up."""
    api, asked = api_over(tmp_path, [says(503)] * 50, patience=2)
    with pytest.raises(ServiceTrouble):
        api.task(1)
    assert 2 <= len(asked) < 10


def test_a_download_is_whole_or_not_there(tmp_path: Path) -> None:
    """Bytes that differ from what was made are fetched again; a file of the same name stays until the new one is whole."""
    checksum = google_crc32c.Checksum(b"right").digest().hex()
    task = {"id": 8, "result": {"bytes": 5, "crc32c": checksum}}
    path = tmp_path / "a.ogg"
    path.write_bytes(b"old")
    wrong: Answer = lambda _request: httpx.Response(200, content=b"wrong")  # noqa: E731
    right: Answer = lambda _request: httpx.Response(200, content=b"right")  # noqa: E731
    seen: list[bytes] = []
    api, asked = api_over(tmp_path, [wrong, breaks, right])
    api.download(task, path, lambda _done: seen.append(path.read_bytes()))
    assert set(seen) == {b"old"}
    assert (path.read_bytes(), len(asked)) == (b"right", 3)
    with pytest.raises(LocalTrouble):
        api_over(tmp_path, [right])[0].download(task, tmp_path / "nowhere" / "a.ogg", lambda _done: None)
    assert not list(tmp_path.glob(".*.part"))
