"""Hosts whose clocks are off. Moments are the database's own, so that no other clock counts."""

import signal
import threading
from collections.abc import Iterator
from datetime import datetime

import psutil
import pytest
import requests

from tests.chaos import audio
from tests.chaos.stack import LEASE_SECONDS, Answer, Client, Stack, Worker, at_work, off
from tests.services import wait_for

MINUTES = 300.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A service whose second API, second worker and only sweeper live five minutes ahead of the rest."""
    with Stack() as running:
        for program in (running.webs[1], running.workers[1], *running.sweepers):
            program.kill()
            program.environment = {**(program.environment or {}), **off(MINUTES)}
            program.start()
        yield running


def test_no_lease_ends_early_and_no_work_is_done_twice(stack: Stack, client: Client) -> None:
    """Conversions longer than two leases, on either worker, stay the first and only attempt."""
    task_ids, running = [], dict[Worker, psutil.Process]()
    for _ in stack.workers:
        task_ids.append(client.accepted(audio.SLOW))
        worker, ffmpeg = at_work(stack, *running)
        running[worker] = ffmpeg
    long_ago = "SELECT id FROM tasks WHERE id = ANY(%s) AND started_at < now() - %s * interval '1 s'"
    wait_for(lambda: len(stack.rows(long_ago, task_ids, 2 * LEASE_SECONDS)) == len(task_ids), "both run for two leases")
    for ffmpeg in running.values():
        ffmpeg.send_signal(signal.SIGCONT)
    for task_id in task_ids:
        task = client.until(task_id)
        assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
        assert stack.outcomes(task_id) == [(1, "PROCESSED")]


def test_an_upload_is_not_given_up_early(stack: Stack, client: Client) -> None:
    """A sweeper of the future leaves an upload alone that the store is slow to take."""
    answers: list[Answer] = []
    stack.gcs_tap.hang()
    thread = threading.Thread(target=lambda: answers.append(client.upload(audio.tone(440), web=stack.webs[0])))
    thread.start()
    slow = "SELECT id FROM tasks WHERE state = 'RECEIVING' AND created_at < now() - interval '2 s'"
    wait_for(lambda: stack.rows(slow), "the upload is under way, and sweepers saw it")
    stack.gcs_tap.restore()
    thread.join()
    assert [answer.status for answer in answers] == [200]
    assert client.until(answers[0].body["task"]["id"])["state"] == "PROCESSED"


def test_the_clocks_are_off(stack: Stack) -> None:
    """The lines that the two APIs log at one moment are five minutes apart: the fault is really there."""
    moments = []
    for web in stack.webs:
        assert requests.get(f"{web.url}/api/tasks", timeout=20).status_code == 401
        (*_, line) = wait_for(lambda web=web: web.events("request.answered", status=401), "it is logged")  # type: ignore[misc]
        moments.append(datetime.fromisoformat(line["time"]))
    assert abs((moments[1] - moments[0]).total_seconds() - MINUTES) < 60
