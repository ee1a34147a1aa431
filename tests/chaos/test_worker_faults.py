"""What a worker may suffer, injected into real processes by signal, cut wire and full disk.

The service is one for the whole module: every test leaves it as it found it, and the last one checks the books.
"""

import json
import signal

import psutil

from tests.chaos import audio
from tests.chaos.stack import Client, Stack, at_work, gone, instead, right
from tests.services import process_family, wait_for


def test_killing_the_process_that_converts_loses_nothing(stack: Stack, client: Client) -> None:
    """After kill -9 of a worker's child its ffmpeg is gone too, and the next attempt records the one result."""
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    child = worker.child()
    assert child is not None
    child.kill()
    wait_for(lambda: gone(ffmpeg), "its ffmpeg is gone", 5)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]


def test_killing_a_whole_worker_loses_nothing(stack: Stack, client: Client) -> None:
    """After kill -9 of a worker and all below it no ffmpeg survives, another converts, and scratch is cleared."""
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    worker.kill()
    assert gone(ffmpeg)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]
    worker.start()
    wait_for(lambda: not stack.job_folders(), "the dead worker's folder is cleared away", 5)


def test_killing_only_the_head_of_a_worker_ends_its_children(stack: Stack, client: Client) -> None:
    """kill -9 of the worker's main process alone: its orphans end or finish, and exactly one result is recorded."""
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    family = process_family(worker.pid)
    family[0].kill()
    ffmpeg.send_signal(signal.SIGCONT)
    task = client.until(task_id)
    assert task["state"] == "PROCESSED"
    assert len(stack.outcomes(task_id)) == 1
    wait_for(lambda: all(gone(process) for process in family), "nothing of the worker is left", 15)
    worker.kill()
    worker.start()


def test_a_zombie_is_refused_and_cleans_up_after_itself(stack: Stack, client: Client) -> None:
    """A worker frozen past its lease with its result in the bucket gets 409 when it wakes; the newer result stands."""
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    worker.tap.hang()  # neither renewal nor report gets through from now on
    ffmpeg.send_signal(signal.SIGCONT)
    first = f"{task_id}/tone.ogg"
    wait_for(lambda: first in stack.objects(task_id), "the first attempt's result is in the bucket")
    worker.stop()
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    newer = client.converted(task_id)
    worker.cont()
    worker.tap.restore()
    zombies = {first, f"{task_id}/waveform.1.json"}
    wait_for(lambda: not zombies & set(stack.objects(task_id)), "the zombie's objects are removed")
    refusals = [e for e in worker.events("job.superseded") if e.get("task") == task_id]
    assert [e["reason"] for e in refusals] in (["409"], []), "the report was refused, or the renewal before it"
    assert len(stack.objects(task_id)) == 3
    assert client.converted(task_id) == newer
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]


def test_every_message_three_times(stack: Stack, client: Client) -> None:
    """Copies of a message, at once and long after, cost a claim each and change nothing."""
    for worker in stack.workers:
        worker.kill()
    task_ids = [client.accepted(audio.tone(300 + 50 * n)) for n in range(4)]
    messages = stack.messages()
    copies = []
    for message in messages:
        for number in (1, 2):
            copy = json.loads(message)
            copy["properties"]["delivery_tag"] += f"-{number}"
            copies.append(json.dumps(copy))
    stack.redis.client.lpush("conversions", *copies)
    for worker in stack.workers:
        worker.start()
    for number, task_id in enumerate(task_ids):
        task = client.until(task_id)
        assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
        assert right(client, task_id, 300 + 50 * number)
    stack.redis.client.lpush("conversions", *(copy.replace("-1", "-3").replace("-2", "-4") for copy in copies))
    wait_for(lambda: not stack.messages(), "the late copies are taken")
    left = lambda: sum(len(w.events("job.left", task=t)) for w in stack.workers for t in task_ids)  # noqa: E731
    wait_for(lambda: left() >= 16, "every copy is turned away")
    assert [stack.outcomes(task_id) for task_id in task_ids] == [[(1, "PROCESSED")]] * 4


