"""The API on each database, with a folder store and a real Redis; the tests play client and worker."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flaskr import create_app
from flaskr.config import Config
from flaskr.db import db
from tests import services
from worker.contract.settings import Addresses

PASSWORD = "Corneta-7-azul"


def config_for(database_url: str, redis_url: str, folder: Path, **changes: Any) -> Config:
    addresses = Addresses(redis_url, f"file://{folder}")
    base = Config(addresses, database_url, "k" * 40, lease_seconds=30, resend_seconds=30)
    return replace(base, **changes)


def migrated(config: Config) -> Flask:
    app = create_app(config)
    with app.app_context():
        flask_migrate.upgrade()
        db.session.remove()
        db.engine.dispose()
    return app


@pytest.fixture(scope="session")
def postgres_template(postgres_server: services.Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated database that each test gets a copy of."""
    folder = tmp_path_factory.mktemp("template")

    def build(url: str) -> None:
        migrated(config_for(url.replace("postgresql://", "postgresql+psycopg2://"), "unix:///nowhere", folder))

    return postgres_server.template("api", build)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated, empty database; every API test runs on both kinds."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/api.db"
        migrated(config_for(url, "unix:///nowhere", tmp_path))
        yield url
        return
    server: services.Postgres = request.getfixturevalue("postgres_server")
    with server.database(request.getfixturevalue("postgres_template")) as url:
        yield url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def make_app(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Makes applications on one database, store and Redis; settings may be changed."""
    made: list[Flask] = []

    def make(**changes: Any) -> Flask:
        app = create_app(config_for(database_url, redis_url, tmp_path / "store", **changes))
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    """One application."""
    return make_app()


@dataclass
class Person:
    """A client with an account."""

    client: FlaskClient
    email: str
    token: str
    refresh_token: str

    def call(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {token or self.token}", **kwargs.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **kwargs)

    def upload(
        self, name: str = "song.mp3", target: str = "ogg", data: bytes = b"abc" * 999, **options: Any
    ) -> TestResponse:
        form = {"filename": name, "newFormat": target, "audio": (io.BytesIO(data), "upload"), **options}
        return self.call("POST", "/api/tasks", data=form, content_type="multipart/form-data")

    def task(self, task_id: int) -> dict[str, Any]:
        answer = self.call("GET", f"/api/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        return answer.get_json()


def person(app: Flask, name: str = "ana") -> Person:
    """Sign up and log in."""
    client = app.test_client()
    email = f"{name}@example.com"
    body = {"user": name, "email": email, "password1": PASSWORD, "password2": PASSWORD}
    answer = client.post("/api/auth/signup", json=body)
    assert answer.status_code == 200, answer.text
    tokens = client.post("/api/auth/login", json={"email": email, "password": PASSWORD}).get_json()
    return Person(client, email, tokens["token"], tokens["refreshToken"])


@pytest.fixture
def ana(app: Flask) -> Person:
    """Somebody with an account."""
    return person(app, "ana")


@pytest.fixture
def ben(app: Flask) -> Person:
    """Somebody else with an account."""
    return person(app, "ben")


@dataclass
class Hand:
    """Plays the worker: takes messages from the real queue, claims and reports."""

    client: FlaskClient
    redis: Any

    def jobs(self) -> list[dict[str, Any]]:
        """Take all messages off the queue; return their jobs, oldest first."""
        taken = []
        while raw := self.redis.rpop("conversions"):
            taken.append(json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0])
        return taken

    def job(self) -> dict[str, Any]:
        (job,) = self.jobs()
        return job

    def claim(self, job: dict[str, Any], worker: str = "w1") -> TestResponse:
        return self._post(job, "claimed", {"worker": worker})

    def release(self, job: dict[str, Any], worker: str = "w1") -> TestResponse:
        return self._post(job, "released", {"worker": worker})

    def report(self, job: dict[str, Any], **body: Any) -> TestResponse:
        report = {"attempt": job["attempt"], "outcome": "done", "result": {"codec": "vorbis", "crc32c": "00000001"}}
        return self._post(job, "processed", {**report, **body})

    def fail(self, job: dict[str, Any], code: str = "not_audio") -> TestResponse:
        error = {"code": code, "message": "This is not audio."}
        return self._post(job, "processed", {"attempt": job["attempt"], "outcome": "failed", "error": error})

    def _post(self, job: dict[str, Any], verb: str, body: dict[str, Any]) -> TestResponse:
        headers = {"Authorization": f"Bearer {job['token']}"}
        return self.client.post(f"/api/tasks/{job['task']}/{verb}", json=body, headers=headers)


@pytest.fixture
def hand(app: Flask, redis_server: services.Redis) -> Hand:
    """A worker played by the test."""
    return Hand(app.test_client(), redis_server.client)
