"""The report's pages and tables."""

import csv
import json
from pathlib import Path

import pytest

from jmeter.stress import report
from jmeter.stress.results import Limits, Sample
from jmeter.stress.scenarios import PROCESSED, SCENARIOS


def samples(failing: int = 0) -> list[Sample]:
    """30 uploads and their conversions, the first of which fail."""
    made = []
    for at in range(30):
        good = at >= failing
        start = 1_700_000_000_000 + 500 * at
        trouble = "" if good else "Task <7> | is not PROCESSED"
        made.append(Sample("Upload", start, 100 + at, True, 800, 2_980_000, "200", "", False))
        made.append(Sample("Look at the task", start + 200, 9, good, 800, 300, "200", trouble, False))
        made.append(Sample(PROCESSED, start, 4000, good, 1600, 2_980_300, "200", "", True))
    return made


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures need matplotlib, which the quick tests do without; the smoke run draws them."""
    monkeypatch.setattr(report, "draw", lambda run: [])


@pytest.mark.usefixtures("no_pictures")
def test_passed_report(tmp_path: Path) -> None:
    """All forms tell the same figures."""
    facts = {"Command": "jmeter/run conversion", "Begun": "now"}
    run = report.assess(SCENARIOS["conversion"], tmp_path, samples(), Limits(), 30, facts)
    assert (run.passed, run.word) == (True, "PASSED")
    report.write(run)
    with (tmp_path / "aggregate.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["Label", "# Samples", "Average"]
    assert head[-4:] == ["Error %", "Throughput", "Received KB/sec", "Sent KB/sec"]
    assert [row[0] for row in rows] == ["Upload", "Look at the task", PROCESSED, "TOTAL"]
    assert rows[0][1:10] == ["30", "114", "114", "126", "128", "129", "100", "129", "0.000%"]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["passed"], figures["rows"][0]["p95"], figures["conversions"]["done"]) == (True, 128, 30)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "PASSED" in text
        assert "FAILED" not in text.partition("<style>")[0] + text.partition("</style>")[2]
        assert "Time to PROCESSED: median 4.00 s" in text
        assert "30 of 30 PROCESSED in 18 s: 97.3 a minute" in text
    assert "128" in (tmp_path / "aggregate.txt").read_text()


@pytest.mark.parametrize(
    ("each_second", "shown"),
    [(2.04, "2.0/sec"), (1, "1.0/sec"), (0.45, "27.0/min"), (0.01, "36.0/hour"), (0, "0.0/hour")],
)
def test_rates(each_second: float, shown: str) -> None:
    """A throughput is shown in the unit in which it is 1 or more."""
    assert report.rate(each_second) == shown


@pytest.mark.usefixtures("no_pictures")
def test_failed_report(tmp_path: Path) -> None:
    """What failed is named, with nothing in a message that breaks the page or the table."""
    run = report.assess(SCENARIOS["conversion"], tmp_path, samples(failing=2), Limits(), 30, {"Command": "x"})
    assert not run.passed
    report.write(run)
    page = (tmp_path / "report.html").read_text()
    assert "Task &lt;7&gt; | is not PROCESSED" in page
    assert "6.67 %" in page
    assert "Task <7> \\| is not PROCESSED" in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_run_without_samples(tmp_path: Path) -> None:
    """A run that measured nothing has failed, and still has a report."""
    run = report.assess(SCENARIOS["login"], tmp_path, [], Limits(), 60, {})
    assert not run.passed
    report.write(run)
    report.write_summary([run], tmp_path)
    assert "FAILED" in (tmp_path / "report.md").read_text()


def test_summary(tmp_path: Path) -> None:
    """One line a scenario, over its requests alone: the time to PROCESSED has a column of its own."""
    run = report.assess(SCENARIOS["conversion"], tmp_path / "conversion", samples(), Limits(), 30, {})
    report.write_summary([run], tmp_path)
    line = report.summary_table([run])[1]
    assert line[:2] == ("Scenario 1: conversion", "60")
    assert (line[5], line[7], line[9]) == ("129", "4.00 s", "PASSED")
    assert "[Scenario 1: conversion](conversion/report.md)" in (tmp_path / "report.md").read_text()
    assert 'href="conversion/report.html"' in (tmp_path / "report.html").read_text()
