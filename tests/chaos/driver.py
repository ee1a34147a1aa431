"""Uploads at a steady rate while faults are injected at random, then a check of the books.

    python -m tests.chaos --minutes 10 --seed 1

What is random comes from the seed; what the machine's scheduler adds does not.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from subprocess import CalledProcessError
from typing import Any

import psutil

from tests.chaos import audio
from tests.chaos.stack import LEASE_SECONDS, Client, Program, Stack
from tests.services import ServiceFailedError, wait_for

CODECS = {"ogg": "vorbis", "mp3": "mp3", "flac": "flac", "wav": "pcm_s16le"}
SECONDS = 0.5  # of each tone
QUIET_SECONDS = 240.0  # after the last fault, for everything to come to its end
_TRUE_REASONS = {"worker_lost", "message_lost", "store_unavailable"}  # what may befall a sound file among faults


@dataclass
class Wish:
    """What a client asked for and was promised. formats: more than one when an answer to a PUT got lost."""

    task: int
    hertz: int | None  # None: not audio at all
    formats: set[str]
    changes: int = 0
    removed: bool = False  # answered 200
    maybe_removed: bool = False  # asked for, the answer got lost


@dataclass
class Books:
    """What came of a run. Empty lists are what was promised."""

    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    longest_task: float = 0.0
    longest_recovery: float = 0.0
    quiet_after: float = 0.0

    def balance(self) -> bool:
        return not (
            self.lost or self.doubled or self.stuck or self.wrong or self.orphans or self.missing or self.leftovers
            or self.server_errors
        )  # fmt: skip

    def table(self) -> str:
        """The books for a person to read."""
        lines = ["Faults injected"]
        lines += [f"  {name:<44}{count:>6}" for name, count in sorted(self.faults.items())]
        lines += [f"  {'all':<44}{self.faults.total():>6}", "", "Uploads by answer (0: connection error)"]
        lines += [f"  {status:<44}{count:>6}" for status, count in sorted(self.answers.items())]
        lines += ["", "Accepted tasks by how they ended"]
        lines += [f"  {name:<44}{count:>6}" for name, count in sorted(self.ends.items())]
        lines += [
            f"  {'all':<44}{self.accepted:>6}", "",
            *(f"{name:<46}{len(found):>6}  {found[:8] or ''}" for name, found in (
                ("lost", self.lost), ("doubled", self.doubled), ("stuck", self.stuck), ("wrong", self.wrong),
                ("objects without a row", self.orphans), ("rows without their object", self.missing),
                ("processes and folders left", self.leftovers), ("answers of 500", self.server_errors),
            )),
            "",
            f"{'longest from upload or change to end':<44}{self.longest_task:>6.1f} s",
            f"{'longest from a fault to the next result':<44}{self.longest_recovery:>6.1f} s",
            f"{'quiet after the last upload in':<44}{self.quiet_after:>6.1f} s",
        ]  # fmt: skip
        return "\n".join(lines)


class Faults:
    """Every fault by name: a function that injects it, lasts as long as it does, and undoes it."""

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self._stack = stack
        self._chance = chance
        self._kinds: dict[str, tuple[str, Callable[[float], None]]] = {
            "API killed": ("api", lambda s: self._killed(chance.choice(stack.webs), s)),
            "API told to end": ("api", lambda s: self._ended(chance.choice(stack.webs), s)),
            "API frozen": ("api", lambda s: self._frozen(chance.choice(stack.webs), s)),
            "worker's child killed": ("worker", lambda _s: self._child_killed()),
            "worker killed": ("worker", lambda s: self._killed(chance.choice(stack.workers), s)),
            "worker told to end": ("worker", lambda s: self._ended(chance.choice(stack.workers), s)),
            "worker frozen past its lease": (
                "worker", lambda s: self._frozen(chance.choice(stack.workers), LEASE_SECONDS + 1 + s)),
            "worker cut off from the API": ("worker", lambda s: self._refused(chance.choice(stack.workers).tap, s)),
            "Redis killed": ("redis", lambda s: self._service_killed(stack.redis, s, keep_data=True)),
            "Redis killed, its data lost": ("redis", lambda s: self._service_killed(stack.redis, s, keep_data=False)),
            "Redis frozen": ("redis", lambda s: self._frozen(stack.redis, s)),
            "Redis connections cut": ("redis", lambda _s: stack.redis_tap.cut()),
            "Redis refuses": ("redis", lambda s: self._refused(stack.redis_tap, s)),
            "message lost": ("redis", lambda _s: self._with_redis(lambda r: r.rpop("conversions"))),
            "messages doubled": ("redis", lambda _s: self._with_redis(self._double)),
            "PostgreSQL killed": ("postgres", lambda s: self._service_killed(stack.postgres, s, keep_data=True)),
            "PostgreSQL connections cut": ("postgres", lambda _s: stack.postgres_tap.cut()),
            "PostgreSQL refuses": ("postgres", lambda s: self._refused(stack.postgres_tap, s)),
            "store killed": ("store", lambda s: self._service_killed(stack.gcs, s, keep_data=True)),
            "store connections cut": ("store", lambda _s: stack.gcs_tap.cut()),
            "store refuses": ("store", lambda s: self._refused(stack.gcs_tap, s)),
            "store slow": ("store", self._slow_store),
            "sweeper killed": ("sweeper", lambda s: self._killed(chance.choice(stack.sweepers), s)),
        }  # fmt: skip
        self._locks = {part: threading.Lock() for part, _ in self._kinds.values()}
        self._bag: list[str] = []
        self.done: Counter[str] = Counter()
        self.ends: list[float] = []  # by time.time()

    def pick(self) -> tuple[str, float]:
        """Return the next fault and how long it lasts. Every fault has its turn before one has its second."""
        if not self._bag:
            self._bag = list(self._kinds)
            self._chance.shuffle(self._bag)
        return self._bag.pop(), self._chance.uniform(0.2, 3.0)

    def inject(self, name: str, seconds: float) -> None:
        """Inject one fault and undo it; only one at a time hits the same part."""
        part, fault = self._kinds[name]
        with self._locks[part]:
            fault(seconds)
            self.done[name] += 1
            self.ends.append(time.time())

    def _killed(self, program: Program, seconds: float) -> None:
        program.kill()
        time.sleep(seconds)
        program.launch()

    def _ended(self, program: Program, seconds: float) -> None:
        program.end()
        program.launch()

    def _frozen(self, service: Any, seconds: float) -> None:
        service.stop()
        time.sleep(seconds)
        service.cont()

    def _service_killed(self, service: Any, seconds: float, *, keep_data: bool) -> None:
        service.kill()
        time.sleep(seconds)
        if not keep_data:
            service._forget()
        service.start()

    def _refused(self, tap: Any, seconds: float) -> None:
        tap.refuse()
        time.sleep(seconds)
        tap.restore()

    def _slow_store(self, seconds: float) -> None:
        self._stack.gcs_tap.delay(0.2)
        time.sleep(seconds)
        self._stack.gcs_tap.delay(0.0)

    def _child_killed(self) -> None:
        if (child := self._chance.choice(self._stack.workers).child()) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def _with_redis(self, act: Callable[[Any], Any]) -> None:
        act(self._stack.redis.client)

    def _double(self, client: Any) -> None:
        if messages := client.lrange("conversions", 0, 20):
            client.lpush("conversions", *messages)


class Load:
    """Clients that upload, change and remove."""

    def __init__(self, stack: Stack, client: Client, chance: random.Random) -> None:
        self._stack = stack
        self._client = client
        self._chance = chance
        self._lock = threading.Lock()
        self.wishes: dict[int, Wish] = {}
        self.answers: Counter[int] = Counter()
        self.server_errors: list[str] = []

    def plan(self, number: int) -> Callable[[], None]:
        """Return one client's next deed; all that is random in it is settled here."""
        chance = self._chance
        target = chance.choice(list(CODECS))
        hertz = None if chance.random() < 0.04 else 200 + 17 * (number % 150)
        then = chance.choices(("", "change", "remove"), (88, 7, 5))[0]
        other = chance.choice([name for name in CODECS if name != target])
        pause = chance.uniform(0, 2)
        return lambda: self._deed(hertz, target, then, other, pause)

    def _deed(self, hertz: int | None, target: str, then: str, other: str, pause: float) -> None:
        data = audio.tone(hertz, SECONDS) if hertz else b"This is a letter, not a song. " * 99
        answer = self._client.upload(data, target)
        self._note("POST", answer.status, answer.body)
        with self._lock:
            self.answers[answer.status] += 1
        if answer.status != 200:
            return
        wish = Wish(int(answer.body["task"]["id"]), hertz, {target})
        with self._lock:
            self.wishes[wish.task] = wish
        path = f"/api/tasks/{wish.task}"
        if then == "change":
            time.sleep(pause)
            wish.changes += 1
            answer = self._client.call("PUT", path, json={"newFormat": other})
            self._note("PUT", answer.status, answer.body)
            wish.formats = {other} if answer.status == 200 else wish.formats | {other}
        elif then == "remove":
            time.sleep(pause)
            answer = self._client.call("DELETE", path)
            self._note("DELETE", answer.status, answer.body)
            wish.removed = answer.status == 200
            wish.maybe_removed = not wish.removed

    def _note(self, method: str, status: int, body: Any) -> None:
        if status >= 500 and status != 503:
            self.server_errors.append(f"{method} {status} {body}")


