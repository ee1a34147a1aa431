"""The process tree that journeys run on: it converts, its parts can be killed, and it leaves nothing behind."""

import os
import signal

import psutil

from tests.client import Client, tone
from tests.services import wait_for
from tests.stack import Stack


def test_converts_on_every_part_and_leaves_nothing_behind() -> None:
    """Two web instances, two workers, PostgreSQL and the emulator convert a file; then all of it is gone."""
    with Stack(database="postgres", store="gcs", web=2, workers=2, tapped=True) as stack:
        client = Client(stack.url).signup().login()
        audio = tone()
        task = client.upload(audio, "a tone.wav", "flac")
        assert client.wait(task["id"])["state"] == "PROCESSED"
        assert client.original(task["id"]) == audio
        assert client.converted(task["id"])[:4] == b"fLaC"
        assert client.refresh().tasks(max=1, order=1)[0]["id"] == task["id"]
        client.delete(task["id"])
        client.task(task["id"], status=404)
        for tap in (stack.redis_tap, stack.postgres_tap, stack.gcs_tap):
            assert tap.connections > 0
        parts = [*stack.services, stack.redis, stack.postgres, stack.gcs]
        pids = [pid for part in parts for pid in (part.pid, *(child.pid for child in part.children()))]
        folders = [stack.folder, *(part.folder for part in parts)]
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert [folder for folder in folders if folder.exists()] == []


def test_a_killed_part_starts_again_at_its_address() -> None:
    """After SIGKILL of web and worker the same stack converts again; the balancer passes a dead instance over."""
    with Stack(web=2) as stack:
        stack.web[0].kill()
        client = Client(stack.url).signup().login()
        stack.workers[0].kill()
        task = client.upload(tone(), "tone.wav", "wav")
        assert client.task(task["id"])["state"] == "UPLOADED"
        stack.web[0].start()
        stack.workers[0].start()
        assert client.wait(task["id"])["state"] == "PROCESSED"


def test_a_part_that_killed_itself_is_cleared_up() -> None:
    """A master that a test kills behind the stack's back takes its children along at the end."""
    with Stack(web=1) as stack:
        web = stack.web[0]
        children = web.children()
        os.kill(web.pid, signal.SIGKILL)
        wait_for(lambda: not any(child.is_running() for child in children), "gunicorn's workers leave")
