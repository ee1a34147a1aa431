"""The report of a run: tables in text, CSV, Markdown and HTML, the figures as JSON, and pictures."""

import csv
import dataclasses
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jmeter.stress.results import (
    TOTAL,
    Conversions,
    Limits,
    Row,
    Sample,
    Verdict,
    aggregate,
    conversions,
    judge,
    troubles,
)
from jmeter.stress.scenarios import Scenario

# As JMeter's Aggregate Report heads and saves them.
COLUMNS = (
    "Label", "# Samples", "Average", "Median", "90% Line", "95% Line", "99% Line", "Min", "Maximum", "Error %", "Throughput",
    "Received KB/sec", "Sent KB/sec",
)  # fmt: skip
PICTURES = {
    "aggregate.png": "Aggregate graph: milliseconds for each sample",
    "times.png": "Response times over the run",
    "processed.png": "From upload to PROCESSED, and conversions a minute",
}
Table = list[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """A plan that has run: where, with what, and how it went."""

    scenario: Scenario
    folder: Path
    facts: dict[str, str]
    samples: list[Sample] = field(repr=False)
    rows: list[Row]
    converted: Conversions | None
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def word(self) -> str:
        return "PASSED" if self.passed else "FAILED"


def assess(
    scenario: Scenario, folder: Path, samples: list[Sample], limits: Limits, expected: int, facts: dict[str, str]
) -> Run:
    """Works out everything that a report says."""
    rows = aggregate(samples)
    return Run(
        scenario, folder, facts, samples, rows, conversions(samples), judge(rows, limits, scenario.main, expected)
    )


def rate(each_second: float) -> str:
    """A throughput as JMeter shows it: per second, minute or hour, whichever is the first to reach 1."""
    for unit, seconds in (("sec", 1), ("min", 60)):
        if each_second * seconds >= 1:
            return f"{each_second * seconds:.1f}/{unit}"
    return f"{each_second * 3600:.1f}/hour"


def cells(row: Row) -> list[str]:
    """A row of the table as text."""
    times = [row.average, row.median, row.p90, row.p95, row.p99, row.least, row.most]
    return [
        row.label, str(row.samples), *map(str, times), f"{row.error_percent:.2f}%", rate(row.throughput),
        f"{row.received_kb:.2f}", f"{row.sent_kb:.2f}",
    ]  # fmt: skip


def saved_cells(row: Row) -> list[str]:
    """A row of the table as JMeter's “Save Table Data” writes it: the throughput per second, for programs to read."""
    shown = cells(row)
    return [*shown[:9], f"{row.error_percent:.3f}%", f"{row.throughput:.5f}", *shown[11:]]


def conversion_lines(run: Run) -> list[str]:
    """The sentences on conversions; none when the plan has none."""
    if run.converted is None:
        return []
    done = run.converted
    times = next(row for row in run.rows if row.transaction)
    best = "" if done.best_minute is None else f", {done.best_minute} in the best minute"
    return [
        f"Time to PROCESSED: median {times.median / 1000:.2f} s, 90 % {times.p90 / 1000:.2f} s, "
        f"95 % {times.p95 / 1000:.2f} s, longest {times.most / 1000:.2f} s.",
        f"Conversions: {done.done} of {done.asked} PROCESSED in {done.seconds:.0f} s: {done.per_minute:.1f} a minute{best}.",
    ]


def as_text(table: Table) -> str:
    """A table in columns, the first to the left and the others to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in table
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_markdown(table: Table, right: bool = True) -> str:
    """A table in Markdown, with all but the first column to the right, or all to the left."""
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in table]
    lines = [head, ["---", *["---:" if right else "---"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_html(table: Table, right: bool = True) -> str:
    """A table in HTML, with all but the first column to the right, or all to the left."""
    head, *body = [[html.escape(cell) for cell in line] for line in table]
    rows = "".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>\n" for line in body)
    return f"<table{'' if right else ' class=words'}>\n<tr><th>{'</th><th>'.join(head)}</th></tr>\n{rows}</table>\n"


def aggregate_table(run: Run) -> Table:
    return [COLUMNS, *(cells(row) for row in run.rows)]


def verdict_table(run: Run) -> Table:
    found = [(one.what, one.found, one.limit, "passed" if one.passed else "FAILED") for one in run.verdicts]
    return [("Limit", "Found", "Allowed", "Verdict"), *found]


def trouble_table(run: Run) -> Table:
    found = [(label, code, message, str(times)) for label, code, message, times in troubles(run.samples)[:20]]
    return [("Label", "Code", "Message", "Times"), *found] if found else []


def write(run: Run) -> None:
    """Writes everything about one run into its folder."""
    with (run.folder / "aggregate.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(saved_cells(row) for row in run.rows)])
    (run.folder / "aggregate.txt").write_text(as_text(aggregate_table(run)), encoding="utf-8")
    figures: dict[str, Any] = {
        "scenario": run.scenario.name, "passed": run.passed, "facts": run.facts,
        "rows": [dataclasses.asdict(row) for row in run.rows],
        "conversions": None if run.converted is None else dataclasses.asdict(run.converted),
        "limits": [dataclasses.asdict(verdict) for verdict in run.verdicts],
    }  # fmt: skip
    (run.folder / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    pictures = draw(run)
    (run.folder / "report.md").write_text(_markdown(run, pictures), encoding="utf-8")
    (run.folder / "report.html").write_text(_html(run, pictures), encoding="utf-8")


def _markdown(run: Run, pictures: list[str]) -> str:
    parts = [f"# {run.scenario.title}: {run.word}\n"]
    parts += [f"{line}\n" for line in conversion_lines(run)]
    parts += ["## Aggregate report\n", "Times in milliseconds.\n", as_markdown(aggregate_table(run))]
    parts += ["## Limits\n", as_markdown(verdict_table(run))]
    if failed := trouble_table(run):
        parts += ["## What went wrong\n", as_markdown(failed, right=False)]
    parts += [f"![{PICTURES[name]}]({name})\n" for name in pictures]
    parts += ["## How it was measured\n", as_markdown([("Fact", "Value"), *run.facts.items()], right=False)]
    return "\n".join(parts)


STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: right }
th:first-child, td:first-child, .words th, .words td { text-align: left } th { background: #f2f2f2 } img { max-width: 100% }
.PASSED { color: #187a2f } .FAILED { color: #b3261e }"""


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}</html>\n"
    )


