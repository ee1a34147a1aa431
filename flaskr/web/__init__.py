"""The page at /: templates and static files."""

from pathlib import Path

from flask import Blueprint, Flask, Response, render_template, send_from_directory

from flaskr.api.authentication import public
from worker.contract.formats import OUTPUTS

web = Blueprint("web", __name__, template_folder="templates")
_FILES = Path(__file__).parent / "static"


@web.route("/")
@public
def page() -> str:
    """Show what this service is and how to use it."""
    return render_template("page.html", formats=list(OUTPUTS.values()))


@web.route("/static/<path:name>")
@public
def asset(name: str) -> Response:
    """Return one of the page's files."""
    return send_from_directory(_FILES, name, max_age=3600)


def register(app: Flask) -> None:
    """Add the page."""
    app.register_blueprint(web)
