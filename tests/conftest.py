"""Fixtures for real services: one of each per test process, started when a test first asks for it."""

from collections.abc import Generator, Iterator

import pytest

from tests import services


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.Redis]:
    """A Redis on a unix socket, shared by the tests of this process: see `redis_url` for an empty one."""
    with services.Redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: services.Redis) -> str:
    """The URL of a Redis that is empty when the test begins."""
    redis_server.client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Postgres]:
    """A PostgreSQL server, shared by the tests of this process, each in a database of its own."""
    with services.Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[services.GcsEmulator]:
    """A Google Cloud Storage emulator, shared by the tests of this process, each in a bucket of its own."""
    with services.GcsEmulator() as server:
        yield server


@pytest.fixture
def gcs_bucket(gcs_server: services.GcsEmulator) -> str:
    """The name of a new, empty bucket."""
    return gcs_server.create_bucket()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of the log of every service that was up."""
    report = yield
    if report.failed:
        for service in services.running:
            report.sections.append((f"{service.name} log ({service.log_path})", service.log_tail()))
    return report
