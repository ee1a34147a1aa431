"""Docker and Compose for tests, through the real commands, and a client that knows the wire contract."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import uuid
import wave
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import requests

from tests.services import free_port, wait_for

ROOT = Path(__file__).parents[2]
IMAGES = (
    "python:3.13-slim", "postgres:17", "redis:8", "nginx:1.28", "fsouza/fake-gcs-server:latest", "debian:trixie-slim",
)  # fmt: skip
PASSWORD = "Sound-9-waves-far"
ENDED = ("PROCESSED", "FAILED")


def docker(*words: str, check: bool = True, timeout: float = 600) -> str:
    """Runs docker and returns what it printed. Raises CalledProcessError, with its complaint in the log."""
    return run(["docker", *words], check=check, timeout=timeout)


def run(command: list[str], check: bool = True, timeout: float = 600, **kw: Any) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False, **kw
    )
    if check and done.returncode:
        sys.stderr.write(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n")
        done.check_returncode()
    return done.stdout


def ensure_images() -> None:
    """Where an image is not there and no registry can be reached, STAND_IN_IMAGES names a program that builds them."""
    builder = os.environ.get("STAND_IN_IMAGES")
    missing = [name for name in IMAGES if not docker("image", "ls", "--quiet", name).strip()]
    if missing and builder:
        run([builder], timeout=900)


def compose_command() -> list[str]:
    """COMPOSE, else the plugin of docker, else docker-compose."""
    if named := os.environ.get("COMPOSE"):
        return named.split()
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    assert shutil.which("docker-compose"), "Neither `docker compose` nor `docker-compose` is installed."
    return ["docker-compose"]


class Stack:
    """The stack of docker-compose.yml under a project name and a port of its own, with fresh volumes."""

    def __init__(self) -> None:
        self.project = f"swnubetest{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._compose = [*compose_command(), "--project-name", self.project]
        self._environment = os.environ | {"PORT": str(self.port), "SCRATCH_SIZE": "1g", "WEB_WORKERS": "2"}

    def __enter__(self) -> Self:
        ensure_images()
        try:
            self.compose("build", "prepare", timeout=900)
            self.up(web=3, worker=2)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if folder := os.environ.get("CONTAINER_LOGS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, "compose.log").write_text(self.compose("logs", "--no-color", "--timestamps", check=False))
        self.compose("down", "--volumes", "--timeout", "5", check=False)

    def compose(self, *words: str, check: bool = True, timeout: float = 600) -> str:
        return run([*self._compose, *words], check=check, timeout=timeout, cwd=ROOT, env=self._environment)

    def up(self, **scale: int) -> None:
        """`up` with so many instances of a service, and waits until each of them is well."""
        scales = [word for service, count in scale.items() for word in ("--scale", f"{service}={count}")]
        self.compose("up", "--detach", *scales)
        wait_for(
            lambda: all(
                len(found := self.containers(service)) == count and all(map(healthy, found))
                for service, count in scale.items()
            ),
            f"healthy: {scale}", seconds=240, every=0.5,
        )  # fmt: skip

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        labels = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={service}"]
        return docker("ps", "--quiet", "--no-trunc", "--filter", labels[0], "--filter", labels[1]).split()

    def one(self, service: str) -> str:
        [container] = self.containers(service)
        return container

    def logs(self, service: str) -> list[dict[str, Any]]:
        """The JSON lines that a service's containers logged."""
        lines = []
        for container in self.containers(service):
            done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
            lines += [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
        return lines

    def sql(self, query: str) -> list[list[str]]:
        answer = docker(
            "exec", self.one("postgres"), "sh", "-c",
            "PGPASSWORD=$(cat /run/secrets/postgres_password) "
            'exec psql -h 127.0.0.1 -U swnube -d swnube -At -F "|" -c "$1"', "--", query,
        )  # fmt: skip
        return [line.split("|") for line in answer.splitlines()]

    def objects(self, task: int) -> set[str]:
        """The keys of all objects of a task in the bucket."""
        code = (
            "import json, urllib.request as u; print(json.dumps([o['name'] for o in json.load(u.urlopen("
            f"'http://bucket:4443/storage/v1/b/swnube/o?prefix={task}/')).get('items', [])]))"
        )
        return set(json.loads(docker("exec", self.containers("web")[0], "python3", "-c", code)))

    def user(self) -> "Client":
        return Client(self.origin)


class Client:
    """One signed-up user of the API at `origin`, through the contract alone."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        name = f"u{uuid.uuid4().hex[:12]}"
        self.email = f"{name}@example.com"
        signup = {"user": name, "email": self.email, "password1": PASSWORD, "password2": PASSWORD}
        assert requests.post(f"{origin}/api/auth/signup", json=signup, timeout=30).status_code == 200
        login = requests.post(f"{origin}/api/auth/login", json={"email": self.email, "password": PASSWORD}, timeout=30)
        self.token = str(login.json()["token"])
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {self.token}"

    def get(self, path: str, **kw: Any) -> requests.Response:
        return self.session.get(self.origin + path, timeout=60, **kw)

    def upload(self, audio: bytes, name: str, new_format: str, request_id: str | None = None) -> requests.Response:
        return self.session.post(
            f"{self.origin}/api/tasks", files={"audio": (name, audio)},
            data={"filename": name, "newFormat": new_format},
            headers={"X-Request-ID": request_id} if request_id else {}, timeout=300,
        )  # fmt: skip

    def convert(self, audio: bytes, name: str, new_format: str, request_id: str | None = None) -> dict[str, Any]:
        """Uploads and waits until the task has ended; returns the task."""
        answer = self.upload(audio, name, new_format, request_id)
        assert answer.status_code == 200, answer.text
        return self.ended([int(answer.json()["task"]["id"])])[0]

    def ended(self, tasks: Iterable[int], seconds: float = 300) -> list[dict[str, Any]]:
        """Waits until every one of the tasks has ended, and returns them."""
        wanted = set(tasks)

        def all_ended() -> list[dict[str, Any]]:
            found = [task for task in self.get("/api/tasks?max=100000").json() if task["id"] in wanted]
            return found if len(found) == len(wanted) and all(task["state"] in ENDED for task in found) else []

        return wait_for(all_ended, f"{len(wanted)} tasks ended", seconds=seconds, every=0.5)


def sound(seconds: float = 2.0, hertz: float = 440.0) -> bytes:
    """A mono WAV of a sine, 16 bits at 22,050 Hz."""
    rate = 22050
    samples = (int(12000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(int(seconds * rate)))
    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()


def inspect(container: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return found[0]


def users(container: str) -> set[int]:
    """The users of a container's own processes. (What a health check starts is no child of them.)"""
    rows = [list(map(int, line.split())) for line in docker("top", container, "-eo", "uid,pid,ppid").splitlines()[1:]]
    family = {inspect(container)["State"]["Pid"]}
    while new := {pid for _, pid, parent in rows if parent in family} - family:
        family |= new
    return {uid for uid, pid, _ in rows if pid in family}


def healthy(container: str) -> bool:
    state = inspect(container)["State"]
    return bool(state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy")


def kill_9(container: str) -> None:
    """Kills every process of a container at once, as a power cut would; the restart policy brings it back."""
    state = inspect(container)["State"]
    os.kill(state["Pid"], 9)
    wait_for(
        lambda: (new := inspect(container)["State"])["Running"] and new["StartedAt"] != state["StartedAt"],
        "restarted by its policy", seconds=120, every=0.2,
    )  # fmt: skip
