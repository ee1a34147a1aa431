"""Who gets what where: every route of the application against every wrong token, each with its stated code.

The routes come from the application itself; one without a row here fails the test.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from flask import Flask
from werkzeug.routing import Rule

from flaskr.keys import key_id
from tests.api.conftest import PASSWORD, Hand, Person

KEY = "k" * 40  # as config_for has it

COLUMNS = ("none", "malformed", "expired", "revoked", "refresh", "other's", "job of another task",
           "job of another attempt")  # fmt: skip
# Needs a user, and shows each their own: somebody else's valid token is simply somebody else.
OWN = (401, 401, 401, 401, 401, 200, 401, 401)
# About one task: to somebody else there is no such task.
TASK = (401, 401, 401, 401, 401, 404, 401, 401)
# For workers: users' tokens are worth nothing, a job token is good for its task, and for its attempt.
JOB = (401, 401, 401, 401, 401, 401, 401, 409)
# Renews: only a living refresh token does, and "other's" here is an access token.
RENEW = (401, 401, 401, 401, 200, 401, 401, 401)
# The address is the key: no token opens it without the right one.
LINK = (401,) * 8
# Anybody: no token changes the answer.
PUBLIC = None

ROWS: dict[tuple[str, str], tuple[int, ...] | None] = {
    ("auth.sign_up", "POST"): PUBLIC,
    ("auth.log_in", "POST"): PUBLIC,
    ("auth.refresh", "POST"): RENEW,
    ("auth.log_out", "POST"): OWN,
    ("tasks.list_tasks", "GET"): OWN,
    ("tasks.upload", "POST"): (401, 401, 401, 401, 401, 400, 401, 401),
    ("tasks.read", "GET"): TASK,
    ("tasks.change", "PUT"): TASK,
    ("tasks.remove", "DELETE"): TASK,
    ("tasks.original", "GET"): TASK,
    ("tasks.converted", "GET"): TASK,
    ("tasks.download", "GET"): TASK,
    ("tasks.waveform", "GET"): TASK,
    ("links.link_to_file", "POST"): TASK,
    ("links.download_archive", "GET"): OWN,
    ("links.link_to_archive", "POST"): OWN,
    ("links.begin_watch", "POST"): OWN,
    ("links.watch", "GET"): LINK,
    ("links.follow", "GET"): LINK,
    ("reports.claimed", "POST"): JOB,
    ("reports.released", "POST"): JOB,
    ("reports.processed", "POST"): JOB,
    ("formats.list_formats", "GET"): PUBLIC,
    ("formats.plan_conversion", "POST"): TASK,
    ("health.alive", "GET"): PUBLIC,
    ("health.ready", "GET"): PUBLIC,
    ("health.exposition", "GET"): PUBLIC,
    ("docs.browse", "GET"): PUBLIC,
    ("docs.document", "GET"): PUBLIC,
    ("docs.start", "GET"): PUBLIC,
    ("docs.asset", "GET"): PUBLIC,
    ("web.page", "GET"): PUBLIC,
    ("web.asset", "GET"): PUBLIC,
}


@dataclass
class Tokens:
    """One wrong token of each kind, and the task that they are tried on."""

    task: int
    by_column: dict[str, str]


def wrong_tokens(app: Flask, ana: Person, ben: Person, hand: Hand) -> Tokens:
    """Ana's task at attempt 2, and what others, the past and forgers have in hand."""
    task = ana.upload().get_json()["task"]["id"]
    first = hand.job()
    other_task = ana.upload().get_json()["task"]["id"]
    other = hand.job()
    assert (first["task"], other["task"]) == (task, other_task)
    ana.call("PUT", f"/api/tasks/{task}", json={"newFormat": "wav"})
    hand.jobs()

    def log_in(who: Person) -> dict[str, Any]:
        said = app.test_client().post("/api/auth/login", json={"email": who.email, "password": PASSWORD})
        return dict(said.get_json())

    revoked, fresh, somebody = log_in(ana), log_in(ana), log_in(ben)
    app.test_client().post("/api/auth/logout", headers={"Authorization": f"Bearer {revoked['token']}"})
    claims = jwt.decode(fresh["token"], KEY, ["HS256"])
    past = {**claims, "iat": int(time.time()) - 7200, "nbf": int(time.time()) - 7200, "exp": int(time.time()) - 3600}
    expired = jwt.encode(past, KEY, "HS256", headers={"kid": key_id(KEY)})
    head, body, _ = fresh["token"].split(".")
    values = ("", f"{head}.{body}.AAAA", expired, revoked["token"], fresh["refreshToken"], somebody["token"],
              other["token"], first["token"])  # fmt: skip
    return Tokens(task, dict(zip(COLUMNS, values, strict=True)))


