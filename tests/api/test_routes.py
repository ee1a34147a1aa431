"""What holds for all routes: authentication, documents, health."""

import re
from typing import Any

import pytest
from flask import Flask

from tests.api.conftest import Person

PUBLIC = {
    "auth.sign_up", "auth.log_in", "formats.list_formats", "health.alive", "health.ready", "health.exposition",
    "docs.browse", "docs.document", "docs.start", "docs.asset", "web.page", "web.asset",
}  # fmt: skip


def test_every_route_states_its_authentication_and_keeps_it(app: Flask) -> None:
    """A route without a stated authentication fails here; what is not public answers 401 without a token."""
    client = app.test_client()
    for rule in app.url_map.iter_rules():
        stated = getattr(app.view_functions[rule.endpoint], "authentication", None)
        assert stated in ("public", "user", "refresh", "session", "job", "link", "watch"), (
            f"{rule.endpoint} states no authentication"
        )
        assert (stated == "public") == (rule.endpoint in PUBLIC), rule.endpoint
        if stated == "public":
            continue
        path = rule.rule.replace("<int:task_id>", "1")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            body = {"newFormat": "ogg", "attempt": 1, "outcome": "done"}
            answer = client.open(path, method=method, json=body if method in ("POST", "PUT") else None)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.mimetype == "application/problem+json"


def test_the_openapi_document_names_every_route(app: Flask) -> None:
    """The document has each API route and method, with its security."""
    document: dict[str, Any] = app.test_client().get("/api/openapi.json").get_json()
    for rule in app.url_map.iter_rules():
        blueprint = rule.endpoint.split(".")[0]
        if blueprint not in ("auth", "tasks", "links", "reports", "formats"):
            continue
        path = rule.rule.replace("<int:task_id>", "{task_id}").replace("<secret>", "{secret}")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            operation = document["paths"][path][method.lower()]
            assert operation["summary"]
            assert bool(operation["security"]) == (rule.endpoint not in PUBLIC)


def test_the_document_can_be_browsed_without_other_servers(app: Flask) -> None:
    """The page and everything it names come from here."""
    client = app.test_client()
    page = client.get("/api/docs").text
    assert "http" not in page
    for part in ("/api/docs/css/swagger-ui.css", "/api/docs/js/swagger-ui-bundle.js", "/api/docs/start.js"):
        assert part in page
        assert client.get(part).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/api/nowhere", "/api/tasks/x", "/api/tasks/-1", "/api/docs/../../x"])
def test_unknown_addresses_get_a_problem(app: Flask, path: str) -> None:
    """404 with a problem body, never a page of the framework's."""
    answer = app.test_client().get(path)
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert app.test_client().patch("/api/auth/login").status_code == 405


def test_health_and_metrics(app: Flask, ana: Person) -> None:
    """Alive and ready answer 200; metrics count requests and show what waits."""
    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").get_json() == {"database": "ok", "broker": "ok", "store": "ok"}
    ana.upload()
    text = client.get("/metrics").text
    assert 'swnube_tasks{state="UPLOADED"} 1.0' in text
    assert "swnube_queue_depth 1.0" in text
    assert 'swnube_http_requests_total{method="POST",route="/api/tasks",status="200"}' in text


def test_the_page_comes_with_all_its_files(app: Flask) -> None:
    """GET / is a page in HTML; every script, style and picture that it names comes from here."""
    client = app.test_client()
    answer = client.get("/")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text)
    assert len(files) >= 2
    for name in files:
        assert client.get(name).status_code == 200, name


def test_formats_tells_ranges_and_the_plan(app: Flask, ana: Person) -> None:
    """GET /api/formats is public and lists inputs and outputs; a plan is worked out from a probe."""
    catalogue = app.test_client().get("/api/formats").get_json()
    names = {"mp3", "ogg", "wav", "flac", "m4a", "opus"}
    assert names <= set(catalogue["outputs"])
    assert names <= set(catalogue["inputs"])
    probe = {"container": "mp3", "codec": "mp3", "sampleRateHz": 44100, "channels": 2, "durationSeconds": 10.0}
    answer = ana.call("POST", "/api/formats/plan", json={"newFormat": "ogg", "probe": probe})
    assert answer.status_code == 200, answer.text
    assert ana.call("POST", "/api/formats/plan", json={"newFormat": "ogg"}).status_code == 400
    assert ana.call("POST", "/api/formats/plan", json={"newFormat": "ogg", "probe": {"x": 1}}).status_code == 400
    task_id = ana.upload().get_json()["task"]["id"]
    assert ana.call("POST", "/api/formats/plan", json={"newFormat": "ogg", "task": task_id}).status_code == 409
    assert {"not_audio", "damaged_input", "too_long", "timed_out"} <= set(catalogue["failures"])
    assert {"lossy_to_lossy", "truncated_input"} <= set(catalogue["warnings"])


def test_a_plan_ignores_nothing(ana: Person) -> None:
    """Options count in `options` and beside it; an unknown one, one given twice, or a task beside a probe get 400."""
    probe = {"container": "mp3", "codec": "mp3", "sampleRateHz": 44100, "channels": 2, "durationSeconds": 10.0}

    def ask(**body: Any) -> Any:
        return ana.call("POST", "/api/formats/plan", json={"newFormat": "wav", "probe": probe, **body})

    assert ask(bitDepth=24).get_json()["bitDepth"] == 24
    assert ask(options={"bitDepth": 24}).get_json()["bitDepth"] == 24
    for wrong in ({"volume": 1}, {"options": {"volume": 1}}, {"bitDepth": 24, "options": {"bitDepth": 16}}, {"task": 1},
                  {"startSeconds": 11}, {"bitDepth": 12}, {"options": {"bitDepth": None}}):  # fmt: skip
        answer = ask(**wrong)
        assert answer.status_code == 400, wrong
        assert answer.get_json()["errors"]
