"""What JMeter measured, and the arithmetic of its Aggregate Report."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOTAL = "TOTAL"
MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of JMeter's result file. Times in milliseconds; `transaction` when it spans several requests."""

    label: str
    start: int
    elapsed: int
    success: bool
    received: int
    sent: int
    code: str
    trouble: str
    transaction: bool

    @property
    def end(self) -> int:
        return self.start + self.elapsed


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the Aggregate Report. Times in milliseconds, throughput in samples, and KB (1024), per second."""

    label: str
    samples: int
    average: int
    median: int
    p90: int
    p95: int
    p99: int
    least: int
    most: int
    error_percent: float
    throughput: float
    received_kb: float
    sent_kb: float
    transaction: bool


@dataclass(frozen=True, slots=True)
class Conversions:
    """How uploads became PROCESSED. `per_minute` over the whole time, `best_minute` in the best 60 s, if it took as long."""

    asked: int
    done: int
    per_minute: float
    best_minute: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run must keep to, in each row of its table."""

    error_percent: float = 1.0
    p95_ms: int = 1500
    processed_p95_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit, what was found, and whether it was kept."""

    what: str
    found: str
    limit: str
    passed: bool


def read(path: Path) -> list[Sample]:
    """The samples of a result file in JMeter's CSV form, by their start."""
    with path.open(newline="", encoding="utf-8") as file:
        samples = [_sample(line) for line in csv.DictReader(file)]
    return sorted(samples, key=lambda sample: sample.start)


def _sample(line: dict[str, str]) -> Sample:
    return Sample(
        label=line["label"],
        start=int(line["timeStamp"]),
        elapsed=int(line["elapsed"]),
        success=line["success"] == "true",
        received=int(line["bytes"]),
        sent=int(line["sentBytes"]),
        code=line["responseCode"],
        trouble=line.get("failureMessage") or line["responseMessage"],
        transaction=line["responseMessage"].startswith("Number of samples in transaction"),
    )


def percentile(ordered: Sequence[int], share: float) -> int:
    """The value at a share of ordered values, as JMeter's StatCalculator takes it: of rank round(count × share).

    A rank of 0 is the first. Halves round up, which Python's own round() does not do.
    """
    if not ordered:
        return 0
    if share >= 1:
        return ordered[-1]
    rank = math.floor(len(ordered) * share + 0.5)
    return ordered[max(rank, 1) - 1]


def aggregate(samples: Iterable[Sample]) -> list[Row]:
    """The table: a row for each label, in the order in which they first appear, and TOTAL over all of them."""
    by_label: dict[str, list[Sample]] = defaultdict(list)
    everything = list(samples)
    for sample in everything:
        by_label[sample.label].append(sample)
    rows = [_row(label, found) for label, found in by_label.items()]
    return [*rows, _row(TOTAL, everything)] if rows else []


def _row(label: str, samples: Sequence[Sample]) -> Row:
    times = sorted(sample.elapsed for sample in samples)
    milliseconds = max(sample.end for sample in samples) - min(sample.start for sample in samples)

    def rate(amount: float) -> float:
        return 1000 * amount / milliseconds if milliseconds else 0.0

    return Row(
        label=label,
        samples=len(samples),
        average=sum(times) // len(times),
        median=percentile(times, 0.5),
        p90=percentile(times, 0.9),
        p95=percentile(times, 0.95),
        p99=percentile(times, 0.99),
        least=times[0],
        most=times[-1],
        error_percent=100 * sum(not sample.success for sample in samples) / len(samples),
        throughput=rate(len(samples)),
        received_kb=rate(sum(sample.received for sample in samples)) / 1024,
        sent_kb=rate(sum(sample.sent for sample in samples)) / 1024,
        transaction=all(sample.transaction for sample in samples),
    )


def conversions(samples: Iterable[Sample]) -> Conversions | None:
    """How the transactions went; None when there are none."""
    asked = [sample for sample in samples if sample.transaction]
    if not asked:
        return None
    ends = sorted(sample.end for sample in asked if sample.success)
    milliseconds = max(sample.end for sample in asked) - min(sample.start for sample in asked)
    best = None
    if milliseconds >= MINUTE:
        best = max((sum(end <= other < end + MINUTE for other in ends) for end in ends), default=0)
    per_minute = MINUTE * len(ends) / milliseconds if milliseconds else 0.0
    return Conversions(len(asked), len(ends), per_minute, best, milliseconds / 1000)


def judge(rows: Sequence[Row], limits: Limits, main: str, expected: int) -> list[Verdict]:
    """Holds each row against the limits, and the run against its being whole: `expected` samples of `main`."""
    found = sum(row.samples for row in rows if row.label == main)
    allowed = f"≤ {limits.error_percent:g} %"
    verdicts = [Verdict(f"Samples of “{main}”", str(found), str(expected), found == expected)]
    for row in rows:
        kept = row.error_percent <= limits.error_percent
        verdicts.append(Verdict(f"Errors, {row.label}", f"{row.error_percent:.2f} %", allowed, kept))
    for row in rows:
        most = limits.processed_p95_ms if row.transaction else limits.p95_ms
        if row.label != TOTAL and most is not None:
            verdicts.append(Verdict(f"95 % line, {row.label}", f"{row.p95} ms", f"≤ {most} ms", row.p95 <= most))
    return verdicts


def troubles(samples: Iterable[Sample]) -> list[tuple[str, str, str, int]]:
    """What went wrong, most often first: label, code, message, how often."""
    counted: dict[tuple[str, str, str], int] = defaultdict(int)
    for sample in samples:
        if not sample.success:
            counted[sample.label, sample.code, " ".join(sample.trouble.split())[:200]] += 1
    return [(*what, times) for what, times in sorted(counted.items(), key=lambda item: -item[1])]
