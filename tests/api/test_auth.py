"""Accounts over HTTP."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from flaskr.db import db
from flaskr.models import User
from tests.api.conftest import PASSWORD, Person, person

GOOD = {"user": "eva", "email": "eva@example.com", "password1": PASSWORD, "password2": PASSWORD}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user": None}, "user"), ({"email": None}, "email"), ({"password1": None}, "password1"),
        ({"password2": None}, "password2"), ({"user": " "}, "user"), ({"user": "x" * 65}, "user"),
        ({"user": "a\0b"}, "user"), ({"user": 7}, "user"), ({"email": "eva"}, "email"), ({"email": "eva@"}, "email"),
        ({"email": "e" * 300 + "@example.com"}, "email"), ({"email": ["eva@example.com"]}, "email"),
        ({"password1": "short", "password2": "short"}, "password1"),
        ({"password1": "x" * 129, "password2": "x" * 129}, "password1"),
        ({"password1": "eva@example.com", "password2": "eva@example.com"}, "password1"),
        ({"password1": "aaaaaaaaaa", "password2": "aaaaaaaaaa"}, "password1"),
        ({"password1": "qwertyuiop", "password2": "qwertyuiop"}, "password1"),
        ({"password1": "PassWord1", "password2": "PassWord1"}, "password1"), ({"password2": "Otra-cosa-9"}, "password2"),
    ],
)  # fmt: skip
def test_sign_up_names_the_field_that_is_wrong(app: Flask, change: dict[str, Any], field: str) -> None:
    """A sign-up with one bad or missing field gets 400 with that field named, and makes no account."""
    body = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    answer = app.test_client().post("/api/auth/signup", json=body)
    assert answer.status_code == 400
    assert answer.mimetype == "application/problem+json"
    assert field in answer.get_json()["errors"]
    assert answer.get_json()["error"]
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(User)) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"email": ' + b"9" * 5000 + b"}",
        b'{"email": NaN}',
        b'{"email": 1e999}',
        b'"x"',
        b"null",
        b"\xff\xfe\x00",
        b'{"user": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("path", ["signup", "login"])
def test_bodies_that_are_not_what_they_should_be_get_400(app: Flask, path: str, body: bytes) -> None:
    """Malformed, mistyped and binary bodies are answered 400 with a problem body."""
    answer = app.test_client().post(f"/api/auth/{path}", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.get_json()["error"]


def test_names_and_emails_are_taken_without_regard_to_case(app: Flask, ana: Person) -> None:
    """A second account with the same e-mail or name, in whatever case, is refused."""
    client = app.test_client()
    taken = client.post("/api/auth/signup", json={**GOOD, "email": "ANA@Example.COM"})
    assert (taken.status_code, list(taken.get_json()["errors"])) == (400, ["email"])
    taken = client.post("/api/auth/signup", json={**GOOD, "user": "ANA"})
    assert (taken.status_code, list(taken.get_json()["errors"])) == (400, ["user"])


def test_a_race_of_sign_ups_makes_one_account(app: Flask) -> None:
    """Of a hundred sign-ups with one e-mail at once, one succeeds and the others get 400."""
    codes: list[int] = []
    start = threading.Barrier(100)

    def sign_up() -> None:
        start.wait()
        codes.append(app.test_client().post("/api/auth/signup", json=GOOD).status_code)

    threads = [threading.Thread(target=sign_up) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] + [400] * 99


def test_log_in_answers_the_same_for_unknown_and_wrong(app: Flask, ana: Person) -> None:
    """An unknown e-mail and a wrong password get the same status and the same bytes; missing fields get 400."""
    client = app.test_client()
    wrong = client.post("/api/auth/login", json={"email": ana.email, "password": "Otra-cosa-9"})
    unknown = client.post("/api/auth/login", json={"email": "nobody@example.com", "password": "Otra-cosa-9"})
    malformed = client.post("/api/auth/login", json={"email": "nobody", "password": "Otra-cosa-9"})
    assert wrong.status_code == unknown.status_code == malformed.status_code == 401
    assert wrong.data == unknown.data == malformed.data
    assert client.post("/api/auth/login", json={"email": ana.email}).status_code == 400
    assert client.post("/api/auth/login", json={"password": PASSWORD}).status_code == 400


def test_passwords_are_kept_as_argon2id(app: Flask, ana: Person) -> None:
    """The database holds an argon2id hash with OWASP's parameters, never the password."""
    with app.app_context():
        stored = db.session.scalar(select(User.password_hash))
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in stored


def test_refresh_gives_a_working_access_token(ana: Person) -> None:
    """The refresh token buys access tokens; the access token does not, nor does the refresh token open tasks."""
    answer = ana.call("POST", "/api/auth/refresh", token=ana.refresh_token)
    assert answer.status_code == 200
    assert answer.get_json()["expiresIn"] == 3600
    assert ana.call("GET", "/api/tasks", token=answer.get_json()["token"]).status_code == 200
    assert ana.call("POST", "/api/auth/refresh").status_code == 401
    assert ana.call("GET", "/api/tasks", token=ana.refresh_token).status_code == 401


def test_logout_kills_the_session_on_every_instance(app: Flask, make_app: Callable[..., Flask], ana: Person) -> None:
    """After log-out the access and refresh tokens are dead on another instance at once; other sessions live on."""
    other = make_app().test_client()
    login = other.post("/api/auth/login", json={"email": ana.email, "password": PASSWORD}).get_json()
    bearer = {"Authorization": f"Bearer {ana.token}"}
    assert other.get("/api/tasks", headers=bearer).status_code == 200
    assert ana.call("POST", "/api/auth/logout").status_code == 200
    assert other.get("/api/tasks", headers=bearer).status_code == 401
    refresh = {"Authorization": f"Bearer {ana.refresh_token}"}
    assert other.post("/api/auth/refresh", headers=refresh).status_code == 401
    assert other.get("/api/tasks", headers={"Authorization": f"Bearer {login['token']}"}).status_code == 200


def test_tokens_of_another_deployment_and_expired_ones_are_refused(make_app: Callable[..., Flask]) -> None:
    """A token signed with another secret, an expired one and garbage get the same 401."""
    app = make_app()
    known = person(app, "ana")
    foreign = make_app(jwt_secret_key="z" * 40)
    expired = make_app(access_token_seconds=-10)
    login = {"email": known.email, "password": PASSWORD}
    tokens = [
        other.test_client().post("/api/auth/login", json=login).get_json()["token"] for other in (foreign, expired)
    ]
    for value in (*(f"Bearer {token}" for token in tokens), "Bearer", "Bearer x.y.z", "Basic YTpi", "", "Bearer é"):
        answer = app.test_client().get("/api/tasks", headers={"Authorization": value})
        assert answer.status_code == 401, value
        assert answer.get_json()["status"] == 401
