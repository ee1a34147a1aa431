"""Sessions: refresh tokens that rotate, the cookie that the page keeps one in, keys that follow one another."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flaskr.keys import key_id
from tests.api.conftest import PASSWORD, Hand, Person, person

KEY = "k" * 40  # as config_for has it
NEW_KEY = "n" * 40
BY_COOKIE = {"X-Refresh-In": "cookie"}


def refresh(client: FlaskClient, token: str) -> TestResponse:
    return client.post("/api/auth/refresh", headers={"Authorization": f"Bearer {token}"})


def works(client: FlaskClient, token: str) -> bool:
    answer = client.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def log_in(client: FlaskClient, who: Person, **more: Any) -> TestResponse:
    answer = client.post("/api/auth/login", json={"email": who.email, "password": PASSWORD, **more})
    assert answer.status_code == 200, answer.text
    return answer


# -- rotation ---------------------------------------------------------------------------------------------------------


def test_each_refresh_gives_the_next_token(app: Flask, ana: Person) -> None:
    """A chain of refreshes works, each with the token of the one before; access tokens of the chain stay good."""
    client, token, access = app.test_client(), ana.refresh_token, [ana.token]
    for _ in range(3):
        answer = refresh(client, token)
        assert answer.status_code == 200
        assert set(answer.get_json()) == {"token", "refreshToken", "expiresIn"}
        assert answer.get_json()["refreshToken"] != token
        token = answer.get_json()["refreshToken"]
        access.append(answer.get_json()["token"])
    assert all(works(client, each) for each in access)


@pytest.mark.parametrize("used_after", [1, 2])
def test_a_replayed_refresh_token_ends_its_session(app: Flask, ana: Person, used_after: int) -> None:
    """A refresh token that comes again gets 401, and with it die its successors and every access token at once."""
    client, token, access = app.test_client(), ana.refresh_token, [ana.token]
    for _ in range(used_after):
        said = refresh(client, token).get_json()
        token = said["refreshToken"]
        access.append(said["token"])
    other = log_in(client, ana).get_json()
    assert refresh(client, ana.refresh_token).status_code == 401
    assert not any(works(client, each) for each in access)
    assert refresh(client, token).status_code == 401
    assert works(client, other["token"])  # another log-in of the same person is another family


def test_of_racing_refreshes_one_wins_and_the_session_ends(app: Flask, ana: Person) -> None:
    """Many uses of one refresh token at once: at most one gets tokens, and those are dead too when all is over."""
    start, answers = threading.Barrier(8), []

    def use() -> None:
        client = app.test_client()
        start.wait()
        answers.append(refresh(client, ana.refresh_token))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    (won,) = (answer.get_json() for answer in answers if answer.status_code == 200)
    assert not works(app.test_client(), won["token"])
    assert refresh(app.test_client(), won["refreshToken"]).status_code == 401


def test_refreshing_does_not_prolong_a_session(make_app: Callable[..., Flask]) -> None:
    """Every refresh token of a session ends when log-in said, however often it is renewed."""
    app = make_app(refresh_token_seconds=3600)
    ana = person(app)
    first = jwt.decode(ana.refresh_token, KEY, ["HS256"])
    second = jwt.decode(refresh(app.test_client(), ana.refresh_token).get_json()["refreshToken"], KEY, ["HS256"])
    assert abs(second["exp"] - first["exp"]) <= 2


# -- the cookie -------------------------------------------------------------------------------------------------------


def test_without_asking_nothing_goes_into_a_cookie(app: Flask, ana: Person) -> None:
    """Clients from before find the refresh token in the body, and no cookie is ever set for them."""
    client = app.test_client()
    answer = log_in(client, ana)
    assert set(answer.get_json()) == {"token", "refreshToken", "expiresIn"}
    assert "Set-Cookie" not in answer.headers
    assert "Set-Cookie" not in refresh(client, answer.get_json()["refreshToken"]).headers


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: Flask, ana: Person) -> None:
    """HttpOnly, SameSite=Strict, only below /api/auth; the body has no refresh token; Max-Age only for who stays."""
    client = app.test_client()
    answer = log_in(client, ana, refreshIn="cookie")
    assert set(answer.get_json()) == {"token", "expiresIn"}
    parts = answer.headers["Set-Cookie"].split("; ")
    assert parts[0].startswith("swnube_refresh=ey")
    assert set(parts[1:]) == {"HttpOnly", "Path=/api/auth", "SameSite=Strict"}
    stays = log_in(client, ana, refreshIn="cookie", stay=True).headers["Set-Cookie"]
    assert "Max-Age=2592000" in stays


def test_the_cookie_is_secure_behind_tls(make_app: Callable[..., Flask]) -> None:
    """Secure when the trusted balancer says https; a client's own word for it counts for nothing."""
    https = {"X-Forwarded-Proto": "https"}
    for proxies, expected in ((1, True), (0, False)):
        app = make_app(trusted_proxies=proxies)
        ana = person(app, f"ana{proxies}")
        answer = app.test_client().post(
            "/api/auth/login", json={"email": ana.email, "password": PASSWORD, "refreshIn": "cookie"}, headers=https
        )
        assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) is expected


