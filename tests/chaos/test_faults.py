"""One deterministic fault after another, injected into real processes by signal, by cut wire, by lost data.

The service is one for the whole module: every test leaves it as it found it, and the last one checks the books.
"""

import json
import signal
import threading

import psutil
import pytest
import requests

from tests.chaos import audio
from tests.chaos.driver import run
from tests.chaos.stack import Answer, Client, Stack, Worker
from tests.services import process_family, wait_for

SLOW = audio.noise(200)  # half a second of ffmpeg's time: enough to catch it


def at_work(stack: Stack) -> tuple[Worker, psutil.Process]:
    """Wait for the worker that runs an ffmpeg; freeze that ffmpeg."""

    def look() -> tuple[Worker, psutil.Process] | None:
        for worker in stack.workers:
            if (process := worker.ffmpeg()) is not None:
                return worker, process
        return None

    worker, process = wait_for(look, "a worker runs ffmpeg", every=0.005)
    process.send_signal(signal.SIGSTOP)
    return worker, process


def other(stack: Stack, worker: Worker) -> Worker:
    return next(each for each in stack.workers if each is not worker)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def right(client: Client, task_id: int, hertz: int) -> bool:
    """Whether the converted file is the tone that was uploaded."""
    pitch, seconds = audio.decode(client.converted(task_id))
    return abs(pitch - hertz) < 10 and abs(seconds - 1.0) < 0.1


def test_killing_the_process_that_converts_loses_nothing(stack: Stack, client: Client) -> None:
    """After kill -9 of a worker's child its ffmpeg is gone too, and the next attempt records the one result."""
    task_id = client.accepted(SLOW)
    worker, ffmpeg = at_work(stack)
    child = worker.child()
    assert child is not None
    child.kill()
    wait_for(lambda: gone(ffmpeg), "its ffmpeg is gone", 5)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]


@pytest.mark.slow
def test_killing_a_whole_worker_loses_nothing(stack: Stack, client: Client) -> None:
    """After kill -9 of a worker and all below it no ffmpeg survives, another converts, and scratch is cleared."""
    task_id = client.accepted(SLOW)
    worker, ffmpeg = at_work(stack)
    worker.kill()
    assert gone(ffmpeg)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 2)
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]
    worker.start()
    wait_for(lambda: not stack.job_folders(), "the dead worker's folder is cleared away", 5)


@pytest.mark.slow
def test_killing_only_the_head_of_a_worker_ends_its_children(stack: Stack, client: Client) -> None:
    """kill -9 of the worker's main process alone: its orphans end or finish, and exactly one result is recorded."""
    task_id = client.accepted(SLOW)
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
    task_id = client.accepted(SLOW)
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
    wait_for(lambda: first not in stack.objects(task_id), "the zombie's object is removed")
    refusals = [e for e in worker.events("job.superseded") if e.get("task") == task_id]
    assert [e["reason"] for e in refusals] in (["409"], []), "the report was refused, or the renewal before it"
    assert len(stack.objects(task_id)) == 2
    assert client.converted(task_id) == newer
    assert stack.outcomes(task_id) == [(2, "PROCESSED")]


@pytest.mark.slow
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
    poison = client.accepted(SLOW)
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


