"""Who may call a route. Every view carries exactly one of these marks, and a test looks for it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from flask import current_app, g, request
from flask_jwt_extended import JWTManager, get_jwt, verify_jwt_in_request
from jwt import InvalidTokenError

from flaskr.accounts import Accounts, Caller
from flaskr.api import cookies
from flaskr.api.errors import unauthorized
from flaskr.keys import SigningKeys

View = Callable[..., Any]
jwt = JWTManager()


def public(view: View) -> View:
    """Anybody may call it."""
    return _marked(view, "public", [])


def user_required(view: View) -> View:
    """The bearer of a living access token may call it; `caller()` is who."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        verify_jwt_in_request()
        return view(*args, **kwargs)

    return _marked(guarded, "user", [{"accessToken": []}])


def refresh_required(view: View) -> View:
    """Whoever has a living refresh token, as bearer or in the cookie, may call it; `caller()` is who."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _verify_refresh_token("cookies" if cookies.asked() else "headers")
        return view(*args, **kwargs)

    return _marked(guarded, "refresh", [{"refreshToken": []}, {"refreshCookie": []}])


def session_required(view: View) -> View:
    """The bearer of a living access token, or a browser with a living refresh token in its cookie, may call it."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if cookies.asked():
            _verify_refresh_token("cookies")
        else:
            verify_jwt_in_request()
        return view(*args, **kwargs)

    return _marked(guarded, "session", [{"accessToken": []}, {"refreshCookie": []}])


def refresh_claims() -> dict[str, Any]:
    """Return what the refresh token says, inside a view that requires one."""
    return cast(dict[str, Any], get_jwt())


def _verify_refresh_token(location: str) -> None:
    verify_jwt_in_request(refresh=True, locations=location)
    if type(get_jwt().get("rot")) is not int:
        raise InvalidTokenError("It has no place in a session's row of refresh tokens.")


def job_required(view: View) -> View:
    """The bearer of a job token of this very task may call it; the view gets the token's attempt."""

    @wraps(view)
    def guarded(*args: Any, task_id: int, **kwargs: Any) -> Any:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        attempt = current_app.extensions["conversions"].attempt_of(task_id, token if scheme == "Bearer" else "")
        return view(*args, task_id=task_id, attempt=attempt, **kwargs)

    return _marked(guarded, "job", [{"jobToken": []}])


def link_required(view: View) -> View:
    """Whoever has a living address of `flaskr.links` may call it; the view gets what it opens, `caller()` is whose."""

    @wraps(view)
    def guarded(*args: Any, secret: str, **kwargs: Any) -> Any:
        link = current_app.extensions["links"].read(secret)
        g.caller = link.caller
        return view(*args, link=link, **kwargs)

    return _marked(guarded, "link", [{"link": []}])


def watch_required(view: View) -> View:
    """Whoever has a living address for watching may call it; the view gets whose tasks it watches."""

    @wraps(view)
    def guarded(*args: Any, secret: str, **kwargs: Any) -> Any:
        return view(*args, account=current_app.extensions["links"].watched(secret), **kwargs)

    return _marked(guarded, "watch", [{"link": []}])


def caller() -> Caller:
    """Return who is asking, inside a view that requires a user."""
    return cast(Caller, g.caller)


def _marked(view: View, kind: str, security: list[dict[str, list[str]]]) -> View:
    marked: Any = view
    marked.authentication = kind
    marked._apidoc = {**getattr(view, "_apidoc", {}), "manual_doc": {"security": security}}
    return cast(View, marked)


@jwt.token_in_blocklist_loader
def _ended(_header: dict[str, Any], claims: dict[str, Any]) -> bool:
    accounts: Accounts = current_app.extensions["accounts"]
    session = claims.get("sid")
    ours = isinstance(session, str) and claims["type"] in ("access", "refresh")
    g.caller = accounts.caller(str(claims.get("sub", "")), str(session)) if ours else None
    return g.caller is None


@jwt.encode_key_loader
def _signing_key(_identity: str) -> str:
    return _keys().current


@jwt.additional_headers_loader
def _signing_key_id(_identity: str) -> dict[str, str]:
    return {"kid": _keys().id}


@jwt.decode_key_loader
def _verifying_key(header: dict[str, Any], _claims: dict[str, Any]) -> str:
    key = _keys().named(header.get("kid"))
    if key is None:
        raise InvalidTokenError("No key has this id.")
    return key


def _keys() -> SigningKeys:
    return cast(SigningKeys, current_app.extensions["keys"])


def _unauthorized(*_details: Any) -> Any:
    return unauthorized()


jwt.unauthorized_loader(_unauthorized)
jwt.invalid_token_loader(_unauthorized)
jwt.expired_token_loader(_unauthorized)
jwt.revoked_token_loader(_unauthorized)
jwt.token_verification_failed_loader(_unauthorized)
jwt.needs_fresh_token_loader(_unauthorized)
jwt.user_lookup_error_loader(_unauthorized)
