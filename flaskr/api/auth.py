"""/api/auth: sign up, log in, refresh, log out."""

from typing import Any, cast

from flask import current_app

from flaskr.accounts import Accounts, Tokens
from flaskr.api import cookies, schemas
from flaskr.api.authentication import caller, public, refresh_claims, refresh_required, session_required
from flaskr.api.parsing import Blueprint
from flaskr.api.requests import address

auth = Blueprint("auth", __name__, url_prefix="/api/auth", description="Accounts and tokens")


def accounts() -> Accounts:
    return cast(Accounts, current_app.extensions["accounts"])


@auth.route("/signup", methods=["POST"])
@auth.arguments(schemas.SignUp)
@auth.response(200, schemas.Message)
@auth.alt_response(400, schema=schemas.Problem, description="A field is missing, malformed, weak or taken")
@auth.alt_response(429, schema=schemas.Problem, description="Too many from this address; Retry-After says when")
@public
def sign_up(body: dict[str, str]) -> dict[str, str]:
    """Make an account."""
    accounts().register(body["user"], body["email"], body["password1"], body["password2"], address())
    return {"message": "The account is made. You can log in now."}


@auth.route("/login", methods=["POST"])
@auth.arguments(schemas.LogIn)
@auth.response(200, schemas.Tokens)
@auth.alt_response(400, schema=schemas.Problem, description="A field is missing")
@auth.alt_response(401, schema=schemas.Problem, description="The e-mail or the password is wrong")
@auth.alt_response(429, schema=schemas.Problem, description="Too many failed ones; Retry-After says when")
@public
def log_in(body: dict[str, Any]) -> dict[str, Any]:
    """Begin a session."""
    tokens = accounts().log_in(body["email"], body["password"], address(), body["stay"])
    return _handed_out(tokens, body["refreshIn"] == "cookie")


@auth.route("/refresh", methods=["POST"])
@auth.response(200, schemas.Tokens)
@auth.alt_response(401, schema=schemas.Problem, description="Not a living refresh token, or one used before")
@refresh_required
def refresh() -> dict[str, Any]:
    """Get a new access token and the next refresh token. A refresh token that comes twice ends its session at once."""
    claims = refresh_claims()
    tokens = accounts().refresh(caller(), claims["rot"], claims.get("stay") is True)
    return _handed_out(tokens, cookies.asked())


@auth.route("/logout", methods=["POST"])
@auth.response(200, schemas.Message)
@auth.alt_response(401, schema=schemas.Problem, description="Not a living access token")
@session_required
def log_out() -> dict[str, str]:
    """End the session: its tokens are dead at once, everywhere."""
    accounts().log_out(caller())
    if cookies.asked():
        cookies.drop()
    return {"message": "You are logged out."}


def _handed_out(tokens: Tokens, in_cookie: bool) -> dict[str, Any]:
    body = {"token": tokens.access, "expiresIn": tokens.seconds}
    if in_cookie:
        cookies.put(tokens.refresh, tokens.refresh_seconds, tokens.stay)
        return body
    return {**body, "refreshToken": tokens.refresh}
