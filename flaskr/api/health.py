"""What operators and balancers ask: alive, ready, metrics."""

from typing import Any

from flask import Blueprint, Response, current_app, request
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flaskr import metrics
from flaskr.api.authentication import public
from flaskr.db import db
from worker.contract.queue import QueueUnavailable
from worker.contract.store import StoreError

health = Blueprint("health", __name__)


@health.route("/healthz")
@public
def alive() -> dict[str, str]:
    """Say that the process answers; touches nothing else."""
    return {"status": "alive"}


@health.route("/readyz")
@public
def ready() -> tuple[dict[str, str], int]:
    """Say whether the database, the broker and the store answer.

    `parts` names the ones that count, separated by commas. A balancer should ask for database and store only: without
    the broker uploads are still taken, and wait.
    """
    checks = {"database": _database, "broker": _broker, "store": _store}
    asked = [part for part in request.args.get("parts", "").split(",") if part in checks] or list(checks)
    found = {part: checks[part]() for part in asked}
    return found, 200 if all(state == "ok" for state in found.values()) else 503


@health.route("/metrics")
@public
def exposition() -> Response:
    """Return the metrics as Prometheus reads them."""
    try:
        gauges: list[Any] = current_app.extensions["conversions"].gauges()
    except SQLAlchemyError:
        db.session.remove()
        gauges = []  # the counters are worth having then more than ever
    return Response(metrics.exposition(gauges), mimetype="text/plain; version=0.0.4")


def _database() -> str:
    try:
        db.session.execute(text("SELECT 1 FROM alembic_version"))
        db.session.rollback()
    except SQLAlchemyError:
        db.session.remove()
        return "unavailable"
    return "ok"


def _broker() -> str:
    try:
        current_app.extensions["queue"].check()
    except QueueUnavailable:
        return "unavailable"
    return "ok"


def _store() -> str:
    try:
        current_app.extensions["store"].check()
    except StoreError:
        return "unavailable"
    return "ok"
