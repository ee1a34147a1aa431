"""/api/tasks: upload, list, read, change, remove, download."""

from typing import Any, cast
from urllib.parse import quote

from flask import Response, current_app, g, redirect, request, url_for
from werkzeug.wsgi import wrap_file

from flaskr.api import schemas
from flaskr.api.authentication import caller, user_required
from flaskr.api.parsing import Blueprint
from flaskr.conversions import Conversions, Download, Selection, UploadRefused
from flaskr.models import SHOWN, State, Task
from worker.contract.formats import OUTPUTS, OptionError, parse_options
from worker.contract.queue import Progress, Queue

tasks = Blueprint("tasks", __name__, url_prefix="/api", description="Files and their conversions")

TASK = "/tasks/<int:task_id>"
_FORM = {
    "type": "object",
    "required": ["audio", "filename", "newFormat"],
    "properties": {
        "audio": {"type": "string", "format": "binary"},
        "filename": {"type": "string"},
        "newFormat": {"type": "string"},
    },
    "additionalProperties": {"type": "string", "description": "an option; see GET /api/formats"},
}


def conversions() -> Conversions:
    return cast(Conversions, current_app.extensions["conversions"])


@tasks.route("/tasks", methods=["GET"])
@tasks.arguments(schemas.TaskQuery, location="query")
@tasks.response(200, schemas.Task(many=True))
@tasks.alt_response(400, schema=schemas.Problem, description="A parameter is not as it must be")
@user_required
def list_tasks(query: dict[str, Any]) -> Any:
    """List your tasks, a page at a time; `Link: …; rel="next"` names the next page."""
    selection = Selection(
        newest_first=query["order"] == 1, most=query.get("max"), states=_states(query.get("state")),
        after=query.get("after"), name=query.get("name", ""),
    )  # fmt: skip
    found, more = conversions().browse(caller(), selection)
    headers = {}
    if more and found:
        following = {**request.args.to_dict(), "after": str(found[-1].id)}
        headers["Link"] = f'<{url_for("tasks.list_tasks", **cast(Any, following))}>; rel="next"'
    return _shown(found), 200, headers


@tasks.route("/tasks", methods=["POST"])
@tasks.doc(requestBody={"required": True, "content": {"multipart/form-data": {"schema": _FORM}}})
@tasks.response(200, schemas.Created)
@tasks.alt_response(400, schema=schemas.Problem, description="No file, an unknown format, an option out of range")
@tasks.alt_response(413, schema=schemas.Problem, description="Too large")
@tasks.alt_response(429, schema=schemas.Problem, description="Over quota; Retry-After says when")
@user_required
def upload() -> dict[str, Any]:
    """Upload a file to convert."""
    conversions().admit(caller())  # before any of it is read
    form = request.form.to_dict()
    repeated = [field for field, values in request.form.lists() if len(values) > 1]
    if repeated:
        raise UploadRefused({field: ["This field is there more than once."] for field in repeated})
    missing = {field: ["This field is missing."] for field in ("filename", "newFormat") if not form.get(field)}
    audio = request.files.get("audio")
    if audio is None:
        missing["audio"] = ["This file is missing."]
    if missing or audio is None:
        raise UploadRefused(missing)
    filename = form.pop("filename")
    target = target_named(form.pop("newFormat"))
    options = parse_options(target, form)
    task = conversions().submit(caller(), filename, cast(Any, audio.stream), target, options, g.request_id)
    return {"message": "The file is uploaded and waits for its conversion.", "task": _shown([task])[0]}


@tasks.route(TASK, methods=["GET"])
@tasks.response(200, schemas.Task)
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@user_required
def read(task_id: int) -> dict[str, Any]:
    """Read one task."""
    return _shown([conversions().get(caller(), task_id)])[0]


@tasks.route(TASK, methods=["PUT"])
@tasks.arguments(schemas.NewConversion)
@tasks.response(200, schemas.Task)
@tasks.alt_response(400, schema=schemas.Problem, description="An unknown format, an option out of range")
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@tasks.alt_response(429, schema=schemas.Problem, description="Over quota; Retry-After says when")
@user_required
def change(body: dict[str, Any], task_id: int) -> dict[str, Any]:
    """Convert the original again, to another format or with other options; the newest wish wins."""
    conversions().get(caller(), task_id)
    target = target_named(body.pop("newFormat"))
    task = conversions().reconvert(caller(), task_id, target, parse_options(target, body), g.request_id)
    return _shown([task])[0]


