"""What every request goes through: its id, its receiving of files, its headers and its place in the metrics."""

import math
import re
import secrets
import time
from typing import IO, Any, cast

import structlog
from flask import Flask, Request, Response, current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from flaskr import metrics
from flaskr.conversions import Conversions, TaskMissing

_BODY = 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


class UploadRequest(Request):
    """Receives a form's files where the store takes them from without another copy."""

    def _get_file_stream(
        self, total_content_length: int | None, content_type: str | None, filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:  # fmt: skip
        conversions: Conversions = current_app.extensions["conversions"]
        return conversions.spool()

    def get_data(self, *args: Any, **kwargs: Any) -> Any:
        data = super().get_data(*args, **kwargs)
        # A body without a length is cut off at the limit, and what is left of it would pass for the whole.
        if self.content_length is None and len(data) >= (self.max_content_length or math.inf):
            raise RequestEntityTooLarge
        return data

    def make_form_data_parser(self) -> Any:
        parser = super().make_form_data_parser()
        parser.stream_factory = cast(Any, self._get_file_stream)
        return parser


def address() -> str:
    """Return from where the request comes, as far as the trusted balancers know."""
    return request.remote_addr or ""


def register(app: Flask) -> None:
    """Hook all of it into the application."""
    app.request_class = UploadRequest
    # The page's players take files from where the store hands them out itself.
    origin = app.extensions["store"].origin
    policy = _POLICY.format(store=f" {origin}" if origin else "")

    @app.before_request
    def _begin() -> None:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        g.began = time.perf_counter()
        if request.endpoint != "tasks.upload":
            request.max_content_length = _BODY  # everything else is small, and is read into memory
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=g.request_id, address=address())

    @app.url_value_preprocessor
    def _within_ids(_endpoint: str | None, values: dict[str, Any] | None) -> None:
        if values and values.get("task_id", 0) >= 2**63:  # no database could hold it
            raise TaskMissing

    @app.after_request
    def _end(response: Response) -> Response:
        response.headers.setdefault("X-Request-ID", g.get("request_id", ""))
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("Permissions-Policy", _PERMISSIONS)
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if request.is_secure:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
        if request.path.startswith("/api/"):
            response.headers.setdefault("Cache-Control", "no-store")
        route = request.url_rule.rule if request.url_rule else "unknown"
        seconds = time.perf_counter() - g.get("began", time.perf_counter())
        metrics.HTTP_REQUESTS.labels(request.method, route, response.status_code).inc()
        metrics.HTTP_SECONDS.labels(request.method, route).observe(seconds)
        if route not in ("/healthz", "/readyz", "/metrics", "/api/watch/<secret>"):
            log.info("request.answered", method=request.method, route=route, status=response.status_code,
                     seconds=round(seconds, 4), user=getattr(g.get("caller"), "id", None))  # fmt: skip
        return response


# Of what a page may ask a browser for, ours needs nothing.
_PERMISSIONS = ", ".join(
    f"{feature}=()" for feature in (
        "accelerometer", "autoplay", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer",
        "microphone", "midi", "payment", "usb",
    )
)  # fmt: skip
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self'{store}; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)