def run(stack: Stack, seconds: float, seed: int, rate: float, pause: float) -> Books:
    """Run for so many seconds at `rate` uploads a second with a fault every `pause` seconds; return the books."""
    chance = random.Random(seed)
    client = Client(stack)
    load = Load(stack, client, random.Random(chance.random()))
    faults = Faults(stack, random.Random(chance.random()))
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(24) as clients, ThreadPoolExecutor(8) as breakers, _kept_up(stack):
        jobs = []
        began = next_fault = time.monotonic()
        number = 0
        while (now := time.monotonic()) < deadline:
            if now >= next_fault:
                jobs.append(breakers.submit(faults.inject, *faults.pick()))
                next_fault += pause
            if now >= began + number / rate:
                jobs.append(clients.submit(load.plan(number)))
                number += 1
            time.sleep(max(0.0, min(next_fault, began + number / rate, deadline) - time.monotonic()))
        for job in jobs:
            job.result()
        books = Books(faults=faults.done, answers=load.answers, accepted=len(load.wishes))
        books.server_errors = load.server_errors
        quiet = time.monotonic()
        with contextlib.suppress(TimeoutError):
            stack.wait_until_quiet(QUIET_SECONDS)
        books.quiet_after = time.monotonic() - quiet
    _check(stack, client, load, faults, books)
    return books


