"""What Prometheus reads. Counters live in each process, or in PROMETHEUS_MULTIPROC_DIR for all of an instance."""

import os
import threading
from collections.abc import Iterable
from typing import Any

from prometheus_client import REGISTRY as OWN
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, event

disable_created_metrics()

HTTP_REQUESTS = Counter("swnube_http_requests", "Requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "swnube_http_request_seconds", "From the request's head to the answer's head.", ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)  # fmt: skip
CONVERSIONS = Counter(
    "swnube_conversions", "Attempts that ended, as their workers reported; the phase is the last one begun.",
    ["outcome", "format", "phase"],
)  # fmt: skip
PHASE_SECONDS = Histogram(
    "swnube_conversion_phase_seconds", "How long a phase of a conversion took.", ["phase"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)  # fmt: skip
POOL = Gauge(
    "swnube_db_pool_connections", "Connections to the database, of all processes of this instance.", ["state"],
    multiprocess_mode="livesum",
)  # fmt: skip
POOL_LIMIT = Gauge(
    "swnube_db_pool_limit", "As many connections this instance may have.", multiprocess_mode="livesum",
)  # fmt: skip


def exposition(gauges: Iterable[tuple[str, str, dict[str, str], float]]) -> bytes:
    """Return all metrics as Prometheus text.

    gauges: name, help, labels and value of what is true of the whole system now; a name in _total is a counter.
    """
    registry = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        multiprocess.MultiProcessCollector(registry)
        counted = generate_latest(registry)
    else:
        counted = generate_latest(OWN)
    now = CollectorRegistry()
    now.register(_Now(gauges))
    return counted + generate_latest(now)


class PoolUse:
    """Counts the connections of one process, open and in use, as the engine's pool tells of them.

    By identity, not by adding and taking away: of some ends a pool tells twice, of some beginnings never.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._used: set[int] = set()
        for name, heard in (
            ("connect", self._opened), ("close", self._closed), ("checkout", self._taken), ("checkin", self._given_back),
        ):  # fmt: skip
            event.listen(engine, name, heard)

    def _opened(self, connection: object, *_: Any) -> None:
        with self._lock:
            self._open.add(id(connection))
            POOL_LIMIT.set(self._limit)
            self._tell()

    def _closed(self, connection: object, *_: Any) -> None:
        with self._lock:
            self._open.discard(id(connection))
            self._used.discard(id(connection))
            self._tell()

    def _taken(self, connection: object, *_: Any) -> None:
        with self._lock:
            self._used.add(id(connection))
            self._tell()

    def _given_back(self, connection: object, *_: Any) -> None:
        with self._lock:
            self._used.discard(id(connection))
            self._tell()

    def _tell(self) -> None:
        POOL.labels("used").set(len(self._used))
        POOL.labels("idle").set(len(self._open - self._used))


class _Now(Collector):
    """Values of this moment. Not Gauge objects: those would be kept, a file per process, and shown twice."""

    def __init__(self, gauges: Iterable[tuple[str, str, dict[str, str], float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Return one family for each name."""
        families: dict[str, Any] = {}
        for name, text, labels, value in self._gauges:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families.setdefault(name, kind(name, text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return families.values()