def bodies(endpoint: str, task: int) -> dict[str, Any]:
    """What makes the request of a route a good one, so that only the token can be wrong with it."""
    json: dict[str, Any] = {
        "tasks.change": {"newFormat": "ogg"},
        "links.link_to_file": {},
        "links.link_to_archive": {},
        "reports.claimed": {"worker": "w"},
        "reports.released": {"worker": "w"},
        "reports.processed": {"attempt": 1, "outcome": "done", "result": {}},
        "formats.plan_conversion": {"newFormat": "ogg", "task": task},
        "auth.sign_up": {"user": "x"},
        "auth.log_in": {"email": "x"},
    }
    return {"json": json[endpoint]} if endpoint in json else {}


def path_of(rule: Rule, task: int) -> str:
    name = "page.css" if rule.endpoint == "web.asset" else "css/swagger-ui.css"
    return rule.rule.replace("<int:task_id>", str(task)).replace("<path:name>", name)


def test_every_route_answers_every_wrong_token_as_stated(app: Flask, ana: Person, ben: Person, hand: Hand) -> None:
    """No route without a row; each cell has its code, and what should change nothing changed nothing."""
    routes = {(rule.endpoint, method): rule for rule in app.url_map.iter_rules()
              for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}}  # fmt: skip
    assert set(routes) == set(ROWS), "a route without a row, or a row without a route"
    wrong: list[str] = []
    for (endpoint, method), row in ROWS.items():
        tokens = wrong_tokens(app, ana, ben, hand)
        before = ana.task(tokens.task)
        codes = []
        for column in COLUMNS:
            token = tokens.by_column[column]
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = app.test_client(use_cookies=False).open(
                path_of(routes[endpoint, method], tokens.task), method=method, headers=headers,
                **bodies(endpoint, tokens.task),
            )  # fmt: skip
            codes.append(answer.status_code)
            if answer.status_code >= 400:
                assert answer.mimetype == "application/problem+json", (endpoint, column)
            answer.close()
        if row is None:
            if len(set(codes)) != 1 or codes[0] in (401, 403, 404):
                wrong.append(f"{method} {endpoint}: public, but {dict(zip(COLUMNS, codes, strict=True))}")
        elif tuple(codes) != row:
            wrong.append(f"{method} {endpoint}: {dict(zip(COLUMNS, codes, strict=True))}")
        assert ana.task(tokens.task) == before
    assert not wrong, "\n".join(wrong)


def test_job_tokens_are_good_for_their_attempt_alone(app: Flask, ana: Person, hand: Hand) -> None:
    """The right job token works, opens nothing of the user's, and is dead once another attempt is asked for."""
    task = ana.upload().get_json()["task"]["id"]
    job = hand.job()
    bearer = {"Authorization": f"Bearer {job['token']}"}
    client = app.test_client()
    assert hand.claim(job).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/original")):
        assert client.open(f"/api/tasks/{task}{path}", method=method, headers=bearer).status_code == 401
    for changed in (job["token"][:-2] + "AA", job["token"].swapcase(), job["token"] + "x", f"x{job['token']}"):
        assert hand.claim({**job, "token": changed}).status_code == 401
    ana.call("PUT", f"/api/tasks/{task}", json={"newFormat": "wav"})
    assert hand.claim(job).status_code == 409
    assert hand.report(job).status_code == 409
    assert hand.claim(hand.job()).status_code == 200


def test_a_job_token_of_another_deployment_is_refused(make_app: Callable[..., Flask], ana: Person, hand: Hand) -> None:
    """A worker of another service, with the same numbers, claims nothing here."""
    ana.upload()
    job = hand.job()
    foreign = Hand(make_app(jwt_secret_key="z" * 40).test_client(), None)
    assert foreign.claim(job).status_code == 401
