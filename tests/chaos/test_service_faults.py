"""What the API, PostgreSQL, Redis and the store may suffer, injected by signal, cut wire and lost data.

The service is one for the whole module: every test leaves it as it found it, and the last one checks the books.
"""

import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest
import requests

from tests.chaos import audio
from tests.chaos.stack import Answer, Client, Stack, at_work, other, right
from tests.services import Tap, wait_for


@pytest.mark.parametrize("keep_data", [True, False])
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
    task_id = client.accepted(audio.SLOW)
    worker, ffmpeg = at_work(stack)
    spare = other(stack, worker)
    spare.kill()
    stack.redis_tap.refuse()
    ffmpeg.send_signal(signal.SIGCONT)
    client.until(task_id)
    stack.redis_tap.restore()
    assert client.until(client.accepted(audio.tone(900)))["state"] == "PROCESSED"
    spare.start()


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
    task_id = client.accepted(audio.SLOW)
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


class Now:
    """An alteration that does something to a few of the larger pieces that pass, and notes how many are still due."""

    def __init__(self, act: Callable[[bytes], bytes], times: int, least: int = 0, every: int = 1) -> None:
        self.due = times
        self._act, self._least, self._every = act, least, every
        self._seen = 0
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> bytes:
        with self._lock:
            self._seen += len(data) >= self._least
            if not self.due or len(data) < self._least or self._seen % self._every:
                return data
            self.due -= 1
        return self._act(data)


def cut(data: bytes) -> bytes:
    raise ConnectionResetError


def flip(data: bytes) -> bytes:
    """One bit of one byte in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def unavailable(data: bytes) -> bytes:
    """The answer is lost on its way, and a balancer answers in its place. What was asked for has been done!"""
    return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n" if data.startswith(b"HTTP/1.1 2") else data


def test_a_store_that_answers_503_now_and_then(stack: Stack, client: Client) -> None:
    """Every third answer of the store is a 503 although it did what was asked: clients and tasks do not notice."""
    now = Now(unavailable, times=12, every=3)
    stack.gcs_tap.alter(answers=now)
    tasks = {client.accepted(audio.tone(hertz)): hertz for hertz in (400, 500, 600, 700)}
    for task_id, hertz in tasks.items():
        task = client.until(task_id)
        assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
        assert len(stack.outcomes(task_id)) == 1
        assert right(client, task_id, hertz)
    stack.gcs_tap.restore()
    assert now.due <= 4, "at least eight answers were replaced"


def test_a_store_that_cuts_connections_half_way(stack: Stack, client: Client) -> None:
    """Uploads and downloads of some megabytes that break off in the middle are done again, and nothing is lost."""
    sending, fetching = Now(cut, 2, least=16384, every=9), Now(cut, 2, least=16384, every=9)
    stack.gcs_tap.alter(requests=sending, answers=fetching)
    task_id = client.accepted(audio.SLOW, "wav")
    task = client.until(task_id)
    stack.gcs_tap.restore()
    assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
    assert (sending.due, fetching.due) == (0, 0)
    assert audio.samples(client.converted(task_id)) == audio.samples(audio.SLOW)


def test_a_corrupt_download_is_noticed(stack: Stack, client: Client) -> None:
    """One flipped bit on the way to the worker is found by the checksum; what is converted is what was uploaded."""
    flipped = Now(flip, times=3, least=16384, every=5)
    stack.gcs_tap.alter(answers=flipped)
    task_id = client.accepted(audio.SLOW, "wav")
    task = client.until(task_id)
    stack.gcs_tap.restore()
    assert (task["state"], task["attempt"]) == ("PROCESSED", 1)
    assert flipped.due == 0
    assert audio.samples(client.converted(task_id)) == audio.samples(audio.SLOW)


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
        stack.postgres_tap.delay(0.1)
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


def test_killing_the_api_between_row_and_message(stack: Stack, client: Client) -> None:
    """kill -9 after the row is there and before its message is: the client sees a broken connection, the task ends."""
    web = stack.webs[0]
    answers: list[Answer] = []
    for worker in stack.workers:
        worker.kill()
    stack.redis_tap.hang()
    thread = threading.Thread(target=lambda: answers.append(client.upload(audio.tone(440), web=web)))
    thread.start()
    found = wait_for(lambda: stack.rows("SELECT id FROM tasks WHERE state = 'UPLOADED'"), "the row is there")
    web.kill()
    stack.redis_tap.cut()
    stack.redis_tap.restore()
    thread.join()
    assert stack.messages() == []
    for program in (web, *stack.workers):
        program.start()
    assert [answer.status for answer in answers] == [0]
    assert client.until(found[0][0])["state"] == "PROCESSED"
    assert len(stack.outcomes(found[0][0])) == 1


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


def test_rolling_restarts_behind_a_balancer(stack: Stack, client: Client) -> None:
    """While every API instance in turn is told to end and started again, no upload fails: the balancer asks another."""
    stop = threading.Event()
    answers: list[Answer] = []

    def upload(balancer: Tap) -> None:
        while not stop.is_set():
            answers.append(client.upload(audio.tone(880, 0.2), port=balancer.port))

    with Tap(*(web.port for web in stack.webs)) as balancer:
        threads = [threading.Thread(target=upload, args=(balancer,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for web in stack.webs:
            wait_for(lambda: len(answers) > 5, "uploads are under way")
            psutil.Process(web.pid).terminate()
            wait_for(lambda web=web: not web.up, "the instance has ended")  # type: ignore[misc]
            web.kill()
            web.start()
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        assert client.until(answer.body["task"]["id"])["state"] == "PROCESSED"


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


def test_the_books_balance(stack: Stack) -> None:
    """After all that: every task at its end, the bucket is what the rows say, no folder and no ffmpeg are left."""
    stack.wait_until_quiet()
    assert stack.untidy() == (set(), set())
    wait_for(lambda: not stack.job_folders(), "scratch is empty", 40)
    assert [worker.ffmpeg() for worker in stack.workers] == [None, None]
    doubled = stack.rows("SELECT task, attempt FROM outcomes GROUP BY 1, 2 HAVING count(*) > 1")
    assert doubled == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["Redis", "PostgreSQL"])
def test_a_whole_minute_away(stack: Stack, client: Client, part: str) -> None:
    """Uploads go on at their pace without Redis, and are refused without PostgreSQL; after it all goes on by itself."""
    tap = stack.redis_tap if part == "Redis" else stack.postgres_tap
    before = [client.accepted(audio.tone(440)) for _ in range(4)]
    answers: list[Answer] = []
    tap.refuse()
    away = time.monotonic()
    while time.monotonic() - away < 60:
        answers.append(client.upload(audio.tone(550, 0.3)))
    tap.restore()
    back = time.monotonic()
    statuses = Counter(answer.status for answer in answers)
    if part == "Redis":
        assert set(statuses) == {200}
        assert statistics.median(answer.seconds for answer in answers) < 0.5
    else:
        assert set(statuses) == {503}
    first = int(wait_for(lambda: client.upload(audio.tone(660)).body.get("task"), "an upload is accepted", 10)["id"])
    accepted = [*before, first, *(answer.body["task"]["id"] for answer in answers if answer.status == 200)]
    if part == "Redis":
        done = "SELECT 1 FROM tasks WHERE id = ANY(%s) AND finished_at > now() - interval '2 s'"
        wait_for(lambda: stack.rows(done, accepted), "workers have taken up work again", 10 - (time.monotonic() - back))
    for task_id in accepted:
        assert client.until(task_id)["state"] == "PROCESSED"
        assert len(stack.outcomes(task_id)) == 1
