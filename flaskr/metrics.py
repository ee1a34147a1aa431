"""What Prometheus reads. Counters live in each process, or in PROMETHEUS_MULTIPROC_DIR for all of an instance."""

import os
from collections.abc import Iterable

from prometheus_client import REGISTRY as OWN
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

disable_created_metrics()

HTTP_REQUESTS = Counter("swnube_http_requests", "Requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "swnube_http_request_seconds", "From the request's head to the answer's head.", ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)  # fmt: skip
CONVERSIONS = Counter("swnube_conversions", "Attempts that ended, as their workers reported.", ["outcome", "format"])
PHASE_SECONDS = Histogram(
    "swnube_conversion_phase_seconds", "How long a phase of a conversion took.", ["phase"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)  # fmt: skip
FINDINGS = Counter("swnube_sweeper_findings", "What the sweeper found and put right.", ["kind"])


def exposition(gauges: Iterable[tuple[str, str, dict[str, str], float]]) -> bytes:
    """Return all metrics as Prometheus text.

    gauges: name, help, labels and value of what is true of the whole system now.
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


class _Now(Collector):
    """Values of this moment. Not Gauge objects: those would be kept, a file per process, and shown twice."""

    def __init__(self, gauges: Iterable[tuple[str, str, dict[str, str], float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return one family for each name."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._gauges:
            family = families.setdefault(name, GaugeMetricFamily(name, text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return families.values()