@pytest.mark.parametrize("keep_data", [pytest.param(True, marks=pytest.mark.slow), False])
def test_redis_killed_while_uploads_go_on(stack: Stack, client: Client, keep_data: bool) -> None:
    """Without Redis uploads are answered 200 in normal time; when it is back, with its data or empty, all are done."""
    before = [client.accepted(audio.tone(400)) for _ in range(3)]
    stack.redis.kill()
    answers = [client.upload(audio.tone(600)) for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6
    assert sorted(answer.seconds for answer in answers)[3] < 2, "only the first on each instance finds out"
    if not keep_data:
        stack.redis._forget()
    stack.redis.start()
    for task_id in before + [answer.body["task"]["id"] for answer in answers]:
        assert client.until(task_id)["state"] == "PROCESSED"
        assert len(stack.outcomes(task_id)) == 1


def test_redis_away_as_a_job_ends(stack: Stack, client: Client) -> None:
    """A worker that cannot acknowledge its message goes on to the next one when Redis is back."""
    task_id = client.accepted(SLOW)
    worker, ffmpeg = at_work(stack)
    spare = other(stack, worker)
    spare.kill()
    stack.redis_tap.refuse()
    ffmpeg.send_signal(signal.SIGCONT)
    client.until(task_id)
    stack.redis_tap.restore()
    assert client.until(client.accepted(audio.tone(900)))["state"] == "PROCESSED"
    spare.start()


@pytest.mark.slow
def test_a_message_lost_between_queue_and_worker_is_sent_again(stack: Stack, client: Client) -> None:
    """A message that Redis handed out to nobody is found by evidence and sent again."""
    for worker in stack.workers:
        worker.kill()
    task_id = client.accepted(audio.tone(700))
    assert stack.redis.client.rpop("conversions") is not None
    for worker in stack.workers:
        worker.start()
    assert client.until(task_id)["state"] == "PROCESSED"
    assert stack.rows("SELECT sends FROM tasks WHERE id = %s", task_id)[0][0] >= 2


def test_postgresql_away(stack: Stack, client: Client) -> None:
    """Without the database: 503 with Retry-After, not ready but alive, reports are held; after, all goes on."""
    task_id = client.accepted(SLOW)
    _, ffmpeg = at_work(stack)
    stack.postgres.end()
    ffmpeg.send_signal(signal.SIGCONT)
    answer = client.upload(audio.tone(440))
    assert (answer.status, answer.body["status"]) == (503, 503)
    assert int(answer.headers["Retry-After"]) > 0
    for web in stack.webs:
        ready = requests.get(f"{web.url}/readyz", timeout=20)
        assert (ready.status_code, ready.json()["database"]) == (503, "unavailable")
        assert requests.get(f"{web.url}/healthz", timeout=5).status_code == 200
    wait_for(lambda: any(w.events("report.waits", task=task_id) for w in stack.workers), "the report is held")
    stack.postgres.start()
    assert client.until(task_id)["state"] == "PROCESSED"
    assert len(stack.outcomes(task_id)) == 1
    assert client.until(client.accepted(audio.tone(440)))["state"] == "PROCESSED"


@pytest.mark.slow
def test_the_store_away(stack: Stack, client: Client) -> None:
    """A store that refuses for a moment is waited for by workers: the task ends PROCESSED at its first attempt."""
    for worker in stack.workers:
        worker.kill()
    task_id = client.accepted(audio.tone(800))
    stack.gcs_tap.refuse()
    for worker in stack.workers:
        worker.start()
    client.until(task_id, "PROCESSING")
    stack.gcs_tap.restore()
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
    assert right(client, task_id, 800)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["bytes arrive", "object is written"])
def test_killing_the_api_in_an_upload(stack: Stack, client: Client, moment: str) -> None:
    """kill -9 of an API instance during an upload: the client sees a broken connection; no row and no object stay."""
    web = stack.webs[0]
    before = set(stack.objects()), stack.rows("SELECT count(*) FROM tasks")
    answers: list[Answer] = []
    tap = stack.gcs_tap if moment == "bytes arrive" else stack.postgres_tap

    def upload() -> None:
        answers.append(client.upload(audio.tone(440), web=web))

    thread = threading.Thread(target=upload)
    if moment == "bytes arrive":
        stack.gcs_tap.hang()
        thread.start()
        wait_for(lambda: stack.rows("SELECT 1 FROM tasks WHERE state = 'RECEIVING'"), "the row is there")
    else:
        # Slowed down, the database answers late enough that the object is there and the row is not yet UPLOADED.
        stack.postgres_tap.delay(0.3)
        thread.start()
        wait_for(
            lambda: set(stack.objects()) - before[0] and stack.rows("SELECT 1 FROM tasks WHERE state = 'RECEIVING'"),
            "the object is there and its row is not UPLOADED",
            every=0.005,
        )
    web.kill()
    tap.restore()
    thread.join()
    web.start()
    assert [answer.status for answer in answers] == [0]
    wait_for(
        lambda: stack.rows("SELECT count(*) FROM tasks") == before[1] and set(stack.objects()) == before[0],
        "row and object are gone",
    )