@pytest.mark.parametrize("stay", [True, False])
def test_the_cookie_renews_itself_and_ends_with_the_session(app: Flask, ana: Person, stay: bool) -> None:
    """Refresh by cookie gives an access token and the next cookie, which stays or goes as the first; log-out clears it."""
    client = app.test_client()
    log_in(client, ana, refreshIn="cookie", stay=stay)
    first = client.get_cookie("swnube_refresh", path="/api/auth")
    answer = client.post("/api/auth/refresh", headers=BY_COOKIE)
    assert answer.status_code == 200
    assert set(answer.get_json()) == {"token", "expiresIn"}
    assert works(client, answer.get_json()["token"])
    second = client.get_cookie("swnube_refresh", path="/api/auth")
    assert first is not None
    assert second is not None
    assert first.value != second.value
    assert (second.max_age is not None) is stay
    assert client.post("/api/auth/logout", headers=BY_COOKIE).status_code == 200
    assert client.get_cookie("swnube_refresh", path="/api/auth") is None
    assert not works(client, answer.get_json()["token"])


@pytest.mark.parametrize("path", ["refresh", "logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-Refresh-In": "body"}, {**BY_COOKIE, "Sec-Fetch-Site": "cross-site"},
        {**BY_COOKIE, "Sec-Fetch-Site": "same-site"}, {**BY_COOKIE, "Sec-Fetch-Site": "none"},
    ],
)  # fmt: skip
def test_a_forged_request_does_not_use_the_cookie(app: Flask, ana: Person, path: str, headers: dict[str, str]) -> None:
    """Without the header that only our page can add, or from another site, the cookie opens nothing and stays good."""
    client = app.test_client()
    log_in(client, ana, refreshIn="cookie")
    answer = client.post(f"/api/auth/{path}", headers=headers)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert client.post("/api/auth/refresh", headers=BY_COOKIE).status_code == 200


def test_the_cookie_opens_nothing_else(app: Flask, ana: Person) -> None:
    """It is a refresh token, whatever is asked with it: tasks stay shut, and a bearer wins over it."""
    client = app.test_client()
    log_in(client, ana, refreshIn="cookie")
    cookie = client.get_cookie("swnube_refresh", path="/api/auth")
    assert cookie is not None
    bare = app.test_client(use_cookies=False)
    headers = {**BY_COOKIE, "Cookie": f"swnube_refresh={cookie.value}"}
    assert bare.get("/api/tasks", headers=headers).status_code == 401
    bearer = {**BY_COOKIE, "Authorization": "Bearer x.y.z"}
    assert client.post("/api/auth/refresh", headers=bearer).status_code == 401
    assert client.post("/api/auth/refresh", headers=BY_COOKIE).status_code == 200


