"""Real JMeter runs of every plan against the whole service.

`make test-jmeter` runs these tests. The quick test command must not need Java, so files here are collected only when the
command line names this folder; then nothing is skipped: a missing Java fails.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stack import PROJECT, Stack

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these files to the command that names them."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@dataclass(frozen=True)
class Ran:
    """How a `jmeter/run` went."""

    code: int
    said: str
    folder: Path

    def figures(self, plan: str) -> dict[str, Any]:
        """What the report of one plan holds."""
        found: dict[str, Any] = json.loads((self.folder / plan / "figures.json").read_text())
        return found


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The service, with SQLite and a folder."""
    with Stack(concurrency=2) as running:
        yield running


@pytest.fixture
def jmeter_run(stack: Stack, tmp_path: Path) -> Callable[..., Ran]:
    """Calls `jmeter/run` with these arguments against the service."""

    def call(*arguments: str) -> Ran:
        folder = tmp_path / "report"
        command = [
            str(PROJECT / "jmeter" / "run"),
            *arguments,
            "--host",
            "127.0.0.1",
            "--port",
            str(stack.balancer.port),
        ]
        done = subprocess.run(
            [*command, "--out", str(folder)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, folder)

    return call
