"""/api/formats: what can be read and written, and what would come out."""

from typing import Any

from flask import Response, current_app, jsonify

from flaskr.api import schemas
from flaskr.api.authentication import caller, public, user_required
from flaskr.api.errors import problem
from flaskr.api.parsing import Blueprint
from flaskr.api.tasks import conversions, target_named
from worker.contract.formats import catalogue, parse_options, plan, probe_from_json
from worker.contract.queue import QueueUnavailable

formats = Blueprint("formats", __name__, url_prefix="/api", description="What can be converted into what")


@formats.route("/formats", methods=["GET"])
@formats.response(200, {"type": "object"})
@public
def list_formats() -> Response:
    """List the formats that can be read and written, with each option's range."""
    try:
        encoders = [set(facts["encoders"]) for facts in current_app.extensions["queue"].facts()]
    except QueueUnavailable:
        encoders = []
    # Only what every worker can write: any of them may get the job.
    return jsonify(catalogue(set.intersection(*encoders) if encoders else None))


@formats.route("/formats/plan", methods=["POST"])
@formats.arguments(schemas.PlanQuery)
@formats.response(200, {"type": "object"})
@formats.alt_response(400, schema=schemas.Problem, description="An unknown format, an option out of range")
@formats.alt_response(404, schema=schemas.Problem, description="You have no such task")
@formats.alt_response(409, schema=schemas.Problem, description="No worker has looked at this task's file yet")
@user_required
def plan_conversion(body: dict[str, Any]) -> Any:
    """Tell what a conversion would give, for one of your tasks or for a probe of a file."""
    target = target_named(body["newFormat"])
    options = parse_options(target, body.get("options", {}))
    if "task" in body:
        source = conversions().get(caller(), body["task"]).source
        if source is None:
            return problem(409, "No worker has looked at this task's file yet. Ask again when it is converted.")
    else:
        source = body.get("probe")
        if source is None:
            sentence = "Name a task, or describe the file in probe."
            return problem(400, sentence, {"probe": [sentence]})
    return jsonify(plan(probe_from_json(source), target, options).to_json())
