"""How many cases, from which seed, and what ends one that hangs. `make fuzz` asks for many, `make test` for a few."""

import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import HealthCheck, Phase, settings

CASES = int(os.environ.get("CASES") or 2000)
SEED = int(os.environ.get("SEED") or 1)
HANGS_AFTER = 10  # seconds
ANSWERS: Counter[tuple[str, int]] = Counter()


def cases(share: float) -> settings:
    """Settings for a share of all cases: the same ones again for the same seed, whatever the machine's pace."""
    return settings(
        max_examples=max(1, math.ceil(CASES * share * 1.01)), database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink), print_blob=True,
    )  # fmt: skip


class HangError(Exception):
    """A request got no answer in time."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends what takes longer than any request may."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", autouse=True)
def _counted() -> Iterator[None]:
    """Says how many cases a file tried, and what they were answered."""
    ANSWERS.clear()
    yield
    by_code: Counter[str] = Counter()
    for (what, code), number in ANSWERS.items():
        by_code[f"{code} {what.partition(', ')[2]}".strip()] += number
    print(f"\n{ANSWERS.total()} cases, seed {SEED}: {dict(sorted(by_code.items()))}")  # noqa: T201
