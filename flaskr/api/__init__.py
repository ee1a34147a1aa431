"""HTTP in and out: parse, call the domain, answer."""

from pathlib import Path
from typing import Any

import flask_openapi3_swagger
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, current_app, render_template, send_from_directory
from flask_cors import CORS
from flask_smorest import Api

from flaskr.api import cookies, errors, requests
from flaskr.api.auth import auth
from flaskr.api.authentication import jwt, public
from flaskr.api.formats import formats
from flaskr.api.health import health
from flaskr.api.links import links
from flaskr.api.reports import reports
from flaskr.api.tasks import tasks
from worker.contract.formats import OUTPUTS

docs = Blueprint("docs", __name__, template_folder="templates")
_SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

_FILES = sorted({"application/octet-stream", *(output.mime for output in OUTPUTS.values())})
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


class _Api(Api):
    def _register_error_handlers(self) -> None:
        """flaskr.api.errors has them all."""


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Make the document say all that may be answered, also what views leave to errors.py and to HTTP itself."""
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    document["components"].pop("responses", None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            answers = operation["responses"]
            for code in [code for code, answer in answers.items() if code == "default" or "$ref" in answer]:
                del answers[code]  # what the framework says of its own answers, which are not ours
            may = {"400": "The request is not as it must be", "503": "The database or the store does not answer"}
            if operation.get("security"):
                may["401"] = "No valid token"
            if "{" in path:
                may["404"] = "There is nothing here for you"
            if "requestBody" in operation:
                may["413"] = "Too large"
            if "application/octet-stream" in answers["200"].get("content", {}):
                may["416"] = "There is no such range"
                files = {each: {"schema": {"type": "string", "format": "binary"}} for each in _FILES}
                answers["200"]["content"] = files
                answers["206"] = {"description": "The range that was asked for", "content": files}
                answers["302"] = {"description": "Where the file is, for a few minutes"}
                answers["304"] = {"description": "The client has it"}
            for code, text in may.items():
                answers.setdefault(code, {"description": text})
            for code, answer in answers.items():
                if code >= "400":
                    answer["content"] = problem
    return document


def register(app: Flask) -> None:
    """Add every route, the OpenAPI document and the error answers."""
    app.config["JWT_REFRESH_COOKIE_NAME"] = cookies.NAME
    app.config["JWT_COOKIE_CSRF_PROTECT"] = False  # flaskr.api.cookies has locks of its own
    jwt.init_app(app)
    if origins := app.config["CORS_ORIGINS"]:
        # X-Refresh-In is not among the headers: no other origin is ever to use the cookie.
        CORS(app, resources={r"/api/*": {"origins": list(origins)}}, supports_credentials=False, max_age=600,
             allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
             expose_headers=["Content-Disposition", "ETag", "Link", "Retry-After", "X-Request-ID"])  # fmt: skip
    requests.register(app)
    api = _Api(app, spec_kwargs={"marshmallow_plugin": MarshmallowPlugin()})
    bearer = {"type": "http", "scheme": "bearer"}
    for name, text in (("accessToken", "of /api/auth/login"), ("refreshToken", "of /api/auth/login"),
                       ("jobToken", "of one attempt, for workers")):  # fmt: skip
        api.spec.components.security_scheme(name, {**bearer, "description": f"The token {text}."})
    api.spec.components.security_scheme(
        "link", {"type": "apiKey", "in": "header", "name": "none", "description": "The address itself is the key."}
    )
    api.spec.components.security_scheme("refreshCookie", {
        "type": "apiKey", "in": "cookie", "name": cookies.NAME,
        "description": f"The refresh token in a cookie; goes together with the header {cookies.HEADER}: cookie.",
    })  # fmt: skip
    for blueprint in (auth, tasks, links, reports, formats):
        api.register_blueprint(blueprint)
    app.register_blueprint(health)
    app.register_blueprint(docs)
    app.extensions["openapi"] = _complete(api.spec.to_dict())
    errors.register(app)