@tasks.route(TASK, methods=["DELETE"])
@tasks.response(200, schemas.Message)
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@user_required
def remove(task_id: int) -> dict[str, str]:
    """Remove a task and all its files."""
    conversions().remove(caller(), task_id)
    return {"message": "The task and its files are removed."}


@tasks.route(TASK + "/original", methods=["GET"])
@tasks.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@user_required
def original(task_id: int) -> Response:
    """Download the file as it was uploaded."""
    return sent(conversions().original(caller(), task_id))


@tasks.route("/download/<int:task_id>", methods=["GET"])
@tasks.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@user_required
def download(task_id: int) -> Response:
    """Download the file as it was uploaded, at the address that older clients know."""
    return sent(conversions().original(caller(), task_id))


@tasks.route(TASK + "/converted", methods=["GET"])
@tasks.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task")
@tasks.alt_response(409, schema=schemas.Problem, description="Not converted, or not yet")
@user_required
def converted(task_id: int) -> Response:
    """Download the converted file."""
    return sent(conversions().converted(caller(), task_id))


@tasks.route(TASK + "/waveform", methods=["GET"])
@tasks.response(200, schemas.Waveform)
@tasks.alt_response(404, schema=schemas.Problem, description="You have no such task, or it has no waveform")
@tasks.alt_response(409, schema=schemas.Problem, description="Not converted, or not yet")
@user_required
def waveform(task_id: int) -> Response:
    """Read the waveform of the converted file, to draw it."""
    found = conversions().waveform(caller(), task_id)
    response = Response(mimetype=found.mime)
    response.set_etag(found.etag)
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request)
    if response.status_code == 200:
        with conversions().open(found) as stream:
            response.set_data(stream.read())
    return response


def sent(download: Download) -> Response:
    """Answer with the bytes, or with where they are; whole or by Range, and 304 when the client has them."""
    if url := conversions().signed_url(download):
        return cast(Response, redirect(url, 302))
    stream = conversions().open(download)
    size = stream.seek(0, 2)
    stream.seek(0)
    response = Response(wrap_file(request.environ, stream, 256 * 1024), mimetype=download.mime, direct_passthrough=True)
    response.call_on_close(stream.close)
    response.content_length = size
    ascii_name = download.name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    response.headers["Content-Disposition"] = (  # RFC 6266: an ASCII name for old clients, the true one for the rest
        f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(download.name, safe='')}"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(download.etag)
    response.make_conditional(request, accept_ranges=True, complete_length=size)
    return response


def target_named(raw: str) -> str:
    """Return the format of that name, as written by people; raises OptionError."""
    target = raw.strip().lower().removeprefix(".")
    if target not in OUTPUTS:
        raise OptionError({"newFormat": [f"Unknown format. These can be written: {', '.join(sorted(OUTPUTS))}."]})
    return target


def _states(raw: str | None) -> tuple[State, ...]:
    if raw is None:
        return SHOWN
    named = [part.strip().upper() for part in raw.split(",")]
    if not all(name in SHOWN for name in named):
        raise OptionError({"state": [f"A state is one of {', '.join(SHOWN)}."]})
    return tuple(State(name) for name in named)


def _shown(found: list[Task]) -> list[dict[str, Any]]:
    """Return tasks of the caller as they are on the wire."""
    queue: Queue = current_app.extensions["queue"]
    progress = queue.read_progress([task.id for task in found if task.state is State.PROCESSING])
    return [_one(task, progress.get(task.id)) for task in found]


def _one(task: Task, progress: Progress | None) -> dict[str, Any]:
    running = task.state is State.PROCESSING
    expires = conversions().expires_at(task)
    current = progress if progress and progress.attempt == task.attempt else None
    return {
        "id": task.id,
        "timestamp": task.created_at.isoformat(),
        "name": task.name,
        "originalExt": task.original_ext,
        "convertedExt": OUTPUTS[task.format].extension,
        "newFormat": task.format,
        "state": str(task.state),
        "user": caller().email,
        "attempt": task.attempt,
        "options": task.options,
        "originalBytes": task.original_bytes,
        "progress": (
            {"phase": current.phase, "percent": current.percent} if current else {"phase": "starting", "percent": None}
        ) if running else None,
        "error": {"code": task.error_code, "message": task.error_message} if task.state is State.FAILED else None,
        "result": task.result,
        "source": task.source,
        "waveform": task.state is State.PROCESSED and task.waveform_crc32c is not None,
        "startedAt": task.started_at.isoformat() if task.started_at else None,
        "finishedAt": task.finished_at.isoformat() if task.finished_at else None,
        "expiresAt": expires.isoformat() if expires else None,
    }  # fmt: skip
