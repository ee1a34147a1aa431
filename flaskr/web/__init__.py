"""The page at /: one document and its files, as they are in `static/`; it talks to the public API alone."""

from pathlib import Path

from flask import Blueprint, Flask, Response, render_template, send_from_directory

from flaskr.api.authentication import public

web = Blueprint("web", __name__, template_folder="templates")
_FILES = Path(__file__).parent / "static"


@web.route("/")
@public
def page() -> str:
    """Show the page."""
    return render_template("page.html")


@web.route("/static/<path:name>")
@public
def asset(name: str) -> Response:
    """Return one of the page's files. Asked for anew each time (304), so that no page mixes two releases."""
    return send_from_directory(_FILES, name)


def register(app: Flask) -> None:
    """Add the page."""
    app.register_blueprint(web)
