"""What every answer carries, who is believed about a client, and what other origins may do."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from flaskr.db import db
from flaskr.models import User
from tests.api.conftest import PASSWORD, Person, person

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/", "/api/tasks", "/api/docs", "/nowhere", "/healthz", "/static/page.css"])
def test_every_answer_has_the_headers_that_browsers_heed(app: Flask, path: str) -> None:
    """Pages, API, errors and files alike: no sniffing, no frames, no inline script or style, no features."""
    answer = app.test_client().get(path)
    assert {name: answer.headers.get(name) for name in ALWAYS} == ALWAYS
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "object-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert "Strict-Transport-Security" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Server" not in answer.headers or "Werkzeug" not in answer.headers["Server"]


def test_pages_have_nothing_inline(app: Flask) -> None:
    """The policy forbids inline scripts and styles, and no page has any."""
    for path in ("/", "/api/docs"):
        page = app.test_client().get(path).text
        assert " style=" not in page
        assert "<style" not in page
        assert " onclick=" not in page
        assert all("src=" in tag.split(">")[0] for tag in page.split("<script")[1:])


def test_behind_tls_browsers_are_told_to_stay_there(make_app: Callable[..., Flask]) -> None:
    """HSTS when the trusted balancer took the request by https; a client's own claim counts for nothing."""
    https = {"X-Forwarded-Proto": "https"}
    behind = make_app(trusted_proxies=1).test_client().get("/", headers=https)
    assert behind.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert "Strict-Transport-Security" not in make_app().test_client().get("/", headers=https).headers


