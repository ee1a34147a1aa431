"""The workers' side of /api/tasks: claim an attempt, give it back, report how it ended."""

from typing import Any

from flask import g

from flaskr.api import schemas
from flaskr.api.authentication import job_required
from flaskr.api.errors import problem
from flaskr.api.parsing import Blueprint
from flaskr.api.tasks import TASK, conversions
from flaskr.conversions import Ended, StaleAttempt

reports = Blueprint("reports", __name__, url_prefix="/api", description="For workers, with a job token")


@reports.route(TASK + "/claimed", methods=["POST"])
@reports.arguments(schemas.Claim)
@reports.response(200, schemas.Lease)
@reports.alt_response(401, schema=schemas.Problem, description="Not this task's job token")
@reports.alt_response(404, schema=schemas.Problem, description="The task is gone")
@reports.alt_response(409, schema=schemas.Problem, description="Superseded, settled or alive elsewhere")
@job_required
def claimed(body: dict[str, str], task_id: int, attempt: int) -> dict[str, Any]:
    """Claim an attempt before starting, and again to stay its holder."""
    return {"attempt": attempt, "leaseSeconds": conversions().claim(task_id, attempt, body["worker"])}


@reports.route(TASK + "/released", methods=["POST"])
@reports.arguments(schemas.Claim)
@reports.response(200, schemas.Message)
@reports.alt_response(401, schema=schemas.Problem, description="Not this task's job token")
@reports.alt_response(404, schema=schemas.Problem, description="The task is gone")
@reports.alt_response(409, schema=schemas.Problem, description="Superseded, settled or not yours")
@job_required
def released(body: dict[str, str], task_id: int, attempt: int) -> dict[str, Any]:
    """Give a claimed attempt back, because its worker is told to end; another one is issued at once."""
    conversions().release(task_id, attempt, body["worker"], g.request_id)
    return {"message": "Another worker will do it."}


@reports.route(TASK + "/processed", methods=["POST"])
@reports.arguments(schemas.Report)
@reports.response(200, schemas.Message)
@reports.alt_response(400, schema=schemas.Problem, description="Not a report")
@reports.alt_response(401, schema=schemas.Problem, description="Not this task's job token")
@reports.alt_response(404, schema=schemas.Problem, description="The task is gone")
@reports.alt_response(409, schema=schemas.Problem, description="Superseded, or settled otherwise")
@job_required
def processed(body: dict[str, Any], task_id: int, attempt: int) -> Any:
    """Report how an attempt ended."""
    if body["attempt"] != attempt:
        raise StaleAttempt
    done = body["outcome"] == "done"
    detail = body.get("result") if done else body.get("error")
    if detail is None:
        field = "result" if done else "error"
        return problem(400, f"{field}: This field is missing.", {field: ["This field is missing."]})
    error = body.get("error") or {}
    conversions().settle(
        task_id,
        Ended(
            attempt, body["result"] if done else None, error.get("code", ""), error.get("message", ""),
            body.get("source"), body.get("phases"), body.get("waveform"),
        ),
    )  # fmt: skip
    return {"message": "The report is recorded."}
