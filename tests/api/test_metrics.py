"""What Prometheus reads, and that the alerts and the dashboard ask for nothing else."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update

from flaskr import metrics
from flaskr.conversions import FINDINGS
from flaskr.db import db, from_now
from flaskr.models import Task
from tests import services
from tests.api.conftest import Hand, Person

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(app: Flask) -> Samples:
    """Every sample of /metrics by its name and labels."""
    families = text_string_to_metric_families(app.test_client().get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def test_what_a_sweeper_finds_is_told_by_every_instance(
    make_app: Callable[..., Flask], hand: Hand, ana: Person, app: Flask
) -> None:
    """A sweeper is a process without HTTP: what it found is in the metrics of instances that found nothing themselves."""
    sweeper, web = make_app(), make_app()
    before = read(web)
    assert [value(before, "swnube_sweeper_findings_total", kind=kind) for kind in FINDINGS] == [0] * len(FINDINGS)
    assert value(before, "swnube_sweeper_silent_seconds") is None
    ana.upload()
    hand.claim(hand.job())
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=from_now(-1)))
        db.session.commit()
    for _ in range(2):
        with sweeper.app_context():
            sweeper.extensions["conversions"].sweep()
    after = read(web)
    assert value(after, "swnube_sweeper_findings_total", kind="lease_expired") == 1
    assert value(after, "swnube_sweeper_findings_total", kind="message_lost") == 0
    silent = value(after, "swnube_sweeper_silent_seconds")
    assert silent is not None
    assert 0 <= silent < 60


def test_findings_of_a_time_without_redis_are_told_later(
    app: Flask, ana: Person, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away while a sweeper finds something: the next sweep that reaches it tells of both."""
    conversions = app.extensions["conversions"]
    ana.upload()
    hand.claim(hand.job())
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=from_now(-1)))
        db.session.commit()
        with services.Redis() as elsewhere:
            there, conversions._queue._redis = conversions._queue._redis, redis.Redis.from_url(elsewhere.url)
        conversions.sweep()
        conversions._queue._redis, conversions._queue._away_until = there, 0.0
        conversions.sweep()
    assert value(read(app), "swnube_sweeper_findings_total", kind="lease_expired") == 1


def test_conversions_are_counted_by_outcome_format_and_phase(app: Flask, ana: Person, hand: Hand) -> None:
    """The phase of a failure is where it happened; a report that comes twice counts once; unknown phases count nowhere."""
    name = "swnube_conversions_total"
    before = read(app)
    ana.upload(target="ogg")
    job = hand.job()
    for _ in range(2):
        hand.report(job, phases={"downloading": 0.5, "converting": 2.0, "uploading": 0.25, "made_up": 1.0})
    ana.upload(target="flac")
    hand._post(hand.job(), "processed", {
        "attempt": 1, "outcome": "failed", "error": {"code": "not_audio", "message": "No."}, "phases": {"downloading": 1.0},
    })  # fmt: skip
    after = read(app)

    def more(name: str, **labels: str) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    assert more(name, outcome="done", format="ogg", phase="uploading") == 1
    assert more(name, outcome="failed", format="flac", phase="converting") == 1
    assert more("swnube_conversion_phase_seconds_sum", phase="converting") == 2.0
    assert value(after, "swnube_conversion_phase_seconds_sum", phase="made_up") is None


def test_the_pools_use_is_counted_and_survives_broken_connections(app: Flask, database_url: str) -> None:
    """In use while somebody holds one, idle when it is back, gone when it was broken; told to come back to nothing."""

    def used() -> float:
        return metrics.POOL.labels("used")._value.get()

    def idle() -> float:
        return metrics.POOL.labels("idle")._value.get()

    with app.app_context():
        db.engine.dispose()
        assert (used(), idle()) == (0, 0)
        with db.engine.connect(), db.engine.connect():
            assert (used(), idle()) == (2, 0)
        assert used() == 0
        assert idle() >= 1
        with db.engine.connect() as connection:
            connection.invalidate()
            assert used() == 0
            connection.execute(text("SELECT 1"))
            assert used() == 1
        db.engine.dispose()
        assert (used(), idle()) == (0, 0)


def test_a_task_that_was_never_announced_waits_too(app: Flask, ana: Person) -> None:
    """Without Redis no message goes out; the oldest waiting task's age must show it all the same."""
    ana.upload()
    with app.app_context():
        db.session.execute(update(Task).values(sent_at=None, created_at=from_now(-900)))
        db.session.commit()
    age = value(read(app), "swnube_oldest_waiting_seconds")
    assert age is not None
    assert 890 < age < 1000


def asked() -> Iterator[tuple[str, str]]:
    """Each expression of the alerts and the dashboard, and where it stands."""
    alerts = (MONITORING / "alerts.yml").read_text()
    for name, expression in re.findall(r"- alert: (\w+)\n\s+expr:((?: \|)?.*?)\n\s+for:", alerts, re.DOTALL):
        yield f"alert {name}", expression
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]


def test_alerts_and_dashboard_ask_for_metrics_that_exist(app: Flask, ana: Person, hand: Hand) -> None:
    """Every metric that they name is in /metrics, with every label that they select or group by."""
    for target in ("ogg", "flac"):
        ana.upload(target=target)
    jobs = hand.jobs()
    hand.report(jobs[0], phases={"downloading": 0.1, "converting": 0.1, "uploading": 0.1})
    hand.fail(jobs[1])
    with app.app_context():
        app.extensions["conversions"].sweep()
        if not value(read(app), "swnube_db_pool_limit"):
            db.session.execute(text("SELECT 1"))
    labels: dict[str, set[str]] = {}
    for name, pairs in read(app):
        labels.setdefault(name, {"instance", "job"}).update(key for key, _ in pairs)
    found = list(asked())
    assert len(found) > 20
    wrong, seen = [], set()
    for where, expression in found:
        for name, selected in re.findall(r"\b(swnube_\w+)(\{[^}]*\})?", expression):
            seen.add(name)
            wanted = set(re.findall(r"(\w+)\s*=~?", selected)) | {
                label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")
            }
            if name not in labels:
                wrong.append(f"{where}: {name}")
            elif not wanted <= labels[name]:
                wrong.append(f"{where}: {name} has no label {wanted - labels[name]}")
    assert wrong == []
    # And what the issue of watching is about is watched: each of these is asked for somewhere.
    for name in (
        "swnube_http_requests_total", "swnube_http_request_seconds_bucket", "swnube_queue_depth", "swnube_oldest_waiting_seconds",
        "swnube_conversions_total", "swnube_conversion_phase_seconds_bucket", "swnube_workers_busy",
        "swnube_sweeper_findings_total", "swnube_sweeper_silent_seconds", "swnube_db_pool_connections", "swnube_db_pool_limit",
    ):  # fmt: skip
        assert name in seen, name