@pytest.mark.slow
def test_sigterm_of_an_api_lets_uploads_finish(stack: Stack, client: Client) -> None:
    """An upload that is under way when its instance is told to end is answered 200 and converted."""
    web = stack.webs[1]
    answers: list[Answer] = []
    stack.gcs_tap.delay(0.3)
    thread = threading.Thread(target=lambda: answers.append(client.upload(audio.tone(660), web=web)))
    thread.start()
    wait_for(
        lambda: stack.rows("SELECT 1 FROM tasks WHERE state = 'RECEIVING'"), "the upload is under way", every=0.005
    )
    psutil.Process(web.pid).terminate()
    thread.join()
    stack.gcs_tap.restore()
    wait_for(lambda: not web.up, "the instance has ended")
    web.kill()
    web.start()
    assert [answer.status for answer in answers] == [200]
    assert client.until(answers[0].body["task"]["id"])["state"] == "PROCESSED"


@pytest.mark.slow
def test_sigterm_of_a_worker_lets_its_conversion_finish(stack: Stack, client: Client) -> None:
    """A conversion that runs when its worker is told to end is finished at its first attempt, and the worker ends."""
    task_id = client.accepted(SLOW)
    worker, ffmpeg = at_work(stack)
    psutil.Process(worker.pid).terminate()
    wait_for(lambda: "Warm shutdown" in worker.log() or "shutdown" in worker.log().lower(), "the worker was told")
    ffmpeg.send_signal(signal.SIGCONT)
    task = client.until(task_id)
    assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
    wait_for(lambda: not worker.up, "the worker has ended")
    worker.kill()
    worker.start()


def test_changes_and_removals_at_once(stack: Stack, client: Client) -> None:
    """PUT and DELETE from many sides at once: never a 5xx, and after a DELETE nothing of the task is left."""
    task_ids = [client.accepted(audio.tone(440)) for _ in range(4)]
    statuses: list[int] = []
    formats = ("mp3", "flac", "ogg", "wav")

    def change(task_id: int, number: int) -> None:
        path = f"/api/tasks/{task_id}"
        if number == 5 and task_id % 2:
            statuses.append(client.call("DELETE", path).status)
        else:
            statuses.append(client.call("PUT", path, json={"newFormat": formats[number % 4]}).status)

    threads = [threading.Thread(target=change, args=(t, n)) for n in range(6) for t in task_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 404}
    kept = [task_id for task_id in task_ids if task_id % 2 == 0]
    for task_id in kept:
        task = client.until(task_id)
        assert task["state"] == "PROCESSED"
        assert (
            task["result"]["codec"]
            == {"mp3": "mp3", "flac": "flac", "ogg": "vorbis", "wav": "pcm_s16le"}[task["newFormat"]]
        )
    for task_id in set(task_ids) - set(kept):
        wait_for(lambda task_id=task_id: not stack.objects(task_id), "nothing of a removed task is left")  # type: ignore[misc]


@pytest.mark.slow
def test_a_short_chaos(stack: Stack) -> None:
    """Twenty seconds of uploads among faults chosen by a fixed seed: nothing lost, doubled, stuck or wrong."""
    books = run(stack, 20, seed=3, rate=2, pause=2)
    assert books.accepted > 10
    assert books.balance(), books.table()


def test_the_books_balance(stack: Stack) -> None:
    """After all that: every task at its end, the bucket is what the rows say, no folder and no ffmpeg are left."""
    stack.wait_until_quiet()
    assert stack.untidy() == (set(), set())
    wait_for(lambda: not stack.job_folders(), "scratch is empty", 40)
    assert [worker.ffmpeg() for worker in stack.workers] == [None, None]
    doubled = stack.rows("SELECT task, attempt FROM outcomes GROUP BY 1, 2 HAVING count(*) > 1")
    assert doubled == []