def test_a_replayed_cookie_ends_the_session_and_is_cleared(app: Flask, ana: Person) -> None:
    """The old cookie, sent again by whoever copied it, gets 401 and kills the new one too."""
    client, thief = app.test_client(), app.test_client(use_cookies=False)
    log_in(client, ana, refreshIn="cookie")
    stolen = client.get_cookie("swnube_refresh", path="/api/auth")
    assert stolen is not None
    access = client.post("/api/auth/refresh", headers=BY_COOKIE).get_json()["token"]
    answer = thief.post("/api/auth/refresh", headers={**BY_COOKIE, "Cookie": f"swnube_refresh={stolen.value}"})
    assert answer.status_code == 401
    assert "swnube_refresh=;" in answer.headers["Set-Cookie"]
    assert not works(client, access)
    assert client.post("/api/auth/refresh", headers=BY_COOKIE).status_code == 401


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_follow_one_another_without_logging_anybody_out(
    app: Flask, make_app: Callable[..., Flask], ana: Person, hand: Hand
) -> None:
    """With a new key and the old one still known, old access, refresh and job tokens work; new ones name the new key."""
    ana.upload()
    job = hand.job()
    turned = make_app(jwt_secret_key=NEW_KEY, jwt_secret_keys_old=(KEY,))
    client = turned.test_client()
    assert works(client, ana.token)
    said = refresh(client, ana.refresh_token).get_json()
    assert jwt.get_unverified_header(said["token"])["kid"] == key_id(NEW_KEY) != key_id(KEY)
    assert Hand(client, None).claim(job).status_code == 200
    # The instances that still sign with the old key know the new one before it signs.
    ahead = make_app(jwt_secret_key=KEY, jwt_secret_keys_old=(NEW_KEY,))
    assert works(ahead.test_client(), said["token"])
    # And once the old key is dropped, what it signed is worth nothing.
    over = make_app(jwt_secret_key=NEW_KEY).test_client()
    assert not works(over, ana.token)
    assert Hand(over, None).claim(job).status_code == 401
    assert works(over, said["token"])


def forged(key: str = KEY, kid: str | None = key_id(KEY), algorithm: str = "HS256", **claims: Any) -> str:
    """A token as the service makes them, with changes."""
    now = int(time.time())
    content = {"sub": "1", "type": "access", "sid": "s", "fresh": False, "jti": "j", "iat": now, "nbf": now,
               "exp": now + 600, **claims}  # fmt: skip
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({k: v for k, v in content.items() if v is not None}, key, algorithm, headers=headers)


def forgeries(session: str) -> dict[str, str]:
    """Access tokens with one thing wrong each; what is right is right for the session's owner."""
    now = int(time.time())
    return {
        "other key": forged("x" * 40, sid=session),
        "other key's id": forged("x" * 40, key_id("x" * 40), sid=session),
        "no kid": forged(kid=None, sid=session),
        "path as kid": forged(kid="../../dev/null", sid=session),
        "alg none": forged("", algorithm="none", sid=session),
        "alg HS384": forged(algorithm="HS384", sid=session),
        "alg HS512": forged(algorithm="HS512", sid=session),
        "expired": forged(exp=now - 60, sid=session),
        "not yet valid": forged(nbf=now + 600, sid=session),
        "issued in the future": forged(iat=now + 600, sid=session),
        "no session": forged(sid=None),
        "other session": forged(sid="0" * 32),
        "session of a list": forged(sid=[session]),
        "somebody else": forged(sub="2", sid=session),
        "nobody": forged(sub="0", sid=session),
        "huge subject": forged(sub="9" * 30, sid=session),
        "subject of letters": forged(sub="1 OR 1=1", sid=session),
        "no subject": forged(sub=None, sid=session),
        "refresh": forged(type="refresh", sid=session, rot=0),
        "unknown type": forged(type="admin", sid=session),
    }


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_forged_tokens_open_nothing(app: Flask, ana: Person) -> None:
    """One thing wrong with a token is enough for the same 401; with nothing wrong the forging itself works."""
    client = app.test_client()
    session = jwt.decode(ana.token, KEY, ["HS256"])["sid"]
    assert works(client, forged(sid=session))
    answers = set()
    for name, token in forgeries(session).items():
        answer = client.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, name
        answers.add(answer.data)
    assert len(answers) == 1
    first, second, third = ana.token.split(".")
    for cut in (f"{first}.{second}.", f"{first}.{second}", f"{first}..{third}", f".{second}.{third}", "..", "."):
        assert not works(client, cut), cut


@pytest.mark.parametrize(
    "changes", [{"rot": None}, {"rot": "0"}, {"rot": 7}, {"rot": True}, {"rot": -1}, {"type": "access"}]
)
def test_forged_refresh_tokens_renew_nothing(app: Flask, ana: Person, changes: dict[str, Any]) -> None:
    """A refresh token without its right place in the row is refused, even when the key is right."""
    session = jwt.decode(ana.token, KEY, ["HS256"])["sid"]
    token = forged(**{"type": "refresh", "sid": session, "rot": 0, **changes})
    assert refresh(app.test_client(), token).status_code == 401
