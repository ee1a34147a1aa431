"""Who may call a route. Every view carries exactly one of these marks, and a test looks for it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from flask import current_app, g, request
from flask_jwt_extended import JWTManager, verify_jwt_in_request

from flaskr.accounts import Accounts, Caller
from flaskr.api.errors import problem

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
    """The bearer of a living refresh token may call it; `caller()` is who."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        verify_jwt_in_request(refresh=True)
        return view(*args, **kwargs)

    return _marked(guarded, "refresh", [{"refreshToken": []}])


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
    g.caller = accounts.caller(str(claims.get("sub", "")), session) if isinstance(session, str) else None
    return g.caller is None


def _unauthorized(*_details: Any) -> Any:
    # One answer for every reason: what is wrong with a token helps only whoever forges one.
    return problem(401, "Log in first: this needs a valid token in the Authorization header.",
                   headers={"WWW-Authenticate": "Bearer"})  # fmt: skip


jwt.unauthorized_loader(_unauthorized)
jwt.invalid_token_loader(_unauthorized)
jwt.expired_token_loader(_unauthorized)
jwt.revoked_token_loader(_unauthorized)
jwt.token_verification_failed_loader(_unauthorized)
jwt.needs_fresh_token_loader(_unauthorized)
jwt.user_lookup_error_loader(_unauthorized)
