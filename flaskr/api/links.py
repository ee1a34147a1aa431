"""Addresses without a token, and the archive of many files that they are most needed for."""

import contextlib
from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Any, cast
from urllib.parse import quote

from flask import Response, current_app, jsonify, request, url_for

from flaskr import archive
from flaskr.api import schemas
from flaskr.api.authentication import caller, link_required, user_required, watch_required
from flaskr.api.parsing import Blueprint
from flaskr.api.tasks import TASK, conversions, sent
from flaskr.conversions import Busy, Download, Selection
from flaskr.links import Link, Links
from flaskr.models import State

links = Blueprint("links", __name__, url_prefix="/api", description="Downloads for browsers, and archives")

NAME = "swnube.zip"


def _links() -> Links:
    return cast(Links, current_app.extensions["links"])


@links.route(TASK + "/link", methods=["POST"])
@links.arguments(schemas.FileLink)
@links.response(200, schemas.Link)
@links.alt_response(404, schema=schemas.Problem, description="You have no such task")
@links.alt_response(409, schema=schemas.Problem, description="Not converted, or not yet")
@user_required
def link_to_file(body: dict[str, str], task_id: int) -> dict[str, Any]:
    """Get an address of one file that needs no token, for a while: the store's own where it can sign one."""
    original = body["file"] == "original"
    found = (conversions().original if original else conversions().converted)(caller(), task_id)
    address = conversions().signed_url(found) or _address(_links().to_file(caller(), task_id, body["file"]))
    return {"url": address, "expiresIn": _links().seconds}


@links.route("/tasks/archive", methods=["GET"])
@links.arguments(schemas.ArchiveQuery, location="query")
@links.response(200, {"type": "string", "format": "binary"}, content_type="application/zip")
@links.alt_response(503, schema=schemas.Problem, description="Too many archives at once; Retry-After says when")
@user_required
def download_archive(query: dict[str, Any]) -> Response:
    """Download your converted files as one zip: all of them, or those that the parameters select."""
    return _zipped(query)


@links.route("/tasks/archive", methods=["POST"])
@links.arguments(schemas.ArchiveQuery)
@links.response(200, schemas.Link)
@user_required
def link_to_archive(body: dict[str, Any]) -> dict[str, Any]:
    """Get an address of such a zip that needs no token, for a while."""
    return {"url": _address(_links().to_archive(caller(), body)), "expiresIn": _links().seconds}


@links.route("/tasks/watch", methods=["POST"])
@links.response(200, schemas.Watch)
@links.alt_response(503, schema=schemas.Problem, description="Nobody can tell just now; read the list instead")
@user_required
def begin_watch() -> dict[str, Any]:
    """Get an address that tells cheaply whether anything of yours has changed, and what it says now.

    Read the list after this, then ask that address every few seconds, and read the list again when `version` differs.
    How far a running conversion is does not count as a change.
    """
    secret = _links().to_watch(caller())
    version = current_app.extensions["queue"].changed(caller().id)
    return {"url": url_for("links.watch", secret=secret), "expiresIn": _links().watch_seconds, "version": version}


@links.route("/watch/<secret>", methods=["GET"])
@links.response(200, schemas.Version)
@links.alt_response(401, schema=schemas.Problem, description="The address has ended")
@links.alt_response(503, schema=schemas.Problem, description="Nobody can tell just now; read the list instead")
@watch_required
def watch(account: int) -> Response:
    """Tell whether anything has changed; 304 for the ETag of the last answer when not."""
    version = current_app.extensions["queue"].changed(account)
    response = jsonify(version=version)
    response.set_etag(version)
    response.headers["Cache-Control"] = "private, no-cache"
    return cast(Response, response.make_conditional(request))


@links.route("/links/<secret>", methods=["GET"])
@links.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
@links.alt_response(401, schema=schemas.Problem, description="The address has ended")
@link_required
def follow(link: Link) -> Response:
    """Download what the address was made for."""
    if link.archive is not None:
        return _zipped(link.archive)
    found = conversions().original if link.file == "original" else conversions().converted
    return sent(found(caller(), link.task))


def _address(secret: str) -> str:
    return url_for("links.follow", secret=secret)


def _zipped(query: dict[str, Any]) -> Response:
    numbers = query.get("tasks")
    selection = Selection(
        states=(State.PROCESSED,), name=query.get("name", ""), ids=tuple(numbers) if numbers is not None else None
    )
    slots: BoundedSemaphore = current_app.extensions["archive_slots"]
    if not slots.acquire(blocking=False):
        raise Busy("As many archives are being made as may be. Try again in a moment.")
    try:
        files = _one_by_one(conversions().converted_files(caller(), selection))
        # Given back at the last byte, or when the answer is let go of before that: once, whichever is first.
        slot = contextlib.ExitStack()
        slot.callback(slots.release)
        response = Response(_through(slot, archive.stream(conversions(), files)), mimetype="application/zip")
    except BaseException:
        slots.release()
        raise
    response.call_on_close(slot.close)
    response.headers["Content-Disposition"] = f"attachment; filename=\"{NAME}\"; filename*=UTF-8''{quote(NAME)}"
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that buffered it would keep a second copy
    return response


def _through(slot: contextlib.ExitStack, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with slot:
        yield from chunks


def _one_by_one(files: Iterator[Download]) -> Iterator[Download]:
    """Ask for each in a context of its own: that of the request has ended when the archive is on its way."""
    app = cast(Any, current_app)._get_current_object()

    def ask() -> Iterator[Download]:
        while True:
            with app.app_context():
                file = next(files, None)
            if file is None:
                return
            yield file

    return ask()
