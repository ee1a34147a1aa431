"""Traces along a task's way through both tiers, for the collector that OTEL_EXPORTER_OTLP_ENDPOINT names (OTLP over HTTP).

Without that setting nothing of OpenTelemetry's SDK is loaded, and everything here does nothing. Its other settings
(OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, …) are read by the SDK itself. A span holds ids,
numbers, and the names of routes, phases and errors: never a header, a body, a query, a file's name or an error's text.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

SETTING = "OTEL_EXPORTER_OTLP_ENDPOINT"
Kind = Literal["internal", "server", "client", "producer", "consumer"]


class Span:
    """What is under way, as the code that does it sees it; without a collector it keeps nothing."""

    trace = ""
    """The trace's id, for log lines."""

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes: strings, numbers and truths."""

    def fail(self, reason: str) -> None:
        """Mark it as failed. reason: a code or an error's name."""


class _Recorded(Span):
    def __init__(self, span: Any) -> None:
        self._span = span
        self._failed = False
        self.trace = f"{span.get_span_context().trace_id:032x}"

    def note(self, attributes: Mapping[str, Any]) -> None:
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        if self._failed:
            return  # the first reason is the nearest to the cause
        self._failed = True
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))


class _Tracing:
    """The SDK, with an exporter and its thread made in each process at its first span: neither survives a fork."""

    def __init__(self, tier: str) -> None:
        # Loaded here, so before processes are forked.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        name = os.environ.get("OTEL_SERVICE_NAME") or f"swnube-{tier}"
        resource = Resource.create({"service.name": name, "service.instance.id": socket.gethostname()})
        self.propagator = TraceContextTextMapPropagator()
        self._make: Any = lambda: (TracerProvider(resource=resource), BatchSpanProcessor(OTLPSpanExporter()))
        self._lock = threading.Lock()
        self._process = 0
        self._provider: Any = None
        self._tracer: Any = None

    def tracer(self) -> Any:
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._provider, processor = self._make()
                    self._provider.add_span_processor(processor)
                    self._tracer = self._provider.get_tracer("swnube")
                    self._process = os.getpid()
        return self._tracer

    @contextlib.contextmanager
    def span(self, name: str, kind: Kind, parent: str) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind

        context = self.propagator.extract({"traceparent": parent}) if parent else None
        with self.tracer().start_as_current_span(
            name, context=context, kind=SpanKind[kind.upper()], record_exception=False, set_status_on_exception=False
        ) as span:
            yield _Recorded(span)

    def end(self) -> None:
        if self._process == os.getpid():
            self._provider.shutdown()


_NOTHING = Span()
_tracing: _Tracing | None = None


def set_up_traces(tier: str) -> None:
    """Load what traces need, if there is a collector; once per program, before it forks."""
    global _tracing
    if os.environ.get(SETTING) and _tracing is None:
        _tracing = _Tracing(tier)


@contextlib.contextmanager
def span(
    name: str, kind: Kind = "internal", parent: str = "", attributes: Mapping[str, Any] | None = None
) -> Iterator[Span]:
    """Trace what the body does.

    parent: a `traceparent` from elsewhere; else it belongs to the span of this thread, or begins a trace.
    attributes: as for :meth:`Span.note`.
    """
    if _tracing is None:
        yield _NOTHING
        return
    with _tracing.span(name, kind, parent) as current:
        current.note(attributes or {})
        try:
            yield current
        except BaseException as error:
            current.fail(type(error).__name__)
            raise


def traceparent() -> str:
    """Return what leads from elsewhere to the span of this thread; empty without one."""
    carrier: dict[str, str] = {}
    if _tracing is not None:
        _tracing.propagator.inject(carrier)
    return carrier.get("traceparent", "")


def end_traces() -> None:
    """Hand over what this process has not yet; for processes that end without Python's own farewell."""
    if _tracing is not None:
        _tracing.end()
