"""The long chaos run in small: see `python -m tests.chaos`."""

from tests.chaos.driver import run
from tests.chaos.stack import Stack


def test_a_short_chaos(stack: Stack) -> None:
    """Twenty seconds of uploads among faults chosen by a fixed seed: nothing lost, doubled, stuck or wrong."""
    books = run(stack, 20, seed=3, rate=2, pause=2)
    assert books.accepted > 10
    assert books.balance(), books.table()
