"""From what happened to what the client is told. The only place that knows status codes of failures."""

import errno
from typing import Any

import structlog
from flask import Flask, Response, json, request
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from flaskr.accounts import AccountRefused, TokenReplayed, WrongCredentials
from flaskr.api import cookies
from flaskr.conversions import (
    BadJobToken,
    Busy,
    NotConverted,
    StaleAttempt,
    TaskMissing,
    UploadRefused,
    WaveformMissing,
)
from flaskr.db import db
from flaskr.limits import QuotaExceeded
from flaskr.links import LinkDead
from worker.contract.formats import OptionError
from worker.contract.queue import QueueUnavailable
from worker.contract.store import StoreError

log = structlog.get_logger()
Errors = dict[str, list[str]]

_SENTENCES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The request is larger than this service takes.",
    429: "Too many requests. Try again later.",
}


def problem(
    status: int, detail: str, errors: Errors | None = None, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """Return an RFC 9457 answer. `error` repeats the sentence for clients from before."""
    body: dict[str, Any] = {
        "type": "about:blank", "title": HTTP_STATUS_CODES.get(status, "Error"), "status": status, "detail": detail,
        "error": detail, **more,
    }  # fmt: skip
    if errors:
        body["errors"] = errors
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    response.headers.update(headers or {})
    return response


def refused(errors: Errors) -> Response:
    """Return a 400 that names every field."""
    detail = " ".join(f"{field}: {sentence}" for field, sentences in errors.items() for sentence in sentences)
    return problem(400, detail[:1000] or "The request is not as it must be.", errors)


def unauthorized() -> Response:
    """Return the one 401 for every reason: what is wrong with a token helps only whoever forges one."""
    if cookies.asked():
        cookies.drop()  # a dead token would only be sent again
    return problem(401, "Log in first: this needs a valid token in the Authorization header.",
                   headers={"WWW-Authenticate": "Bearer"})  # fmt: skip


def register(app: Flask) -> None:
    """Give every exception that may leave a view its answer."""

    def on(*kinds: type[Exception]) -> Any:
        def add(handler: Any) -> Any:
            for kind in kinds:
                app.register_error_handler(kind, handler)
            return handler

        return add

    @on(UploadRefused, AccountRefused, OptionError)
    def _refused(error: Any) -> Response:
        return refused(error.errors)

    @on(WrongCredentials)
    def _wrong_credentials(_error: Exception) -> Response:
        return problem(401, "The e-mail or the password is wrong.", headers={"WWW-Authenticate": "Bearer"})

    @on(TokenReplayed)
    def _replayed(_error: Exception) -> Response:
        return unauthorized()

    @on(BadJobToken)
    def _bad_job_token(_error: Exception) -> Response:
        return problem(401, "This needs the job token of this task.", headers={"WWW-Authenticate": "Bearer"})

    @on(TaskMissing)
    def _missing(_error: Exception) -> Response:
        return problem(404, "You have no such task.")

    @on(NotConverted)
    def _not_converted(error: NotConverted) -> Response:
        return problem(409, f"There is no converted file: the task is {error.state}.", state=error.state)

    @on(WaveformMissing)
    def _no_waveform(_error: Exception) -> Response:
        return problem(404, "This task has no waveform.")

    @on(StaleAttempt)
    def _stale(_error: Exception) -> Response:
        return problem(409, "This attempt is superseded, settled, or in the hands of another worker.")

    @on(QuotaExceeded)
    def _quota(error: QuotaExceeded) -> Response:
        return problem(429, str(error), headers={"Retry-After": str(error.seconds)}, quota=error.quota)

    @on(Busy)
    def _busy(error: Exception) -> Response:
        return _later(str(error))

    @on(LinkDead)
    def _link_dead(_error: Exception) -> Response:
        return problem(401, "This address has ended. Ask for a new one.", headers={"WWW-Authenticate": "Bearer"})

    @on(QueueUnavailable)
    def _queue(_error: Exception) -> Response:
        return _later("The broker does not answer. Try again in a moment.")

    @on(StoreError)
    def _store(error: Exception) -> Response:
        log.warning("store.unavailable", reason=str(error))
        return _later("The file store does not answer. Nothing was kept; try again in a moment.")

    @on(OperationalError, InterfaceError, PoolTimeout)
    def _database(error: Exception) -> Response:
        log.warning("database.unavailable", reason=type(error).__name__)
        _let_go()
        return _later("The database does not answer. Try again in a moment.")

    @on(OSError)
    def _system(error: OSError) -> Response:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _unforeseen(error)
        log.error("disk.full")
        return _later("The service has no room for uploads just now. Nothing was kept; try again later.")

    @on(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        if isinstance(error, ClientDisconnected):
            log.info("client.disconnected")
        messages = (getattr(error, "data", None) or {}).get("messages")
        if isinstance(messages, dict):
            return refused(_by_field(messages))
        if error.response is not None:
            return error.response  # type: ignore[return-value]
        headers = {k: v for k, v in error.get_headers() if k in ("Allow", "Retry-After", "Content-Range")}
        return problem(status, _SENTENCES.get(status) or error.description or "The request failed.", headers=headers)

    on(Exception)(_unforeseen)


def _unforeseen(error: Exception) -> Response:
    # The route, not the path: a path may hold what opens a file.
    log.error("request.failed", route=request.url_rule.rule if request.url_rule else "unknown", exc_info=error)
    _let_go()
    return problem(500, "Something went wrong on our side; it is in our log.")


def _later(detail: str) -> Response:
    return problem(503, detail, headers={"Retry-After": "5"})


def _let_go() -> None:
    """Give the connection back; one that is broken must not break the answer too."""
    try:
        db.session.remove()
    except Exception as error:  # noqa: BLE001 - whatever the driver raises when its connection is gone
        log.warning("database.connection_lost", reason=type(error).__name__)


def _by_field(messages: dict[str, Any]) -> Errors:
    """Flatten ``{location: {field: [sentence]}}`` to ``{field: [sentence]}``."""
    errors: Errors = {}
    for location, fields in messages.items():
        named = fields if isinstance(fields, dict) else {location: fields}
        for field, sentences in named.items():
            name = location if field == "_schema" else str(field)
            errors[name] = [str(s) for s in sentences] if isinstance(sentences, list) else [str(sentences)]
    return errors
