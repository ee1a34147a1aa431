"""One whole service for all tests of a module; each test leaves it running."""

from collections.abc import Iterator

import pytest

from tests.chaos.stack import Client, Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The service, every process of it real."""
    with Stack() as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Client:
    """Somebody with an account on that service."""
    return Client(stack)