@contextlib.contextmanager
def _kept_up(stack: Stack) -> Iterator[None]:
    """Start again whatever ended by itself, as a container's restart policy does."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1):
            for program in (*stack.webs, *stack.workers, *stack.sweepers):
                if program.ended_by_itself():
                    with contextlib.suppress(ServiceFailedError):
                        program.launch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _check(stack: Stack, client: Client, load: Load, faults: Faults, books: Books) -> None:
    rows = {
        row[0]: row[1:]
        for row in stack.rows("SELECT id, state, format, error_code, result, tries, converted_route FROM tasks")
    }
    counts = dict(stack.rows("SELECT task, count(*) FROM outcomes GROUP BY task"))
    twice = {task for (task,) in stack.rows("SELECT task FROM outcomes GROUP BY task, attempt HAVING count(*) > 1")}
    sound: list[tuple[Wish, str]] = []
    for wish in load.wishes.values():
        row = rows.get(wish.task)
        if row is None or row[0] == "REMOVED":
            if not (wish.removed or wish.maybe_removed):
                books.lost.append(wish.task)
            elif row is not None:
                books.stuck.append(wish.task)
            books.ends["removed"] += 1
            continue
        state, format_, code, result, _tries, _route = row
        if wish.removed:
            books.wrong.append(f"{wish.task} was removed and is there")
        if state not in ("PROCESSED", "FAILED"):
            books.stuck.append(wish.task)
        if counts.get(wish.task, 0) > 1 + wish.changes or wish.task in twice:
            books.doubled.append(wish.task)
        books.ends[state if state != "FAILED" else f"FAILED {code}"] += 1
        if format_ not in wish.formats:
            books.wrong.append(f"{wish.task} is {format_}, not {wish.formats}")
        if state == "FAILED" and wish.hertz is not None and code not in _TRUE_REASONS:
            books.wrong.append(f"{wish.task} is sound, and failed with {code}")
        if state == "PROCESSED" and wish.hertz is None:
            books.wrong.append(f"{wish.task} is a letter, and was converted")
        if state == "PROCESSED" and wish.hertz is not None:
            if result["codec"] != CODECS[format_]:
                books.wrong.append(f"{wish.task} is {result['codec']} in {format_}")
            sound.append((wish, format_))

    def listen(item: tuple[Wish, str]) -> str | None:
        wish, _ = item
        answer = client.call("GET", f"/api/tasks/{wish.task}/converted")
        if answer.status != 200 or wish.hertz is None:
            return f"{wish.task}: download {answer.status}"
        try:
            pitch, seconds = audio.decode(answer.body)
        except CalledProcessError as error:
            return f"{wish.task}: {error.stderr!r}"
        right = abs(pitch - wish.hertz) <= 8 and abs(seconds - SECONDS) < 0.15
        return None if right else f"{wish.task}: {pitch:.0f} Hz for {seconds:.2f} s, not {wish.hertz} Hz"

    with ThreadPoolExecutor(4) as ears:
        books.wrong += [found for found in ears.map(listen, sound) if found]
    orphans, missing = stack.untidy()
    books.orphans, books.missing = sorted(orphans), sorted(missing)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not stack.job_folders(), "scratch is empty", 45, 0.5)
    books.leftovers = [str(path.name) for path in stack.job_folders()]
    books.leftovers += [f"ffmpeg of {worker.name}" for worker in stack.workers if worker.ffmpeg()]
    times = stack.rows("""
        SELECT extract(epoch FROM max(finished_at - coalesce(
            (SELECT max(o.at) FROM outcomes o WHERE o.task = t.id AND o.at < t.finished_at - interval '10 ms'),
            created_at)))::float FROM tasks t""")
    books.longest_task = times[0][0] or 0.0
    marks = [at for (at,) in stack.rows("SELECT extract(epoch FROM at)::float FROM outcomes ORDER BY at")]
    for end in faults.ends:
        if after := [at for at in marks if at >= end]:
            books.longest_recovery = max(books.longest_recovery, after[0] - end)