def seen(app: Flask, peer: str, forwarded: str) -> str:
    """The address that the application takes the client to have."""
    found: list[str] = []

    def look() -> None:
        from flaskr.api.requests import address

        found.append(address())

    app.before_request(look)
    app.test_client().get("/healthz", headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": peer})
    return found[0]


@pytest.mark.parametrize(
    ("settings", "peer", "forwarded", "expected"),
    [
        ({}, "10.0.0.9", "192.0.2.7", "10.0.0.9"),
        ({"trusted_proxies": 1}, "10.0.0.9", "6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ({"trusted_proxies": 2}, "10.0.0.9", "6.6.6.6, 192.0.2.7, 10.0.0.1", "192.0.2.7"),
        ({"trusted_proxies": 1, "networks": "10.0.0.0/8"}, "10.0.0.9", "192.0.2.7", "192.0.2.7"),
        ({"trusted_proxies": 1, "networks": "10.0.0.0/8"}, "203.0.113.5", "192.0.2.7", "203.0.113.5"),
        ({"trusted_proxies": 1, "networks": "10.0.0.0/8, fd00::/8"}, "fd00::5", "192.0.2.7", "192.0.2.7"),
    ],
)
def test_only_balancers_are_believed_about_addresses(
    make_app: Callable[..., Flask], settings: dict[str, Any], peer: str, forwarded: str, expected: str
) -> None:
    """X-Forwarded-For counts from the end, as many entries as there are balancers, and only from their networks."""
    from ipaddress import ip_network

    settings = dict(settings)  # the parameters are one object for both databases
    networks = tuple(ip_network(part.strip()) for part in settings.pop("networks", "").split(",") if part)
    assert seen(make_app(**settings, proxy_networks=networks), peer, forwarded) == expected


def test_other_origins_may_do_only_what_is_configured(make_app: Callable[..., Flask]) -> None:
    """CORS is off; configured, that one origin may use bearer tokens, and still never the page's cookie."""
    ask = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST",
           "Access-Control-Request-Headers": "authorization, x-refresh-in"}  # fmt: skip
    off = make_app().test_client().options("/api/auth/refresh", headers=ask)
    assert not any(name.startswith("Access-Control") for name, _ in off.headers)
    client = make_app(cors_origins=("https://app.example.com",)).test_client()
    allowed = client.options("/api/auth/refresh", headers=ask)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "x-refresh-in" not in allowed.headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    for origin in (
        "https://evil.example.com",
        "https://app.example.com.evil.example",
        "null",
        "http://app.example.com",
    ):
        answer = client.get("/api/formats", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answer.headers, origin
    assert "Access-Control-Allow-Origin" not in client.get("/", headers={"Origin": "https://app.example.com"}).headers


def test_the_audit_trail_tells_who_what_when_and_from_where(
    make_app: Callable[..., Flask], capsys: pytest.CaptureFixture[str]
) -> None:
    """Accounts made, log-ins, failures, log-outs, replays, limits and deletions leave a line each, without secrets."""
    app = make_app(login_failures_per_account="1 per hour")
    ana = person(app)
    client = app.test_client()
    task = ana.upload().get_json()["task"]["id"]
    ana.call("DELETE", f"/api/tasks/{task}")
    ana.call("POST", "/api/auth/refresh", token=ana.refresh_token)
    ana.call("POST", "/api/auth/refresh", token=ana.refresh_token)
    again = client.post("/api/auth/login", json={"email": ana.email, "password": PASSWORD}).get_json()
    client.post("/api/auth/logout", headers={"Authorization": f"Bearer {again['token']}"})
    for _ in range(2):
        client.post("/api/auth/login", json={"email": ana.email, "password": "Otra-cosa-9"})
    with app.app_context():
        number = db.session.scalar(select(User.id))
        db.session.rollback()
    everything = capsys.readouterr().err
    lines = [line for line in map(json.loads, everything.splitlines()) if line.get("audit")]
    assert [line["event"] for line in lines] == [
        "account.made", "account.logged_in", "task.removed", "session.replayed", "account.logged_in",
        "account.logged_out", "account.log_in_failed", "account.log_in_refused",
    ]  # fmt: skip
    for line in lines:
        assert line["time"]
        assert line["address"] == "127.0.0.1"
        assert line["request"]
        assert line.get("user", number) == number
    for secret in (PASSWORD, "Otra-cosa-9", ana.token, ana.refresh_token, again["token"], again["refreshToken"]):
        assert secret not in everything


def test_passwords_made_with_older_figures_are_hashed_anew(app: Flask) -> None:
    """A log-in replaces a weaker hash by one of today's figures, and still works after."""
    from argon2 import PasswordHasher

    ana = person(app)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with app.app_context():
        db.session.execute(text("UPDATE users SET password_hash = :weak"), {"weak": weak})
        db.session.commit()
    login = {"email": ana.email, "password": PASSWORD}
    for _ in range(2):
        assert app.test_client().post("/api/auth/login", json=login).status_code == 200
        with app.app_context():
            kept = db.session.scalar(select(User.password_hash))
            db.session.rollback()
        assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_downloads_have_harmless_names(ana: Person) -> None:
    """Quotes, line ends, bidi marks and NUL in a file's name end in no header; the name is given twice, by RFC 6266."""
    for raw, shown in (
        ('a";x="b.mp3', "a;x=b.mp3"), ("a\r\nSet-Cookie: x=y.mp3", "aSet-Cookie x=y.mp3"),
        ("in\u202evoice3pm.mp3", "invoice3pm.mp3"), ("nul\0l.mp3", "null.mp3"), ("../../etc/passwd.mp3", "passwd.mp3"),
        ("ñandú 🎵.mp3", "ñandú 🎵.mp3"), ("a%0d%0ab.mp3", "a%0d%0ab.mp3"),
    ):  # fmt: skip
        task = ana.upload(name=raw).get_json()["task"]
        assert task["name"] == shown, raw
        answer = ana.call("GET", f"/api/tasks/{task['id']}/original")
        header = answer.headers["Content-Disposition"]
        assert header.startswith('attachment; filename="')
        assert header.count('"') == 2
        assert "filename*=UTF-8''" in header
        assert header.isascii()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
