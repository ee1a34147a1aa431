"""deploy/startup.sh on bare Debian 13 machines under systemd, against a metadata server and secrets of our own."""

import hashlib
import io
import json
import os
import secrets
import subprocess
import tarfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.containers.docker import ROOT, Client, docker, ensure_images, inspect, sound
from tests.containers.google import Google
from tests.services import wait_for

MACHINE = "swnube-test-machine"
ROLES = ("sweeper", "web", "worker")


@dataclass
class Machine:
    """A container that boots systemd as a machine of a role does."""

    role: str
    container: str
    google: Google
    dependencies: Path = Path()

    @property
    def address(self) -> str:
        return str(inspect(self.container)["NetworkSettings"]["IPAddress"])

    def run(self, *command: str, check: bool = True) -> str:
        return docker("exec", self.container, *command, check=check)

    def start_up(self) -> subprocess.CompletedProcess[str]:
        """Runs the start-up script once, as the machine's boot does."""
        host = f"{self.google.host}/{self.role}"
        overrides = {
            "GCE_METADATA_HOST": host,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"http://{host}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"http://{host}/",
        }
        options = [word for name, value in overrides.items() for word in ("--env", f"{name}={value}")]
        return subprocess.run(
            ["docker", "exec", *options, self.container, "bash", "/startup.sh"],
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    def show(self, unit: str, *names: str) -> list[str]:
        return [self.run("systemctl", "show", "--value", "--property", name, unit).strip() for name in names]


def wheels(folder: Path) -> Path:
    """Every dependency for the machines' Python: a release that carries them asks no package index at each boot."""
    network = os.environ.get("BUILD_NETWORK") or "default"
    docker(
        "run", "--rm", "--network", network, "--volume", f"{ROOT}/requirements.txt:/requirements.txt:ro",
        "--volume", f"{folder}:/wheels", "python:3.13-slim",
        "python3", "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "-r", "/requirements.txt", "-d", "/wheels",
    )  # fmt: skip
    return folder


def release(version: str, wheels: Path) -> tuple[str, bytes]:
    """An archive of the project as it is here, as a release is made; returns its SHA-256 and its bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name in ("requirements.txt", "flaskr", "worker", "deploy"):
            archive.add(ROOT / name, f"swnube-{version}/{name}", filter=without_caches)
        archive.add(wheels, f"swnube-{version}/wheels")
        info = tarfile.TarInfo(f"swnube-{version}/VERSION")
        info.size = len(version)
        archive.addfile(info, io.BytesIO(version.encode()))
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def without_caches(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in info.name else info


def service(stack: ExitStack, *words: str) -> str:
    """Starts a container on the default network, removed at the end; returns its id."""
    container = docker("run", "--detach", *words).strip()
    stack.callback(docker, "rm", "--force", "--volumes", container, check=False)
    return container


def ip(container: str) -> str:
    return str(inspect(container)["NetworkSettings"]["IPAddress"])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """One started machine of each role, with PostgreSQL, Redis and a bucket beside them."""
    ensure_images()
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        build = os.environ.get("BUILD_NETWORK") or "default"
        docker("build", "--quiet", "--network", build, "--tag", MACHINE, str(ROOT / "tests/containers/machine"))
        gateway = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
        google = stack.enter_context(Google(gateway or "172.17.0.1"))
        postgres = service(
            stack, "--env", f"POSTGRES_PASSWORD={password}", "--env", "POSTGRES_USER=swnube", "--env",
            "POSTGRES_DB=swnube", "postgres:17",
        )  # fmt: skip
        redis = service(stack, "redis:8")
        # It hands out addresses to upload to: they must hold its own.
        bucket = service(
            stack, "--entrypoint", "sh", "fsouza/fake-gcs-server:latest", "-c",
            "mkdir -p /storage/files && exec /bin/fake-gcs-server -backend filesystem -filesystem-root /storage "
            "-scheme http -port 4443 -external-url http://$(hostname -i):4443 -public-host $(hostname -i):4443",
        )  # fmt: skip
        wait_for(
            lambda: "accepting" in docker("exec", postgres, "pg_isready", "-h", "127.0.0.1", check=False),
            "PostgreSQL", seconds=90, every=0.5,
        )  # fmt: skip
        found = {}
        for role in ROLES:
            name = f"{role}-{uuid.uuid4().hex[:6]}"
            found[role] = Machine(role, service(
                stack, "--hostname", name, "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN",
                "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
                "--tmpfs", "/run", "--tmpfs", "/tmp:exec",
                "--volume", f"{ROOT}/deploy/startup.sh:/startup.sh:ro", MACHINE,
            ), google)  # fmt: skip
        google.secrets = {
            "db": f"postgresql://swnube:{password}@{ip(postgres)}:5432/swnube",
            "jwt": secrets.token_hex(32),
        }
        google.readers = {"db": {"web", "sweeper"}, "jwt": {"web", "sweeper"}}
        dependencies = wheels(tmp_path_factory.mktemp("wheels"))
        sha256, archive = release("1.0.0", dependencies)
        found["web"].dependencies = dependencies
        google.objects["gs://releases/swnube-1.0.0.tar.gz"] = archive
        for role in ROLES:
            google.attributes[role] = {
                "swnube-role": role,
                "swnube-release": "gs://releases/swnube-1.0.0.tar.gz",
                "swnube-release-sha256": sha256,
                "swnube-redis": ip(redis),
                "swnube-api": found["web"].address,
                "swnube-storage-url": "gs://files",
                "swnube-settings": f"STORAGE_EMULATOR_HOST=http://{ip(bucket)}:4443\nWEB_WORKERS=2\nWORKER_CONCURRENCY=1",
            }
            if role != "worker":
                google.attributes[role] |= {"swnube-database-secret": "db", "swnube-jwt-secret": "jwt"}
        for role in ROLES:
            wait_for(
                lambda role=role: found[role].run("systemctl", "is-system-running", check=False).strip() == "running",
                f"{role} booted", seconds=90, every=0.5,
            )  # fmt: skip
            done = found[role].start_up()
            journal = found[role].run("journalctl", "--no-pager", "--lines", "60", check=False)
            assert done.returncode == 0, f"{role}: {done.stdout}\n{done.stderr}\n{journal}"
        yield found


def ready(web: Machine) -> str:
    """Waits until the API is ready; returns its origin."""
    origin = f"http://{web.address}:5000"

    def answers() -> bool:
        try:
            return requests.get(f"{origin}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    wait_for(answers, "the API is ready", seconds=120, every=0.5)
    return origin


def test_the_roles_come_up_and_pass_the_contract(machines: dict[str, Machine]) -> None:
    """A file goes in at the web machine, is converted on the worker's, and comes back."""
    user = Client(ready(machines["web"]))
    audio = sound()
    task = user.convert(audio, "machine.wav", "mp3")
    assert task["state"] == "PROCESSED", task
    assert user.get(f"/api/tasks/{task['id']}/original").content == audio
    assert len(user.get(f"/api/tasks/{task['id']}/converted").content) == task["result"]["bytes"]
    assert requests.get(f"{user.origin}/api/tasks", timeout=30).status_code == 401


def test_a_second_run_changes_nothing(machines: dict[str, Machine]) -> None:
    """The script runs at every boot: services keep running, nothing is fetched or installed again."""
    ready(machines["web"])
    for role in ROLES:
        machine, unit = machines[role], f"swnube-{role}.service"
        before = machine.show(unit, "MainPID", "ActiveEnterTimestampMonotonic")
        machine.google.asked.clear()
        done = machine.start_up()
        assert done.returncode == 0, done.stderr
        assert machine.show(unit, "MainPID", "ActiveEnterTimestampMonotonic") == before
        assert not [path for path in machine.google.asked if "storage/v1" in path]
        events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert events == ["startup.done"]


def test_services_are_hardened_and_hold_no_secret_that_is_not_theirs(machines: dict[str, Machine]) -> None:
    """Own user, own files, no way up; secrets only where they belong, in memory, in no file on disk and in no log."""
    ready(machines["web"])
    for role in ROLES:
        machine, unit = machines[role], f"swnube-{role}.service"
        user, privileges, system, restart = machine.show(unit, "User", "NoNewPrivileges", "ProtectSystem", "Restart")
        assert (user, privileges, system, restart) == ("swnube", "yes", "strict", "always")
        assert machine.show(unit, "MemoryMax") != ["infinity"]
        assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}") == ""
        exposure = float(machine.run("systemd-analyze", "security", "--no-pager", unit).split("\n")[-2].split()[-3])
        assert exposure < 4, f"{unit}: {exposure}"
        on_disk = machine.run("sh", "-c", "cat /etc/swnube/* /etc/profile.d/swnube.sh /etc/systemd/system/swnube-*")
        journal = machine.run("journalctl", "--no-pager")
        for secret in machine.google.secrets.values():
            assert secret not in on_disk
            assert secret not in journal
        assert "REDIS_INSTANCE_IP" in on_disk
        assert "API_INSTANCE_IP" in on_disk
    held = machines["worker"].run("cat", "/run/swnube/secrets.env")
    assert held == ""
    assert machines["web"].run("stat", "--format", "%a %U", "/run/swnube/secrets.env").strip() == "600 root"


