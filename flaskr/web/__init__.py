"""The page at /: templates and static files."""

from flask import Blueprint, Flask, render_template

from flaskr.api.authentication import public
from worker.contract.formats import OUTPUTS

web = Blueprint("web", __name__, template_folder="templates", static_folder="static", static_url_path="/static")


@web.route("/")
@public
def page() -> str:
    """Show what this service is and how to use it."""
    return render_template("page.html", formats=list(OUTPUTS.values()))


def register(app: Flask) -> None:
    """Add the page."""
    app.register_blueprint(web)
    app.view_functions["web.static"].authentication = "public"  # type: ignore[attr-defined]
