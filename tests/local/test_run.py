"""What `make run` promises: one line when it cannot start, nothing left when it ends, all data there the next time."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.client import Client, tone
from tests.services import free_port, wait_for

PROJECT = Path(__file__).resolve().parents[2]
RUNNER = [sys.executable, "-m", "deploy.local"]


class Run:
    """One run of the runner, or of `make run`, with its data in `folder` and an otherwise clean environment."""

    def __init__(self, folder: Path, command: list[str] | None = None, **environment: str) -> None:
        self.port = int(environment.get("PORT") or free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._log = Path(tempfile.mkstemp(suffix=".log")[1])
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        settings = {"PORT": str(self.port), "INSTANCE_DIR": str(folder), "WEB_WORKERS": "2", **environment}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command or RUNNER,
                cwd=PROJECT, env={**inherited, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.seen: dict[int, psutil.Process] = {}

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def ready(self) -> "Run":
        """Waits for the line that says where the service is."""

        def said() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output()}"
            return f"Ready: http://localhost:{self.port}" in self.output()

        wait_for(said, "Ready", 90)
        self.look()
        return self

    def look(self) -> None:
        """Remembers every process that belongs to the run now."""
        root = psutil.Process(self.process.pid)
        self.seen.update({process.pid: process for process in [root, *root.children(recursive=True)]})

    def left(self) -> list[str]:
        """The processes of the run that are still there."""
        found = []
        for process in self.seen.values():
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return found

    def part(self, words: str) -> psutil.Process:
        """The part of the run, a child of the runner, whose command line holds these words."""
        parts = psutil.Process(self.process.pid).children()
        return next(process for process in parts if words in " ".join(process.cmdline()))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal to the command alone and waits for its end. Returns the exit code."""
        self.look()
        self.process.send_signal(number)
        return self.process.wait(60)

    def clean_up(self) -> None:
        """Ends what a failed test left, and deletes the log."""
        self._log.unlink()
        for process in self.seen.values():
            if process.is_running():
                process.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """Makes runs, in a new folder unless one is given, that are gone at the end, however that comes."""
    made: list[Run] = []

    def begin(folder: Path | None = None, **arguments: Any) -> Run:
        made.append(Run(folder or tmp_path_factory.mktemp("run") / "instance", **arguments))
        return made[-1]

    yield begin
    for run in made:
        run.clean_up()


@pytest.fixture(scope="module")
def run(start: Callable[..., Run]) -> Run:
    """A run for tests that leave it as it was."""
    return start().ready()