def _html(run: Run, pictures: list[str]) -> str:
    title = html.escape(run.scenario.title)
    parts = [f'<h1>{title}: <span class="{run.word}">{run.word}</span></h1>\n']
    parts += [f"<p>{html.escape(line)}</p>\n" for line in conversion_lines(run)]
    parts += ["<h2>Aggregate report</h2>\n<p>Times in milliseconds.</p>\n", as_html(aggregate_table(run))]
    parts += ["<h2>Limits</h2>\n", as_html(verdict_table(run))]
    if failed := trouble_table(run):
        parts += ["<h2>What went wrong</h2>\n", as_html(failed, right=False)]
    parts += [f'<h2>{PICTURES[name]}</h2>\n<img src="{name}" alt="{PICTURES[name]}">\n' for name in pictures]
    if (run.folder / "dashboard" / "index.html").exists():
        parts.append('<p><a href="dashboard/index.html">JMeter’s own dashboard</a></p>\n')
    parts += ["<h2>How it was measured</h2>\n", as_html([("Fact", "Value"), *run.facts.items()], right=False)]
    return _page(f"{run.scenario.title}: {run.word}", "".join(parts))


def summary_table(runs: Sequence[Run]) -> Table:
    """One line for each run, as stress reports have it."""
    lines: Table = [
        ("Scenario", "# Samples", "Average", "Median", "95% Line", "Max", "Error %", "Time to PROCESSED (median)",
         "Conversions a minute", "Verdict")
    ]  # fmt: skip
    for run in runs:
        requests = [sample for sample in run.samples if not sample.transaction]
        all_rows = aggregate(requests)
        total = next((row for row in all_rows if row.label == TOTAL), None)
        times = next((row for row in run.rows if row.transaction and row.label != TOTAL), None)
        if total is None:
            lines.append((run.scenario.title, "0", *["—"] * 7, run.word))
            continue
        lines.append((
            run.scenario.title, str(total.samples), str(total.average), str(total.median), str(total.p95), str(total.most),
            f"{total.error_percent:.2f}%", f"{times.median / 1000:.2f} s" if times else "—",
            f"{run.converted.per_minute:.1f}" if run.converted else "—", run.word,
        ))  # fmt: skip
    return lines