def test_logs_are_json_in_the_journal(machines: dict[str, Machine]) -> None:
    """Every line that a service writes is a JSON object with an event and a level."""
    ready(machines["web"])
    for role in ("web", "worker"):
        lines = machines[role].run(
            "journalctl", "--no-pager", "--output", "cat", f"_SYSTEMD_UNIT=swnube-{role}.service"
        ).splitlines()  # fmt: skip
        assert lines
        assert [line for line in lines if not line.startswith("{")] == []
        assert [line for line in lines if not {"event", "level"} <= json.loads(line).keys()] == []


def test_a_stopping_instance_finishes_the_upload_it_has_begun(machines: dict[str, Machine]) -> None:
    """Stop drains: an upload in flight is answered 200, and new connections are refused meanwhile."""
    web = machines["web"]
    user = Client(ready(web))
    began, go_on = threading.Event(), threading.Event()
    audio = sound(5.0)
    head = (
        b'--b\r\nContent-Disposition: form-data; name="filename"\r\n\r\ndrain.wav\r\n'
        b'--b\r\nContent-Disposition: form-data; name="newFormat"\r\n\r\nmp3\r\n'
        b'--b\r\nContent-Disposition: form-data; name="audio"; filename="drain.wav"\r\n\r\n'
    )
    tail = b"\r\n--b--\r\n"

    class Body:
        """Its length is known; its second part comes when the instance has been told to stop."""

        def __len__(self) -> int:
            return len(head) + len(audio) + len(tail)

        def __iter__(self) -> Iterator[bytes]:
            yield head + audio[:100_000]
            began.set()
            go_on.wait(60)
            yield audio[100_000:] + tail

    def stop() -> None:
        began.wait(30)
        web.run("systemctl", "stop", "--no-block", "swnube-web.service")
        try:
            wait_for(lambda: refused(user.origin), "new connections refused", seconds=30, every=0.1)
        finally:
            go_on.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {user.token}"}
    try:
        answer = requests.post(f"{user.origin}/api/tasks", data=Body(), headers=headers, timeout=90)
    finally:
        began.set()
        stopper.join()
        assert web.start_up().returncode == 0
        ready(web)
    assert answer.status_code == 200, answer.text
    assert user.ended([answer.json()["task"]["id"]])[0]["state"] == "PROCESSED"


