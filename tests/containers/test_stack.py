"""The whole system in containers: one balancer, three web instances, two workers, and what happens when they die."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest
import requests

from tests.containers.docker import Client, Stack, docker, healthy, inspect, kill_9, sound, users
from tests.services import wait_for

SERVICES = ("balancer", "web", "worker", "sweeper", "postgres", "redis", "bucket")
OURS = ("web", "worker", "sweeper", "balancer", "redis", "bucket")


@dataclass
class Load:
    """Uploads and lists from several clients until told to stop. Nothing is repeated.

    Upload by upload, with a pause: a small machine must be able to convert what comes in.
    """

    user: Client
    uploads: int = 1
    readers: int = 3
    accepted: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._audio = sound(1.0)
        work = [self._upload] * self.uploads + [self._read] * self.readers
        self._threads = [threading.Thread(target=self._repeat, args=(call,)) for call in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, answers: int) -> None:
        """Waits for so many more answers of each kind."""
        begun = self.done.copy()
        wait_for(
            lambda: all(self.done[kind] >= begun[kind] + answers for kind in ("upload", "read")), "load", seconds=240
        )

    def _repeat(self, call: "object") -> None:
        while not self._stop.is_set():
            kind = "upload" if call == self._upload else "read"
            try:
                call()  # type: ignore[operator]
                self.done[kind] += 1
            except (requests.RequestException, AssertionError) as error:
                self.failed.append(f"{kind}: {type(error).__name__} {str(error)[:200]}")
            self._stop.wait(1.0 if kind == "upload" else 0.05)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.user.token}"}

    def _upload(self) -> None:
        answer = requests.post(
            f"{self.user.origin}/api/tasks", files={"audio": ("load.wav", self._audio)},
            data={"filename": "load.wav", "newFormat": "flac"}, headers=self._headers(), timeout=60,
        )  # fmt: skip
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:150]}"
        self.accepted.append(answer.json()["task"]["id"])

    def _read(self) -> None:
        answer = requests.get(f"{self.user.origin}/api/tasks?max=5", headers=self._headers(), timeout=60)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:150]}"

    def failed_reads(self) -> list[str]:
        return [line for line in self.failed if line.startswith("read")]


def test_the_contract_holds_end_to_end_through_the_balancer(stack: Stack) -> None:
    """Sign up, log in, upload, convert, download, convert again, remove; strangers see nothing."""
    user, stranger = stack.user(), stack.user()
    audio = sound()
    task = user.convert(audio, "song one.wav", "mp3")
    assert (task["state"], task["originalExt"], task["convertedExt"]) == ("PROCESSED", "wav", "mp3")
    assert user.get(f"/api/tasks/{task['id']}/original").content == audio
    assert user.get(f"/api/download/{task['id']}").content == audio
    converted = user.get(f"/api/tasks/{task['id']}/converted")
    assert len(converted.content) == task["result"]["bytes"]
    assert user.get(f"/api/tasks/{task['id']}/converted", headers={"Range": "bytes=0-9"}).status_code == 206

    assert stranger.get(f"/api/tasks/{task['id']}").status_code == 404
    assert requests.get(f"{stack.origin}/api/tasks", timeout=30).status_code == 401
    forged = {"attempt": 1, "outcome": "done"}
    report = requests.post(f"{stack.origin}/api/tasks/{task['id']}/processed", json=forged, timeout=30)
    assert report.status_code == 401

    again = user.session.put(f"{stack.origin}/api/tasks/{task['id']}", json={"newFormat": "ogg"}, timeout=30)
    assert again.status_code == 200
    assert user.ended([task["id"]])[0]["convertedExt"] == "ogg"

    assert user.session.delete(f"{stack.origin}/api/tasks/{task['id']}", timeout=30).status_code == 200
    assert user.get(f"/api/tasks/{task['id']}").status_code == 404
    assert stack.objects(task["id"]) == set()
    token = user.token
    assert user.session.post(f"{stack.origin}/api/auth/logout", timeout=30).status_code == 200
    for _ in range(6):  # dead on every instance at once
        answer = requests.get(f"{stack.origin}/api/tasks", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 401


def test_database_bucket_and_broker_hold_what_the_contract_says(stack: Stack) -> None:
    """One row and one folder a task; no password in clear; Redis keeps what it is given."""
    user = stack.user()
    task = user.convert(sound(), "kept.wav", "mp3")
    named = {"kept.wav", "kept.mp3", "waveform.1.json"}
    assert stack.objects(task["id"]) == {f"{task['id']}/{name}" for name in named}
    dump = json.dumps(stack.sql("SELECT row_to_json(u) FROM users u"))
    assert user.email in dump
    assert "Sound-9-waves-far" not in dump
    assert "argon2id" in dump
    redis = stack.one("redis")
    settings = docker("exec", redis, "redis-cli", "config", "get", "maxmemory-policy").split()
    settings += docker("exec", redis, "redis-cli", "config", "get", "appendonly").split()
    assert settings == ["maxmemory-policy", "noeviction", "appendonly", "yes"]
    assert docker("exec", redis, "redis-cli", "llen", "conversions").strip() == "0"


def test_an_upload_larger_than_the_balancers_memory_streams_through(stack: Stack) -> None:
    """200 MB go up and come down whole, though the balancer has 64 MB to write to."""
    user = stack.user()
    audio = bytearray(sound(0.1))
    audio[40:44] = (200_000_000).to_bytes(4, "little")
    body = bytes(audio[:44]) + bytes(200_000_000)
    answer = user.upload(body, "long.wav", "flac")
    assert answer.status_code == 200, answer.text
    task = answer.json()["task"]["id"]
    back = user.get(f"/api/tasks/{task}/original")
    assert len(back.content) == len(body)
    assert user.session.delete(f"{stack.origin}/api/tasks/{task}", timeout=60).status_code == 200


def test_one_request_can_be_followed_through_every_log(stack: Stack) -> None:
    """The caller's request id leads from the balancer through API, message and worker and back; no secret is in a line."""
    user = stack.user()
    trail = "journey-0123456789"
    answer = user.upload(sound(), "trail.wav", "mp3", trail)
    assert answer.headers["X-Request-ID"] == trail
    task = answer.json()["task"]["id"]
    user.ended([task])

    def lines(service: str, key: str) -> list[dict[str, object]]:
        return [line for line in stack.logs(service) if line.get(key) == trail]

    way = ["/api/tasks", f"/api/tasks/{task}/claimed", f"/api/tasks/{task}/processed"]
    wait_for(lambda: {line["path"] for line in lines("balancer", "request_id")} >= set(way), f"{trail} at the balancer")
    through = lines("balancer", "request_id")
    assert {line["path"] for line in through} == set(way)
    assert {line["status"] for line in through} == {"200"}
    senders = {line["path"]: line["remote_addr"] for line in through}
    assert senders[way[1]] == senders[way[2]] != senders[way[0]]
    told = {(line["event"], line.get("task")) for line in lines("web", "request")}
    assert {("task.submitted", task), ("task.settled", task)} <= told
    assert {line.get("task") for line in lines("worker", "request")} == {task}
    logs = json.dumps([stack.logs(service) for service in ("balancer", "web", "worker", "sweeper")])
    secrets = docker(
        "exec", stack.containers("web")[0], "sh", "-c", "for f in /run/secrets/*; do cat $f; echo; done"
    ).split()
    for secret in (user.token, "Sound-9-waves-far", *secrets):
        assert secret not in logs


