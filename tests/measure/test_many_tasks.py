"""The filler of large tables: what it makes must be what the service lists, on both databases."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import flask_migrate
import pytest

from flaskr import create_app
from flaskr.config import Config
from flaskr.db import db
from tests import services
from tests.measure.many_tasks import fill
from worker.contract.settings import Addresses


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/many.db"
        if request.param == "postgresql":
            server: services.Postgres = request.getfixturevalue("postgres_server")
            url = stack.enter_context(server.database())
        yield url


def test_filled_tasks_are_listed(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Its account logs in and pages through exactly its tasks; a second filling adds; new accounts and tasks still fit."""
    app = create_app(Config(Addresses(redis_url, f"file://{tmp_path}/store"), database_url, "k" * 40))
    try:
        with app.app_context():
            flask_migrate.upgrade()
            db.session.remove()
        filled = fill(database_url, tasks=3000, mine=1100, accounts=7)
        fill(database_url, tasks=10, mine=10, accounts=1)
        client = app.test_client()
        answer = client.post("/api/auth/login", json={"email": filled.email, "password": filled.password})
        assert answer.status_code == 200, answer.text
        headers = {"Authorization": f"Bearer {answer.get_json()['token']}"}
        path, seen, pages = "/api/tasks?order=1", [], 0
        while path:
            page = client.get(path, headers=headers)
            assert page.status_code == 200, page.text
            seen += page.get_json()
            pages += 1
            link = page.headers.get("Link", "")
            path = link[1 : link.index(">")] if link else ""
        ids = [task["id"] for task in seen]
        assert (len(ids), len(set(ids)), pages) == (1100, 1100, 2)
        assert ids == sorted(ids, reverse=True)
        assert max(ids) - min(ids) > 2900  # spread over the table
        assert {task["state"] for task in seen} == {"PROCESSED", "FAILED"}
        assert all(task["result"]["codec"] == "vorbis" for task in seen if task["state"] == "PROCESSED")
        assert seen[0]["timestamp"].startswith("2026-01-")
        body = {"user": "ben", "email": "ben@example.com", "password1": "Corneta-7-azul", "password2": "Corneta-7-azul"}
        assert client.post("/api/auth/signup", json=body).status_code == 200
        with app.app_context():
            app.extensions["conversions"].sweep()  # nothing in these rows is for it to put right
            db.session.remove()
        again = client.get("/api/tasks?max=1000", headers=headers).get_json()
        assert [task["attempt"] for task in again] == [1] * 1000
    finally:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
