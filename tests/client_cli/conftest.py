"""The command-line client as a person runs it, against the whole service."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.client import PASSWORD
from tests.stack import PROJECT, Stack

COMMAND = [sys.executable, "-m", "swnube_client"]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole service, for all tests here."""
    with Stack(concurrency=2) as running:
        yield running


@dataclass
class Person:
    """Somebody with a terminal: a home folder, and files in another. said: objects that the last `--json` call printed."""

    url: str
    home: Path
    folder: Path
    email: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ, "PYTHONPATH": str(PROJECT / "client"), "SWNUBE_HOME": str(self.home), "SWNUBE_URL": self.url,
            "SWNUBE_EMAIL": self.email, "SWNUBE_PASSWORD": PASSWORD,
        }  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command to its end; return what it printed."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env={**self.environment, **environment}, capture_output=True,
            text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + (done.stderr if code else "")

    def json(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The same with `--json`; return the objects that it printed."""
        out = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command and leave it running."""
        return subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Person:
    """Somebody with an account, signed in."""
    name = uuid.uuid4().hex[:10]
    folder = tmp_path / "music"
    folder.mkdir()
    made = Person(stack.url, tmp_path / "home", folder, f"{name}@example.com")
    made.run("signup", "--user", name)
    return made
