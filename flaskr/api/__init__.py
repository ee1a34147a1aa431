"""HTTP in and out: parse, call the domain, answer."""

from pathlib import Path
from typing import Any

import flask_openapi3_swagger
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, current_app, render_template, send_from_directory
from flask_smorest import Api
from webargs.flaskparser import FlaskParser

from flaskr.api import cookies, errors, requests
from flaskr.api.auth import auth
from flaskr.api.authentication import jwt, public
from flaskr.api.formats import formats
from flaskr.api.health import health
from flaskr.api.reports import reports
from flaskr.api.tasks import tasks

docs = Blueprint("docs", __name__, template_folder="templates")
_SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

_START = """const main = document.getElementById("swagger-ui");
SwaggerUIBundle({url: main.dataset.document, domNode: main, deepLinking: true});
"""


@docs.route("/api/docs")
@public
def browse() -> str:
    """Show the OpenAPI document as a page that can be tried out."""
    return render_template("docs.html")


@docs.route("/api/openapi.json")
@public
def document() -> Any:
    """Return the OpenAPI document, made from the code when the process started."""
    return current_app.extensions["openapi"]


@docs.route("/api/docs/start.js")
@public
def start() -> Any:
    """Return the line that starts the page; in a file of its own, so that no inline script need be allowed."""
    return _START, 200, {"Content-Type": "text/javascript; charset=utf-8"}


@docs.route("/api/docs/<path:name>")
@public
def asset(name: str) -> Any:
    """Return a part of that page, from the package that ships it."""
    return send_from_directory(_SWAGGER, name, max_age=86400)


class _Parser(FlaskParser):
    DEFAULT_VALIDATION_STATUS = 400


class _Api(Api):
    def _register_error_handlers(self) -> None:
        """flaskr.api.errors has them all."""


def register(app: Flask) -> None:
    """Add every route, the OpenAPI document and the error answers."""
    app.config["JWT_REFRESH_COOKIE_NAME"] = cookies.NAME
    app.config["JWT_COOKIE_CSRF_PROTECT"] = False  # flaskr.api.cookies has locks of its own
    jwt.init_app(app)
    requests.register(app)
    api = _Api(app, spec_kwargs={"marshmallow_plugin": MarshmallowPlugin()})
    bearer = {"type": "http", "scheme": "bearer"}
    for name, text in (("accessToken", "of /api/auth/login"), ("refreshToken", "of /api/auth/login"),
                       ("jobToken", "of one attempt, for workers")):  # fmt: skip
        api.spec.components.security_scheme(name, {**bearer, "description": f"The token {text}."})
    api.spec.components.security_scheme("refreshCookie", {
        "type": "apiKey", "in": "cookie", "name": cookies.NAME,
        "description": f"The refresh token in a cookie; goes together with the header {cookies.HEADER}: cookie.",
    })  # fmt: skip
    for blueprint in (auth, tasks, reports, formats):
        blueprint.ARGUMENTS_PARSER = _Parser()
        api.register_blueprint(blueprint)
    app.register_blueprint(health)
    app.register_blueprint(docs)
    document = api.spec.to_dict()
    app.extensions["openapi"] = document
    errors.register(app)
