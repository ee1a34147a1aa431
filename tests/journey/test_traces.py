"""Traces along a task's way, as a collector receives them over OTLP/HTTP from real processes."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest
from itsdangerous import URLSafeSerializer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.client import PASSWORD, Client, tone
from tests.services import free_port, wait_for
from tests.stack import PROJECT, Stack

Spans = list[dict[str, Any]]


class Collector:
    """Takes what exporters post to /v1/traces, and keeps it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                assert not self.headers.get("Content-Encoding")
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> Spans:
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                [service] = [
                    pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"
                ]
                found += [
                    {
                        "service": service, "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(), "status": span.status.code,
                        **{pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes},
                    }
                    for scope in resource.scope_spans for span in scope.spans
                ]  # fmt: skip
        return found


@pytest.fixture
def collector() -> Any:
    with Collector() as running:
        yield running


def test_one_trace_leads_from_the_upload_to_the_report(collector: Collector) -> None:
    """API, message, worker and the worker's calls back are one trace, each the child of what caused it; no secret is in it."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Stack(web=2, environment=environment) as stack:
        client = Client(stack.url).signup().login()
        task = client.upload(tone(), "private name.wav", "mp3")["id"]
        assert client.wait(task)["state"] == "PROCESSED"
        broken = client.upload(b"no audio at all" * 99, "broken.mp3", "ogg")["id"]
        assert client.wait(broken)["error"]["code"] == "not_audio"

        def ways() -> list[Spans]:
            spans = collector.spans()
            sent = [span for span in spans if span["name"] == "conversions send"]
            whole = [[span for span in spans if span["trace"] == each["trace"]] for each in sent]
            return (
                whole
                if len(whole) == 2 and all(len(way) == count for way, count in zip(whole, (10, 9), strict=True))
                else []
            )

        try:
            done, failed = wait_for(ways, "two whole traces", seconds=30, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; there are {collector.spans()}") from None
    by_id = {span["id"]: span for span in done}

    def tree(span: dict[str, Any]) -> tuple[Any, ...]:
        children = sorted(tree(child) for child in done if child["parent"] == span["id"])
        return (span["service"], span["name"], children)

    [root] = [span for span in done if span["parent"] not in by_id]
    web, worker = "swnube-web", "swnube-worker"
    assert tree(root) == (web, "POST /api/tasks", [
        (web, "conversions send", [
            (worker, "conversions process", [
                (worker, "POST claimed", [(web, "POST /api/tasks/<int:task_id>/claimed", [])]),
                (worker, "POST processed", [(web, "POST /api/tasks/<int:task_id>/processed", [])]),
                (worker, "converting", []), (worker, "downloading", []), (worker, "uploading", []),
            ]),
        ]),
    ])  # fmt: skip
    assert {span.get("http.response.status_code") for span in done} == {200, None}
    assert {span["status"] for span in done} == {0}
    [trouble] = [span for span in failed if span["status"]]
    assert (trouble["name"], trouble["error.type"]) == ("converting", "not_audio")

    said = b"".join(collector.bodies)
    serializer = URLSafeSerializer(
        stack.environment["JWT_SECRET_KEY"], salt="job", signer_kwargs={"digest_method": hashlib.sha256}
    )
    secrets = [
        PASSWORD, str(client.session.headers["Authorization"]).removeprefix("Bearer "), client.refresh_token,
        stack.environment["JWT_SECRET_KEY"], str(serializer.dumps([task, 1])), "private name", client.email,
    ]  # fmt: skip
    for secret in secrets:
        assert secret.encode() not in said


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env={"PATH": os.environ["PATH"], **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_without_a_collector_nothing_is_loaded() -> None:
    """Neither tier imports the SDK or the exporter, and spans cost nothing."""
    code = (
        "import sys, flaskr, worker.app\n"
        "from worker.contract import traces\n"
        "traces.set_up_traces('web')\n"
        "with traces.span('x') as s: s.note({'a': 1}); s.fail('b')\n"
        "print(s.trace, traces.traceparent(), [m for m in sys.modules if sys.modules[m] and m.startswith(('opentelemetry.sdk', 'opentelemetry.exp'))])"
    )
    settings = {"REDIS_URL": "unix:///nowhere", "STORAGE_URL": "file:///nowhere", "API_URL": "http://127.0.0.1:9"}
    assert python(code, **settings).strip() == "[]"


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    """Spans are made and the process ends, though nobody takes them."""
    code = (
        "from worker.contract import traces\n"
        "traces.set_up_traces('web')\n"
        "with traces.span('x'): print(len(traces.traceparent()))"
    )
    assert python(code, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}") == "55"
