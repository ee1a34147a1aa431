"""/api/auth: sign up, log in, refresh, log out."""

from typing import Any, cast

from flask import current_app
from flask_smorest import Blueprint

from flaskr.accounts import Accounts
from flaskr.api import schemas
from flaskr.api.authentication import caller, public, refresh_required, user_required

auth = Blueprint("auth", __name__, url_prefix="/api/auth", description="Accounts and tokens")


def accounts() -> Accounts:
    return cast(Accounts, current_app.extensions["accounts"])


@auth.route("/signup", methods=["POST"])
@auth.arguments(schemas.SignUp)
@auth.response(200, schemas.Message)
@auth.alt_response(400, schema=schemas.Problem, description="A field is missing, malformed, weak or taken")
@public
def sign_up(body: dict[str, str]) -> dict[str, str]:
    """Make an account."""
    accounts().register(body["user"], body["email"], body["password1"], body["password2"])
    return {"message": "The account is made. You can log in now."}


@auth.route("/login", methods=["POST"])
@auth.arguments(schemas.LogIn)
@auth.response(200, schemas.Tokens)
@auth.alt_response(400, schema=schemas.Problem, description="A field is missing")
@auth.alt_response(401, schema=schemas.Problem, description="The e-mail or the password is wrong")
@public
def log_in(body: dict[str, str]) -> dict[str, Any]:
    """Begin a session."""
    tokens = accounts().log_in(body["email"], body["password"])
    return {"token": tokens.access, "refreshToken": tokens.refresh, "expiresIn": tokens.seconds}


@auth.route("/refresh", methods=["POST"])
@auth.response(200, schemas.Tokens)
@auth.alt_response(401, schema=schemas.Problem, description="Not a living refresh token")
@refresh_required
def refresh() -> dict[str, Any]:
    """Get a new access token for a refresh token."""
    tokens = accounts().refresh(caller())
    return {"token": tokens.access, "expiresIn": tokens.seconds}


@auth.route("/logout", methods=["POST"])
@auth.response(200, schemas.Message)
@auth.alt_response(401, schema=schemas.Problem, description="Not a living access token")
@user_required
def log_out() -> dict[str, str]:
    """End the session: its tokens are dead at once, everywhere."""
    accounts().log_out(caller())
    return {"message": "You are logged out."}
