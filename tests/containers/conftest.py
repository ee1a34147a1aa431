"""Journeys over the system as it is deployed. They need a Docker daemon and minutes: so, a command of their own.

    make test-containers

Without TEST_CONTAINERS=1 they are not collected; with it, a missing daemon is a failure.
"""

import os
from collections.abc import Iterator

import pytest

from tests.containers.docker import Stack

collect_ignore_glob = [] if os.environ.get("TEST_CONTAINERS") == "1" else ["test_*.py"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack of docker-compose.yml with three web instances and two workers, empty, on a port of its own."""
    with Stack() as running:
        yield running
