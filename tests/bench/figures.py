"""What a benchmark found: figures beside what they are compared with, as a table for people and as JSON."""

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Figure:
    """One thing measured. values: one for each run, and `other`, where there is one, measured between them.

    wanted: `least` or `most`, and the bound for the median; None where there is no target.
    """

    name: str
    unit: str
    values: list[float]
    wanted: tuple[str, float] | None = None
    note: str = ""
    other: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.wanted is None:
            return None
        kind, bound = self.wanted
        return self.median >= bound if kind == "least" else self.median <= bound

    def line(self) -> str:
        spread = f"{min(self.values):.3g}–{max(self.values):.3g}" if len(self.values) > 1 else ""
        wanted = f"{'≥' if self.wanted[0] == 'least' else '≤'} {self.wanted[1]:g}" if self.wanted else ""
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"{self.name:<58}{self.median:>10.3g} {self.unit:<8}{spread:<16}{wanted:<10}{verdict:<8}{self.note}"


class Report:
    """All figures of a run, said as they come and written down at the end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.figures: list[Figure] = []
        self.facts: dict[str, Any] = {"python": platform.python_version(), "machine": platform.platform()}

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        self._say(figure.line())

    def ratios(
        self, name: str, unit: str, ours: Sequence[float], other: Sequence[float], wanted: float | None, note: str = ""
    ) -> None:
        """Add our figures and, run by run, their share of the others'."""
        self.add(Figure(f"{name}: ours", unit, list(ours)))
        self.add(Figure(f"{name}: compared with", unit, list(other)))
        shares = [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
        self.add(Figure(f"{name}: ratio", "", shares, ("least", wanted) if wanted else None, note))

    @property
    def all_met(self) -> bool:
        return all(figure.met is not False for figure in self.figures)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = [{**asdict(figure), "median": figure.median, "met": figure.met} for figure in self.figures]
        path.write_text(json.dumps({"facts": self.facts, "figures": told}, indent=1))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]