def refused(origin: str) -> bool:
    try:
        requests.get(f"{origin}/healthz", timeout=2)
    except requests.ConnectionError:
        return True
    except requests.RequestException:
        return False
    return False


def test_a_new_release_is_rolled_out_and_back(machines: dict[str, Machine]) -> None:
    """Another pinned archive replaces the first one; the way back needs no download. A wrong one changes nothing."""
    web = machines["web"]
    ready(web)
    first = dict(web.google.attributes["web"])
    sha256, archive = release("1.1.0", web.dependencies)
    web.google.objects["gs://releases/swnube-1.1.0.tar.gz"] = archive

    web.google.attributes["web"] = first | {"swnube-release": "gs://releases/swnube-1.1.0.tar.gz"}
    [before] = web.show("swnube-web.service", "MainPID")
    web.google.attributes["web"]["swnube-release-sha256"] = "0" * 64
    assert web.start_up().returncode != 0
    assert web.show("swnube-web.service", "MainPID") == [before]
    assert web.run("cat", "/opt/swnube/current/VERSION") == "1.0.0"

    web.google.attributes["web"]["swnube-release-sha256"] = sha256
    assert web.start_up().returncode == 0
    assert web.run("cat", "/opt/swnube/current/VERSION") == "1.1.0"
    ready(web)

    web.google.attributes["web"] = first
    web.google.asked.clear()
    assert web.start_up().returncode == 0
    assert web.run("cat", "/opt/swnube/current/VERSION") == "1.0.0"
    assert not [path for path in web.google.asked if "storage/v1" in path]
    ready(web)


def test_a_missing_attribute_is_named_and_nothing_starts_without_it(machines: dict[str, Machine]) -> None:
    """The script ends with the attribute's name, and leaves the running service alone."""
    worker = machines["worker"]
    kept = dict(worker.google.attributes["worker"])
    [before] = worker.show("swnube-worker.service", "MainPID")
    del worker.google.attributes["worker"]["swnube-api"]
    done = worker.start_up()
    worker.google.attributes["worker"] = kept
    assert done.returncode != 0
    assert "swnube-api" in done.stderr
    assert worker.show("swnube-worker.service", "MainPID") == [before]