def test_the_balancer_keeps_numbers_inside_and_believes_no_forged_address(stack: Stack) -> None:
    """/metrics is for the inside, an ill-formed request id is replaced, and X-Forwarded-For is the balancer's own."""
    assert requests.get(f"{stack.origin}/metrics", timeout=30).status_code == 404
    forged = {"X-Request-ID": 'a" evil', "X-Forwarded-For": "6.6.6.6"}
    answer = requests.get(f"{stack.origin}/healthz", headers=forged, timeout=30)
    assert answer.status_code == 200
    assert "evil" not in answer.headers["X-Request-ID"]
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:5000/metrics').read().decode())"
    assert "swnube_http_requests_total" in docker("exec", stack.containers("web")[0], "python3", "-c", code)


def test_no_container_runs_as_root_or_holds_more_than_it_needs(stack: Stack) -> None:
    """No process has user 0; ours can write nowhere but in memory, hold no capability, no build tool and no secret."""
    for service in SERVICES:
        for container in stack.containers(service):
            found = users(container)
            assert found, service
            assert 0 not in found, f"{service} has a process of root"
    for service in OURS:
        settings = inspect(stack.containers(service)[0])
        assert settings["HostConfig"]["ReadonlyRootfs"], service
        assert settings["HostConfig"]["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in settings["HostConfig"]["SecurityOpt"], service
    secrets = docker(
        "exec", stack.containers("web")[0], "sh", "-c", "for f in /run/secrets/*; do cat $f; echo; done"
    ).split()
    assert len(secrets) == 3
    everything = json.dumps([inspect(container) for service in SERVICES for container in stack.containers(service)])
    assert not [secret for secret in secrets if secret in everything]
    tools = docker(
        "exec", stack.containers("worker")[0], "sh", "-c",
        "for t in gcc cc make git pip pip3 curl; do command -v $t; done; python3 -m pip --version; true", check=False,
    )  # fmt: skip
    assert tools.strip() == ""


def test_a_worker_reaches_only_broker_bucket_and_balancer(stack: Stack) -> None:
    """The database and the web instances have no name and no way there; nor has the internet; nor is there a secret."""
    code = """
import os, socket
from concurrent.futures import ThreadPoolExecutor
def known(name):
    try: return bool(socket.gethostbyname(name))
    except OSError: return False
names = "redis", "bucket", "balancer", "postgres", "web"
for name, found in zip(names, ThreadPoolExecutor().map(known, names)): print(name, found)
try: socket.create_connection(("192.0.2.1", 443), 2); print("out", True)
except OSError: print("out", False)
print("secrets", any(n.startswith(("JWT", "DATABASE")) for n in os.environ) or os.path.exists("/run/secrets"))
"""
    answer = docker("exec", stack.containers("worker")[0], "python3", "-c", code).split("\n")
    assert answer[:7] == [
        "redis True", "bucket True", "balancer True", "postgres False", "web False", "out False", "secrets False",
    ]  # fmt: skip


def test_a_killed_instance_and_a_killed_worker_lose_nothing(stack: Stack) -> None:
    """kill -9 of one of each under load: no retry-safe call fails, every accepted task is processed."""
    with Load(stack.user()) as load:
        load.more(5)
        kill_9(stack.containers("web")[0])
        load.more(5)
        kill_9(stack.containers("worker")[0])
        load.more(5)
    assert load.failed_reads() == []
    # An upload whose instance died under it is not repeated behind its sender's back: it may fail, visibly.
    assert len(load.failed) <= load.uploads
    ended = load.user.ended(load.accepted)
    assert Counter(task["state"] for task in ended) == {"PROCESSED": len(load.accepted)}


@pytest.mark.parametrize("round_number", [1, 2])
def test_a_rolling_restart_of_web_fails_no_request(stack: Stack, round_number: int) -> None:
    """Every instance is restarted, one after the other, under load with uploads: not one request fails."""
    with Load(stack.user()) as load:
        load.more(5)
        for container in stack.containers("web"):
            docker("restart", "--time", "60", container)
            wait_for(lambda container=container: healthy(container), "healthy again", seconds=180)
            load.more(3)
    assert load.failed == []
    assert {task["state"] for task in load.user.ended(load.accepted)} == {"PROCESSED"}


def test_scaling_up_and_down_fails_no_request(stack: Stack) -> None:
    """From three web instances to four and to two, from two workers to three and to one, under load."""
    with Load(stack.user()) as load:
        load.more(3)
        stack.up(web=4, worker=3)
        load.more(5)
        answered = {line["upstream"] for line in stack.logs("balancer") if line.get("upstream_status") == "200"}
        assert len(answered) >= 4
        stack.up(web=2, worker=1)
        load.more(5)
    assert load.failed == []
    assert {task["state"] for task in load.user.ended(load.accepted)} == {"PROCESSED"}


def test_everything_stays_when_the_whole_stack_stops_and_starts(stack: Stack) -> None:
    """After stop and start the user's token, task and files are there: secrets, rows and objects are on volumes."""
    user = stack.user()
    audio = sound()
    task = user.convert(audio, "stays.wav", "mp3")
    stack.compose("stop", "--timeout", "30")
    stack.up(web=2, worker=1)
    assert user.get(f"/api/tasks/{task['id']}").json()["state"] == "PROCESSED"
    assert user.get(f"/api/tasks/{task['id']}/original").content == audio