def test_a_job_that_kills_its_worker_fails_after_three_tries(stack: Stack, client: Client) -> None:
    """A poison job ends FAILED with a code; a neighbour uploaded after it is converted all the same."""
    poison = client.accepted(audio.SLOW)
    neighbour = None
    for _ in range(3):
        worker, ffmpeg = at_work(stack)
        child = worker.child()
        assert child is not None
        child.kill()
        wait_for(lambda ffmpeg=ffmpeg: gone(ffmpeg), "its ffmpeg is gone", 5)  # type: ignore[misc]
        if neighbour is None:
            neighbour = client.accepted(audio.tone(500))
            assert client.until(neighbour)["state"] == "PROCESSED"
    task = client.until(poison)
    assert (task["state"], task["error"]["code"]) == ("FAILED", "worker_lost")
    assert stack.outcomes(poison) == [(3, "FAILED")]


def test_sigterm_of_a_worker_lets_its_conversion_finish(stack: Stack, client: Client) -> None:
    """A conversion that runs when its worker is told to end is finished at its first attempt, and the worker ends."""
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    psutil.Process(worker.pid).terminate()
    wait_for(lambda: "Warm shutdown" in worker.log() or "shutdown" in worker.log().lower(), "the worker was told")
    ffmpeg.send_signal(signal.SIGCONT)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
    wait_for(lambda: not worker.up, "the worker has ended")
    worker.kill()
    worker.start()


def test_a_worker_told_to_end_at_once_gives_its_conversion_back(stack: Stack, client: Client) -> None:
    """With REMAP_SIGTERM=SIGQUIT a conversion is called off and issued anew before its lease ends; it costs no try."""
    with instead(stack, REMAP_SIGTERM="SIGQUIT") as worker:
        task_id = client.accepted(audio.SLOW)
        ffmpeg = worker.catch_ffmpeg()
        psutil.Process(worker.pid).terminate()
        wait_for(lambda: not worker.up, "the worker has ended")
        assert gone(ffmpeg)
        task = client.task(task_id)
        assert (task["state"], task["attempt"]) == ("UPLOADED", 2)
        assert not list(stack.scratch.rglob("job-*"))
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    assert stack.rows("SELECT tries FROM tasks WHERE id = %s", task_id) == [(1,)], "it was given back, not lost"
    assert len(stack.outcomes(task_id)) == 1


def test_a_worker_whose_disk_is_full(stack: Stack, client: Client) -> None:
    """What does not fit on its disk, original or result, fails and says so; the worker goes on with what does."""
    with instead(stack, disk="1m") as worker:
        original = client.accepted(audio.SLOW)
        result = client.accepted(audio.tone(440, 40), "wav")
        small = client.accepted(audio.tone(440))
        for task_id in (original, result):
            task = client.until(task_id)
            assert (task["state"], task["error"]["code"]) == ("FAILED", "worker_disk_full")
            assert len(stack.outcomes(task_id)) == 1
        assert client.until(small)["state"] == "PROCESSED"
        assert right(client, small, 440)
        assert worker.up


def test_a_result_larger_than_may_be(stack: Stack, client: Client) -> None:
    """It fails and says so; a smaller one does not."""
    with instead(stack, MAX_RESULT_BYTES="100000"):
        task = client.until(client.accepted(audio.tone(440, 20), "wav"))
        assert (task["state"], task["error"]["code"]) == ("FAILED", "too_large")
        assert client.until(client.accepted(audio.tone(440), "wav"))["state"] == "PROCESSED"


def test_the_books_balance(stack: Stack) -> None:
    """After all that: every task at its end, the bucket is what the rows say, no folder and no ffmpeg are left."""
    stack.wait_until_quiet()
    assert stack.untidy() == (set(), set())
    wait_for(lambda: not stack.job_folders(), "scratch is empty", 40)
    assert [worker.ffmpeg() for worker in stack.workers] == [None, None]
    doubled = stack.rows("SELECT task, attempt FROM outcomes GROUP BY 1, 2 HAVING count(*) > 1")
    assert doubled == []
