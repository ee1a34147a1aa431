"""The service as it runs in production, attacked from outside."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.client import Client
from tests.stack import Stack

PATIENCE = 2  # seconds, so that a test of slow clients is short


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """One web instance of one process with four threads: what holds a thread is soon noticed."""
    environment = {"WEB_WORKERS": "1", "WEB_THREADS": "4", "WEB_PATIENCE_SECONDS": str(PATIENCE),
                   "MAX_UPLOAD_BYTES": "2000000"}  # fmt: skip
    with Stack(web=1, workers=1, environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
def ana(stack: Stack) -> Client:
    """Somebody with an account, logged in."""
    return Client(stack.web[0].url).signup().login()


@pytest.fixture
def connect(stack: Stack) -> Iterator[Callable[[], socket.socket]]:
    """Opens bare connections to the web instance; all are closed in the end."""
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        address = urlsplit(stack.web[0].url)
        opened.append(socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=30))
        return opened[-1]

    yield open_one
    for one in opened:
        with closing(one):
            pass