def write_summary(runs: Sequence[Run], folder: Path) -> None:
    """Writes the page above the runs' own."""
    word = "PASSED" if all(run.passed for run in runs) else "FAILED"
    note = "All requests of a scenario together; times in milliseconds where nothing else is said."
    links = [(run.scenario.title, f"{run.folder.name}/report") for run in runs]
    (folder / "report.md").write_text(
        f"# Stress report: {word}\n\n{note}\n\n{as_markdown(summary_table(runs))}\n"
        + "".join(f"- [{title}]({link}.md)\n" for title, link in links),
        encoding="utf-8",
    )
    body = f'<h1>Stress report: <span class="{word}">{word}</span></h1>\n<p>{note}</p>\n{as_html(summary_table(runs))}<ul>\n'
    body += "".join(f'<li><a href="{link}.html">{html.escape(title)}</a></li>\n' for title, link in links) + "</ul>\n"
    (folder / "report.html").write_text(_page(f"Stress report: {word}", body), encoding="utf-8")


def draw(run: Run) -> list[str]:
    """Draws the pictures into the run's folder and returns their names."""
    from matplotlib.figure import Figure  # only here: the arithmetic needs no picture

    if not run.rows:
        return []
    start = run.samples[0].start
    drawn = ["aggregate.png", "times.png"]

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in run.rows if row.label != TOTAL]
    bars = {"Average": "average", "Median": "median", "90 %": "p90", "95 %": "p95", "99 %": "p99"}
    for place, (name, attribute) in enumerate(bars.items()):
        values = [getattr(row, attribute) for row in rows]
        axes.bar([at + (place - 2) * 0.16 for at in range(len(rows))], values, 0.16, label=name)
    axes.set_xticks(range(len(rows)), [row.label for row in rows], rotation=15, ha="right")
    axes.set(ylabel="milliseconds", yscale="log", title=run.scenario.title)
    figure.legend(loc="outside upper right", ncols=5)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(run.folder / "aggregate.png", dpi=110)

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        found = [sample for sample in run.samples if sample.label == row.label and not sample.transaction]
        if found:
            seconds = [(sample.start - start) / 1000 for sample in found]
            axes.plot(seconds, [max(sample.elapsed, 1) for sample in found], ".", markersize=4, label=row.label)
    failed = [sample for sample in run.samples if not sample.success and not sample.transaction]
    if failed:
        times = [max(sample.elapsed, 1) for sample in failed]
        axes.plot([(sample.start - start) / 1000 for sample in failed], times, "rx", label="errors")
    axes.set(xlabel="seconds", ylabel="milliseconds", yscale="log", title=run.scenario.title)
    figure.legend(loc="outside lower center", ncols=4)
    axes.grid(alpha=0.3)
    figure.savefig(run.folder / "times.png", dpi=110)

    done = [sample for sample in run.samples if sample.transaction and sample.success]
    if done:
        figure = Figure(figsize=(11, 5), layout="constrained")
        axes = figure.subplots()
        seconds = [(sample.end - start) / 1000 for sample in done]
        axes.plot(seconds, [sample.elapsed / 1000 for sample in done], "o", markersize=4, label="upload to PROCESSED")
        axes.set(xlabel="seconds", ylabel="seconds to PROCESSED", title=run.scenario.title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        width = max(1.0, min(60.0, max(seconds) / 10))
        counts = axes.twinx()
        edges = [width * number for number in range(int(max(seconds) / width) + 2)]
        counts.hist(seconds, bins=edges, weights=[60 / width] * len(seconds), histtype="step", color="C1")
        counts.set_ylabel("conversions a minute", color="C1")
        counts.set_ylim(bottom=0)
        figure.savefig(run.folder / "processed.png", dpi=110)
        drawn.append("processed.png")
    return drawn