def is_ready(run: Run) -> bool:
    try:
        return requests.get(f"{run.url}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_ready_means_ready(run: Run) -> None:
    """Once the address is printed, /readyz says 200; and the ffmpeg in use is named."""
    assert is_ready(run)
    assert re.search(r"^Audio: ffmpeg n?\d\S* \(/[^\s;]+(; .+ install ffmpeg)?\)$", run.output(), re.MULTILINE)


def test_nobody_else_can_read_its_data(run: Run) -> None:
    """Nobody else can enter the folder, secrets have mode 0600, and Redis opens no port."""
    secrets = run.folder / "secrets.env"
    assert re.fullmatch(r"JWT_SECRET_KEY=\S{43,}\n", secrets.read_text())
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700
    assert run.part("redis-server").net_connections(kind="inet") == []


def test_a_second_run_in_the_folder_is_refused(run: Run, start: Callable[..., Run]) -> None:
    """It ends with one line that names the first, which goes on undisturbed."""
    second = start(run.folder)
    assert second.process.wait(60) == 1
    assert (
        second.output()
        == f"Already running in {run.folder} (process {run.process.pid}, http://localhost:{run.port}).\n"
    )
    assert is_ready(run)


@pytest.mark.parametrize(
    ("name", "words"), [("worker", "celery"), ("web", "gunicorn"), ("sweeper", "sweep"), ("redis", "redis-server")]
)
def test_a_part_that_dies_is_started_again(run: Run, name: str, words: str) -> None:
    """kill -9 of any part is said in a line that names it, and the service converts again."""
    run.look()
    run.part(words).kill()
    wait_for(lambda: f"{name} ended (signal 9): starting it again." in run.output(), "the line")
    wait_for(lambda: is_ready(run), "ready again")
    client = Client(run.url, f"{name}@example.com").signup().login()
    assert client.wait(client.upload(tone(), "tone.wav", "flac")["id"])["state"] == "PROCESSED"


def test_a_taken_port_is_one_line(start: Callable[..., Run]) -> None:
    """The runner says so and ends before it starts anything."""
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        refused = start(PORT=str(port))
        assert refused.process.wait(60) == 1
    assert refused.output() == f"Port {port} is taken by another program. Choose another: PORT={port + 1} make run\n"
    assert not (refused.folder / "redis").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_one_line(tmp_path: Path, port: str) -> None:
    """PORT is checked before anything is made."""
    environment = {"PATH": os.environ["PATH"], "PORT": port, "INSTANCE_DIR": str(tmp_path / "instance")}
    done = subprocess.run(RUNNER, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"PORT must be a number from 1 to 65535, not {port!r}.\n")
    assert not (tmp_path / "instance").exists()


def test_a_setting_that_is_refused_ends_the_run(start: Callable[..., Run]) -> None:
    """What the service says of it is shown, and which part said so."""
    refused = start(JWT_SECRET_KEY="short")
    assert refused.process.wait(60) == 1
    assert "JWT_SECRET_KEY is too short" in refused.output()
    assert re.search(r"^(migrate failed|web ended while starting) \(.*\): see above\.$", refused.output(), re.MULTILINE)


def test_a_second_start_keeps_everything(start: Callable[..., Run], tmp_path: Path) -> None:
    """User, task, files and secret are there after SIGTERM and a new start, and no process in between.

    In a folder whose name is too long for a socket, and has spaces and signs that mean something in a URL.
    """
    folder = tmp_path / ("a deep clone " * 8).strip() / "música %41#1"
    first = start(folder).ready()
    client = Client(first.url).signup().login()
    audio = tone()
    task = client.upload(audio, "tone.wav", "flac")
    client.wait(task["id"])
    converted = client.converted(task["id"])
    secret = (folder / "secrets.env").read_text()
    assert first.end(signal.SIGTERM) == 0
    assert first.left() == []

    again = start(folder).ready()
    client.url = again.url
    assert client.task(task["id"])["state"] == "PROCESSED", "the token is good still: the secret is the same"
    assert client.original(task["id"]) == audio
    assert client.converted(task["id"]) == converted
    assert Client(again.url).login().tasks() == client.tasks()
    assert (folder / "secrets.env").read_text() == secret


@pytest.mark.parametrize("command", [RUNNER, ["make", "run", f"PYTHON={sys.executable}"]], ids=["runner", "make"])
def test_ends_in_the_middle_of_work(start: Callable[..., Run], command: list[str]) -> None:
    """A signal to the one process ends all the others, while a conversion runs and a client is connected."""
    run = start(command=command).ready()
    client = Client(run.url).signup().login()
    client.wait(client.upload(tone(300), "long.wav", "opus")["id"], ("PROCESSING",))
    if command == RUNNER:
        assert run.end(signal.SIGINT) == 0
    else:
        assert run.end(signal.SIGTERM) == -signal.SIGTERM  # make dies of the signal, after the service has ended
    assert run.left() == []


def test_nothing_is_left_when_the_runner_is_killed(start: Callable[..., Run], tmp_path: Path) -> None:
    """After kill -9 of the runner in the middle of a conversion all its processes end, and a new run waits for that."""
    folder = tmp_path / "instance"
    run = start(folder).ready()
    client = Client(run.url).signup().login()
    task = client.upload(tone(300), "long.wav", "opus")
    client.wait(task["id"], ("PROCESSING",))
    run.end(signal.SIGKILL)
    following = start(folder, PORT=str(run.port)).ready()
    assert run.left() == []
    assert Client(following.url).login().task(task["id"])["state"] in ("PROCESSING", "PROCESSED")
