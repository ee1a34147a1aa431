"""The life of a task: submit, fetch, change, remove, claim, settle, sweep.

The only code that changes a task's state. Every change is one conditional UPDATE that names the state and the attempt
it starts from, so late, doubled and concurrent calls change nothing. A row is written before its object and its
message, so both can always be found from a row; the sweeper puts right what a crash left in between.
"""

import contextlib
import hashlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO, Any

import structlog
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import BigInteger, ColumnElement, and_, cast, delete, exists, func, or_, select, update

from flaskr import metrics
from flaskr.accounts import Caller
from flaskr.config import Config
from flaskr.db import db, from_now
from flaskr.limits import Limit, Limits, QuotaExceeded
from flaskr.models import SHOWN, WAITING, State, Task
from flaskr.names import extension_of, result_name, result_route, safe_name
from worker.contract.formats import FAILURES, INPUTS, OUTPUTS, Options
from worker.contract.job import Job, waveform_route
from worker.contract.queue import Queue, QueueUnavailable
from worker.contract.store import ObjectMissing, Store, StoreError, StoreUnavailable, stat_of
from worker.contract.traces import span, traceparent

log = structlog.get_logger()

FINDINGS = ("upload_given_up", "lease_expired", "message_unsent", "message_lost", "tidied", "expired")
PHASES = ("downloading", "converting", "uploading")
PAGE = 1000  # tasks in one answer at most
_BATCH = 200  # rows a sweeper takes at a time
_UNSEEN = {"lease_until", "tidy_at", "sent_at", "sends"}  # what no client is shown
_USAGE_SECONDS = 10.0  # how long what an account uses may be known from before
_USAGES = 10_000  # accounts of which that is kept


class TaskMissing(Exception):
    """There is no such task, or it is somebody else's."""


class NotConverted(Exception):
    """The task has no converted file now; `state` says why."""

    def __init__(self, state: State) -> None:
        super().__init__(state.value)
        self.state = state


class WaveformMissing(Exception):
    """The task is converted, and has no waveform: none could be drawn or stored, or its worker drew none yet."""


class UploadRefused(ValueError):
    """The upload cannot be taken; `errors` maps each field to its sentences."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__("; ".join(sentence for sentences in errors.values() for sentence in sentences))
        self.errors = errors


class Busy(Exception):
    """There are as many of such requests under way as there may be."""


class StaleAttempt(Exception):
    """The attempt is superseded or settled, or another worker is at it."""


class BadJobToken(Exception):
    """The token is not one for this task."""


@dataclass(frozen=True, slots=True)
class Download:
    """A stored object as a client gets it. etag: without quotes; changes with the content."""

    route: str
    name: str
    mime: str
    etag: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a caller's tasks to list. most: how many; after: the id after which the page begins."""

    newest_first: bool = False
    most: int | None = None
    states: tuple[State, ...] = SHOWN
    after: int | None = None
    name: str = ""
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: `result` when it is done, else `code` and `message`."""

    attempt: int
    result: dict[str, Any] | None
    code: str = ""
    message: str = ""
    source: dict[str, Any] | None = None
    phases: dict[str, float] | None = None
    waveform: dict[str, Any] | None = None


class _Usages:
    """What accounts use, from the rows; read anew after some seconds, so that an upload need not add up thousands."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, int, int]] = {}
        self._lock = threading.Lock()

    def get(self, user_id: int, *, fresh: bool = False) -> tuple[int, int]:
        """Return how many tasks of an account wait, and how many bytes all its files take."""
        with self._lock:
            known = self._known.get(user_id)
        if known and not fresh and time.monotonic() - known[0] < _USAGE_SECONDS:
            return known[1], known[2]
        began = time.monotonic()
        results = cast(Task.result["bytes"].as_string(), BigInteger)
        waiting, stored = db.session.execute(
            select(
                func.count().filter(Task.state.in_(WAITING)),
                func.coalesce(func.sum(Task.original_bytes + func.coalesce(results, 0)), 0),
            ).where(Task.user_id == user_id, Task.state.in_(SHOWN))
        ).one()
        db.session.rollback()
        with self._lock:
            if len(self._known) >= _USAGES:
                self._known.clear()
            self._known[user_id] = (began, waiting, int(stored))
        return waiting, int(stored)

    def add(self, user_id: int, size: int) -> None:
        """Count an upload that was taken meanwhile."""
        with self._lock:
            if known := self._known.get(user_id):
                self._known[user_id] = (known[0], known[1] + 1, known[2] + size)


class Conversions:
    """One per process; threads share it. Every method ends its transaction before it returns."""

    def __init__(self, config: Config, store: Store, queue: Queue, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._asked = Limit(
            "conversions", config.conversions_per_account,
            "You ask for more conversions at a time than an account may. Try again when Retry-After says.",
        )  # fmt: skip
        self._usage = _Usages()
        self._store = store
        self._queue = queue
        self._untold: Counter[str] = Counter()  # what the sweeper found and could not yet tell
        # Another kind of token than the users': neither can ever pass for the other.
        self._tokens = URLSafeSerializer(
            config.keys.oldest_first, salt="job", signer_kwargs={"digest_method": hashlib.sha256}
        )

    # -- the owner's side ---------------------------------------------------------------------------------------------

    def spool(self) -> IO[bytes]:
        """Return the temporary file that an upload is best received into."""
        return self._store.spool()

    def admit(self, caller: Caller) -> None:
        """Let an upload begin, before any of its bytes is taken; raises QuotaExceeded."""
        self._limits.count(self._asked, str(caller.id))
        self._check_quotas(caller, 1)

    def _check_quotas(self, caller: Caller, more_bytes: int) -> None:
        waiting, stored = self._usage.get(caller.id)
        full = waiting >= self._config.max_waiting_tasks
        most = self._config.max_stored_bytes or math.inf
        if full or stored + more_bytes > most:  # by what was true a moment ago: look again before refusing
            waiting, stored = self._usage.get(caller.id, fresh=True)
        if waiting >= self._config.max_waiting_tasks:
            raise QuotaExceeded(
                "waiting",
                f"You have {waiting} tasks waiting, as many as an account may. Try again when some are done.", 30,
            )  # fmt: skip
        if stored + more_bytes > most:
            raise QuotaExceeded(
                "bytes",
                f"Your files take {stored} bytes of the {most} that an account may have. Remove some tasks first.", 60,
            )  # fmt: skip

    def check_name(self, filename: str) -> str:
        """Return the safe name of an upload; raises UploadRefused."""
        extension = extension_of(filename)
        if not extension:
            raise UploadRefused({"filename": ["The file name needs an extension that says what the file is."]})
        if extension not in INPUTS:
            known = ", ".join(sorted(INPUTS))
            raise UploadRefused({"filename": [f"Files of type {extension[:16]} cannot be read; these can: {known}."]})
        return safe_name(filename)

    def submit(
        self, caller: Caller, filename: str, stream: IO[bytes], target: str, options: Options, request: str
    ) -> Task:
        """Store an upload and ask for its conversion. Once it returns, the task will end PROCESSED or FAILED.

        stream: a named file. Raises UploadRefused, QuotaExceeded, StoreUnavailable; then nothing is left behind.
        """
        name = self.check_name(filename)
        stat = stat_of(stream)
        if stat.bytes == 0:
            raise UploadRefused({"audio": ["The file is empty."]})
        self._check_quotas(caller, stat.bytes)
        task = Task(
            user_id=caller.id, name=name, original_ext=extension_of(filename), format=target,
            options=options.to_json(), state=State.RECEIVING, original_route="", converted_route="", attempt=1, tries=1,
            original_bytes=stat.bytes, original_crc32c=stat.crc32c,
        )  # fmt: skip
        db.session.add(task)
        db.session.flush()
        task.original_route = f"{task.id}/{name}"
        task.converted_route = self._result_route(task)
        db.session.commit()  # and the connection goes back: none is held while bytes move
        try:
            self._store.put(task.original_route, stream, stat)
        except StoreError:
            self._forget(task.id)
            raise
        accepted = self._changed(
            task.id, Task.state == State.RECEIVING, state=State.UPLOADED, sent_at=from_now(), sends=1
        )
        if accepted is None:  # it took so long that a sweeper gave it up
            self._remove_objects(task.id)
            raise StoreUnavailable("The upload took longer than it may.")
        self._usage.add(caller.id, stat.bytes)
        self._send(accepted, request)
        log.info("task.submitted", task=accepted.id, format=target, bytes=stat.bytes)
        return accepted

    def browse(self, caller: Caller, selection: Selection) -> tuple[list[Task], bool]:
        """Return a page of the caller's tasks, and whether there are more."""
        most = PAGE if selection.most is None else min(selection.most, PAGE)
        query = select(Task).where(Task.user_id == caller.id, Task.state.in_(selection.states))
        if selection.after is not None:
            query = query.where(Task.id < selection.after if selection.newest_first else Task.id > selection.after)
        if selection.ids is not None:
            query = query.where(Task.id.in_(selection.ids))
        if selection.name:
            query = query.where(func.lower(Task.name).contains(selection.name.lower(), autoescape=True))
        query = query.order_by(Task.id.desc() if selection.newest_first else Task.id).limit(most + 1)
        rows = list(db.session.scalars(query)) if most else []
        db.session.commit()
        return rows[:most], len(rows) > most

    def get(self, caller: Caller, task_id: int) -> Task:
        """Return one task; raises TaskMissing."""
        task = self._row(Task.id == task_id, Task.user_id == caller.id, Task.state.in_(SHOWN))
        if task is None:
            raise TaskMissing
        return task

    def reconvert(self, caller: Caller, task_id: int, target: str, options: Options, request: str) -> Task:
        """Convert the original again, whatever the task's state: the newest wish wins.

        Raises TaskMissing, QuotaExceeded.
        """
        self.get(caller, task_id)
        self._limits.count(self._asked, str(caller.id))
        while True:
            task = self.get(caller, task_id)
            superseded = [task.converted_route, waveform_route(task.id, task.attempt)]
            done = task.state is State.PROCESSED
            if self._issue(
                task, request, Task.state.in_(SHOWN), tries=1, format=target, options=options.to_json(), result=None,
                waveform_crc32c=None, error_code=None, error_message=None,
            ):  # fmt: skip
                break
        for route in superseded if done else ():
            self._remove_object(route)
        task = self.get(caller, task_id)
        log.info("task.changed", task=task.id, attempt=task.attempt, format=target)
        return task

    def remove(self, caller: Caller, task_id: int) -> None:
        """Remove a task and its objects, whatever its state. Raises TaskMissing."""
        while True:
            task = self.get(caller, task_id)
            # From the state that was read: what follows depends on whether a worker was at it.
            if self._change(
                task.id, Task.state == task.state, Task.attempt == task.attempt,
                state=State.REMOVED, tidy_at=from_now(self._config.tidy_seconds), claimed_by=None, lease_until=None,
            ):  # fmt: skip
                break
        # A worker may still be at it and upload: then the row stays a while, as the reason to look again.
        settled = task.state is not State.PROCESSING and task.tidy_at is None
        if self._remove_objects(task.id) and settled:
            self._forget(task.id, State.REMOVED)
        log.info("task.removed", audit=True, user=caller.id, task=task.id, bytes=task.original_bytes)

    def original(self, caller: Caller, task_id: int) -> Download:
        """Return what to hand out as the original; raises TaskMissing."""
        task = self.get(caller, task_id)
        return Download(task.original_route, task.name, "application/octet-stream", f"{task.original_crc32c}")

    def converted(self, caller: Caller, task_id: int) -> Download:
        """Return what to hand out as the conversion; raises TaskMissing, NotConverted."""
        task = self.get(caller, task_id)
        if task.state is not State.PROCESSED or not task.result:
            raise NotConverted(task.state)
        return self._conversion_of(task)

    def waveform(self, caller: Caller, task_id: int) -> Download:
        """Return the picture of the conversion; raises TaskMissing, NotConverted, WaveformMissing."""
        task = self.get(caller, task_id)
        if task.state is not State.PROCESSED:
            raise NotConverted(task.state)
        if task.waveform_crc32c is None:
            raise WaveformMissing
        route = waveform_route(task.id, task.attempt)
        return Download(route, "waveform.json", "application/json", f"{task.attempt}-{task.waveform_crc32c}")

    def converted_files(self, caller: Caller, selection: Selection) -> Iterator[Download]:
        """Yield the selected conversions, oldest first, reading few rows at a time and holding no connection between."""
        after, more = selection.after, True
        while more:
            rows, more = self.browse(caller, replace(selection, after=after, most=_BATCH))
            for task in rows:
                after = task.id
                if task.state is State.PROCESSED:
                    yield self._conversion_of(task)

    def open(self, download: Download) -> Any:
        """Return the object for reading; raises TaskMissing when it was removed in between, StoreUnavailable."""
        try:
            return self._store.open(download.route)
        except ObjectMissing as error:
            raise TaskMissing from error

    def signed_url(self, download: Download) -> str | None:
        """Return a short-lived address of the object, where the store can sign one."""
        return self._store.signed_url(download.route, download.name, download.mime, self._config.download_url_seconds)

    # -- the worker's side --------------------------------------------------------------------------------------------

    def attempt_of(self, task_id: int, token: str) -> int:
        """Return the attempt that a job token is for; raises BadJobToken unless it is for this task."""
        try:
            claims = self._tokens.loads(token)
        except BadSignature as error:
            raise BadJobToken from error
        if not isinstance(claims, list) or len(claims) != 2 or claims[0] != task_id:
            raise BadJobToken
        return int(claims[1])

    def claim(self, task_id: int, attempt: int, worker: str) -> float:
        """Take an attempt, or renew the lease on it; return the lease's length in seconds.

        worker: names the claimant, so that a second delivery of the same message is told from a renewal.
        Raises StaleAttempt, TaskMissing.
        """
        lease = from_now(self._config.lease_seconds)
        if self._change(
            task_id, Task.attempt == attempt, Task.state == State.UPLOADED,
            state=State.PROCESSING, claimed_by=worker, lease_until=lease, started_at=from_now(),
        ) or self._change(
            task_id, Task.attempt == attempt, Task.state == State.PROCESSING, Task.claimed_by == worker,
            lease_until=lease,
        ):  # fmt: skip
            return self._config.lease_seconds
        raise self._refusal(task_id)

    def release(self, task_id: int, attempt: int, worker: str, request: str) -> None:
        """Take an attempt back from a worker that is told to end: the next one is issued at once, and not counted as a try.

        Raises StaleAttempt, TaskMissing.
        """
        task = self._row(Task.id == task_id, Task.attempt == attempt)
        held = and_(Task.state == State.PROCESSING, Task.claimed_by == worker)
        if task is None or not self._issue(task, request, held):
            raise self._refusal(task_id)
        log.info("task.released", task=task_id, attempt=attempt)

    def settle(self, task_id: int, ended: Ended) -> None:
        """Record how an attempt ended, once. The same report again changes nothing and is as welcome.

        Raises StaleAttempt (superseded, or settled otherwise), TaskMissing.
        """
        done = ended.result is not None
        outcome: dict[str, Any] = {
            "state": State.PROCESSED if done else State.FAILED,
            "result": ended.result,
            "error_code": None if done else ended.code[:40],
            "error_message": None if done else ended.message[:500],
        }
        task = self._changed(
            task_id, Task.attempt == ended.attempt, Task.state.in_(WAITING),
            finished_at=from_now(), started_at=func.coalesce(Task.started_at, from_now()), claimed_by=None,
            lease_until=None, source=ended.source if ended.source else Task.source,
            waveform_crc32c=(ended.waveform or {}).get("crc32c") if done else None,
            # An upload that failed for the worker may have reached the store all the same.
            tidy_at=Task.tidy_at if done else from_now(self._config.tidy_seconds), **outcome,
        )  # fmt: skip
        if task is None:
            there = self._row(Task.id == task_id, Task.state.in_(SHOWN))
            if there and there.attempt == ended.attempt and all(
                getattr(there, name) == value for name, value in outcome.items()
            ):  # fmt: skip
                return
            self._look_again(task_id)
            raise StaleAttempt if there else TaskMissing
        phases = ended.phases or {}
        metrics.CONVERSIONS.labels("done" if done else "failed", task.format, _last_phase(phases)).inc()
        for phase in PHASES:
            if phase in phases:
                metrics.PHASE_SECONDS.labels(phase).observe(phases[phase])
        log.info("task.settled", task=task_id, attempt=ended.attempt, state=task.state.value, code=ended.code or None)

    def _refusal(self, task_id: int) -> Exception:
        return StaleAttempt() if self._row(Task.id == task_id, Task.state.in_(SHOWN)) else TaskMissing()

    def _look_again(self, task_id: int) -> None:
        """A worker that came too late removes what it uploaded; if it dies before that, the sweeper does."""
        self._change(task_id, tidy_at=from_now(self._config.tidy_seconds))

    # -- the sweeper --------------------------------------------------------------------------------------------------

    def sweep(self) -> dict[str, int]:
        """Find what was lost, by evidence, and put it right; return how many of each kind.

        Any number of sweepers may run at once: each row is taken by one conditional UPDATE.
        """
        steps = (
            self._sweep_receiving, self._sweep_leases, self._sweep_unsent, self._sweep_lost, self._sweep_untidy,
            self._sweep_expired,
        )  # fmt: skip
        found = {kind: step() for kind, step in zip(FINDINGS, steps, strict=True)}
        for kind, count in found.items():
            if count:
                log.info("sweep.found", kind=kind, count=count)
        self._untold.update(found)
        with contextlib.suppress(QueueUnavailable):  # then it is told after a later sweep
            self._queue.note_sweep(self._untold)
            self._untold.clear()
        return found

    def prolong_leases(self) -> None:
        """Give every running attempt a whole lease from now; after an outage in which nobody could renew."""
        lease = from_now(self._config.lease_seconds)
        db.session.execute(
            update(Task).where(Task.state == State.PROCESSING, Task.lease_until < lease).values(lease_until=lease)
        )
        db.session.commit()

    def _sweep_receiving(self) -> int:
        """Give up uploads whose API process died: their clients never got an answer of success."""
        stuck = and_(Task.state == State.RECEIVING, Task.created_at < from_now(-self._config.receiving_seconds))
        count = 0
        for task in self._batch(stuck):
            # First out of RECEIVING: an upload that ends after all must not find its row and answer 200.
            if self._change(task.id, stuck, state=State.REMOVED, tidy_at=from_now(self._config.tidy_seconds)):
                self._remove_objects(task.id)
                count += 1
        return count

    def _sweep_leases(self) -> int:
        """Issue the next attempt of every task whose worker fell silent, or fail it after a few."""
        silent = and_(Task.state == State.PROCESSING, Task.lease_until < from_now())
        count = 0
        for task in self._batch(silent):
            mine = and_(silent, Task.attempt == task.attempt)
            if task.tries >= self._config.max_tries:
                count += self._change(
                    task.id, mine, state=State.FAILED, error_code="worker_lost", result=None, finished_at=from_now(),
                    error_message=FAILURES["worker_lost"],
                    claimed_by=None, lease_until=None, tidy_at=from_now(self._config.tidy_seconds),
                )  # fmt: skip
                continue
            count += self._issue(task, "", silent, tries=task.tries + 1)
        return count

    def _sweep_unsent(self) -> int:
        """Send what could not be sent when it was uploaded, oldest first, until the broker fails."""
        count = 0
        unsent = and_(Task.state == State.UPLOADED, Task.sent_at.is_(None))
        while batch := self._batch(unsent, Task.id):
            for task in batch:
                if self._change(task.id, unsent, Task.attempt == task.attempt,
                                sent_at=from_now(), sends=Task.sends + 1):  # fmt: skip
                    if not self._send(task, ""):
                        return count
                    count += 1
        return count

    def _sweep_lost(self) -> int:
        """Send again what the broker lost: its queue is empty, or a message sent later was taken up long ago.

        A queue hands out in order, so a message that waits behind others is not lost, however long it waits.
        """
        quiet = self._config.resend_seconds
        waiting = and_(Task.state == State.UPLOADED, Task.sent_at < from_now(-quiet))
        if not db.session.scalar(select(exists().where(waiting))):
            db.session.rollback()
            return 0
        db.session.rollback()
        try:
            empty = self._queue.depth() == 0
        except QueueUnavailable:
            return 0
        now = select(from_now(-quiet if empty else 0))
        overtaken = select(func.max(Task.sent_at)).where(
            Task.started_at.between(from_now(-3600), from_now(-quiet)), Task.started_at >= Task.sent_at, Task.sends == 1
        )
        horizon: datetime | None = db.session.scalar(now if empty else overtaken)
        db.session.rollback()
        if horizon is None:
            return 0
        # Each time it waits twice as long: should the evidence ever deceive, it does not become a flood.
        patient = or_(*(
            and_(Task.sends == sends, Task.sent_at < from_now(-quiet * 2 ** min(sends - 1, 5)))
            for sends in range(1, self._config.max_sends)
        ))  # fmt: skip
        lost = and_(Task.state == State.UPLOADED, Task.sent_at < horizon)
        count = 0
        for task in self._batch(and_(lost, Task.sends >= self._config.max_sends)):
            count += self._change(
                task.id, lost, Task.attempt == task.attempt, state=State.FAILED, error_code="message_lost",
                error_message=FAILURES["message_lost"],
                finished_at=from_now(),
            )  # fmt: skip
        while batch := self._batch(and_(lost, patient), Task.sent_at):
            for task in batch:
                if self._change(task.id, lost, patient, Task.attempt == task.attempt,
                                sent_at=from_now(), sends=Task.sends + 1):  # fmt: skip
                    if not self._send(task, ""):
                        return count
                    count += 1
        return count

    def _sweep_untidy(self) -> int:
        """Remove objects that no row names: left by workers that died or came too late."""
        due = Task.tidy_at < from_now()
        count = 0
        for task in self._batch(and_(due, Task.state != State.RECEIVING)):
            if task.state is State.REMOVED:
                if self._remove_objects(task.id):
                    self._forget(task.id, State.REMOVED)
                    count += 1
                continue
            try:
                # Listed first and the row read after: what is in the list and not in the row is superseded for good.
                # A row read before would not name the result of an attempt issued and finished in between.
                there = list(self._store.list(f"{task.id}/"))
                current = self._row(Task.id == task.id, Task.state.in_(SHOWN))
                if current is None:
                    continue  # removed in between, and due again
                for route in set(there) - current.objects():
                    self._store.remove(route)
            except StoreError:
                return count  # later
            count += self._change(task.id, due, Task.attempt == current.attempt, tidy_at=None)
        return count

    def _sweep_expired(self) -> int:
        """Remove what ended longer ago than tasks are kept, with its objects."""
        if not self._config.keep_task_seconds:
            return 0
        old = and_(
            Task.state.in_((State.PROCESSED, State.FAILED)),
            Task.finished_at < from_now(-self._config.keep_task_seconds),
        )
        count = 0
        for task in self._batch(old, Task.finished_at):
            if not self._change(
                task.id,
                old,
                Task.attempt == task.attempt,
                state=State.REMOVED,
                tidy_at=from_now(self._config.tidy_seconds),
            ):
                continue
            if self._remove_objects(task.id) and task.tidy_at is None:
                self._forget(task.id, State.REMOVED)
            log.info("task.expired", audit=True, user=task.user_id, task=task.id, bytes=task.original_bytes)
            count += 1
        return count

    def expires_at(self, task: Task) -> datetime | None:
        """Return when a task that has ended will be removed, or None when it stays."""
        if not self._config.keep_task_seconds or not task.finished_at:
            return None
        return task.finished_at + timedelta(seconds=self._config.keep_task_seconds)

    # -- seen from outside --------------------------------------------------------------------------------------------

    def gauges(self) -> list[tuple[str, str, dict[str, str], float]]:
        """Return what is true of the whole system now: name, help, labels, value."""
        counts = dict(
            db.session.execute(
                select(Task.state, func.count())
                .where(Task.state.in_((State.RECEIVING, State.UPLOADED, State.PROCESSING)))
                .group_by(Task.state)
            ).all()
        )
        oldest = db.session.execute(
            select(func.min(func.coalesce(Task.sent_at, Task.created_at)), from_now()).where(
                Task.state == State.UPLOADED
            )
        ).one()
        db.session.rollback()
        age = max(0.0, (oldest[1] - oldest[0]).total_seconds()) if oldest[0] else 0.0
        text = "Tasks that are not at their end."
        gauges = [("swnube_tasks", text, {"state": str(state)}, float(counts.get(state, 0)))
                  for state in (State.RECEIVING, State.UPLOADED, State.PROCESSING)]  # fmt: skip
        gauges.append(("swnube_oldest_waiting_seconds", "Age of the longest waiting task.", {}, age))
        gauges.append(("swnube_workers_busy", "Attempts under way.", {}, float(counts.get(State.PROCESSING, 0))))
        with contextlib.suppress(QueueUnavailable):
            gauges.append(("swnube_queue_depth", "Messages on the queue.", {}, float(self._queue.depth())))
            found, silent = self._queue.sweeps()
            text = "What sweepers found and put right."
            gauges += [("swnube_sweeper_findings_total", text, {"kind": kind}, float(found.get(kind, 0)))
                       for kind in FINDINGS]  # fmt: skip
            if silent is not None:
                gauges.append(("swnube_sweeper_silent_seconds", "Since a sweeper was last at work.", {}, silent))
        return gauges

    # -- inside -------------------------------------------------------------------------------------------------------

    def _row(self, *where: ColumnElement[bool]) -> Task | None:
        task = db.session.scalar(select(Task).where(*where).execution_options(populate_existing=True))
        # Not rollback: that would expire the row, and each use of it would read it anew, one by one, in a transaction
        # that nobody ends; a row removed meanwhile would be an error.
        db.session.commit()
        return task

    def _batch(self, where: ColumnElement[bool], order: Any = None) -> list[Task]:
        """Return some rows to look at. They are not locked: each is taken by the conditional UPDATE that follows."""
        query = select(Task).where(where).order_by(Task.id if order is None else order).limit(_BATCH)
        rows = list(db.session.scalars(query.execution_options(populate_existing=True)))
        db.session.commit()
        return rows

    def _change(self, task_id: int, *where: ColumnElement[bool], **values: Any) -> bool:
        """Change a row if it still is as `where` says; return whether it was. Pages that watch hear of it."""
        query = update(Task).where(Task.id == task_id, *where).values(**values).returning(Task.user_id)
        owner = db.session.scalar(query.execution_options(synchronize_session=False))
        db.session.commit()
        if owner is None:
            return False
        if values.keys() - _UNSEEN:
            self._queue.say_changed(owner)
        return True

    def _changed(self, task_id: int, *where: ColumnElement[bool], **values: Any) -> Task | None:
        """As `_change`; return the row as it became, or None if it was otherwise."""
        task: Task | None = db.session.scalar(
            update(Task).where(Task.id == task_id, *where).values(**values).returning(Task),
            execution_options={"synchronize_session": False, "populate_existing": True},
        )
        db.session.commit()
        if task is not None:
            self._queue.say_changed(task.user_id)
        return task

    def _issue(self, task: Task, request: str, *where: ColumnElement[bool], **values: Any) -> bool:
        """Issue a task's next attempt and announce it, if the row is as it was read and as `where` says.

        `task` is then what the row has become. Whatever an earlier attempt still uploads is searched for later.
        """
        attempt = task.attempt + 1
        extension = OUTPUTS[values.get("format", task.format)].extension
        issued = self._changed(
            task.id, Task.attempt == task.attempt, *where, state=State.UPLOADED, attempt=attempt, started_at=None,
            finished_at=None, claimed_by=None, lease_until=None, sent_at=from_now(), sends=1,
            converted_route=result_route(task.id, task.name, extension, attempt),
            tidy_at=from_now(self._config.tidy_seconds), **values,
        )  # fmt: skip
        if issued is not None:
            self._send(issued, request)
        return issued is not None

    def _send(self, task: Task, request: str) -> bool:
        """Announce the current attempt. Without a broker the row waits, and the sweeper sends it."""
        facts = {"swnube.task": task.id, "swnube.attempt": task.attempt}
        with span("conversions send", "producer", attributes=facts) as sending:
            job = self._job(task, request)
            try:
                self._queue.send(job)
            except QueueUnavailable as error:
                sending.fail("unavailable")
                log.warning("task.unsent", task=task.id, attempt=task.attempt, reason=str(error))
                # It was counted before it was sent; a message that never went out is no announcement in vain.
                self._change(
                    task.id, Task.attempt == task.attempt, Task.state == State.UPLOADED,
                    sent_at=None, sends=Task.sends - 1,
                )  # fmt: skip
                return False
        return True

    def _job(self, task: Task, request: str) -> Job:
        return Job(
            task=task.id, attempt=task.attempt, source=task.original_route, source_bytes=task.original_bytes,
            source_crc32c=task.original_crc32c, target=task.converted_route, format=task.format, options=task.options,
            token=str(self._tokens.dumps([task.id, task.attempt])), request=request,
            trace=traceparent(),
        )  # fmt: skip

    def _conversion_of(self, task: Task) -> Download:
        target = OUTPUTS[task.format]
        name = result_name(task.name, target.extension)
        etag = f"{task.attempt}-{(task.result or {}).get('crc32c')}"
        return Download(task.converted_route, name, target.mime, etag)

    def _result_route(self, task: Task) -> str:
        return result_route(task.id, task.name, OUTPUTS[task.format].extension, task.attempt)

    def _remove_object(self, route: str) -> None:
        try:
            self._store.remove(route)
        except StoreError as error:
            log.warning("object.kept", route=route, reason=str(error))  # tidy_at is set: the sweeper comes back to it

    def _remove_objects(self, task_id: int) -> bool:
        try:
            self._store.remove_all(f"{task_id}/")
        except StoreError as error:
            log.warning("objects.kept", task=task_id, reason=str(error))
            return False
        return True

    def _forget(self, task_id: int, state: State = State.RECEIVING) -> None:
        """Remove a row that nothing in the store needs any more; an upload that failed may have left a part."""
        if state is State.RECEIVING and not self._remove_objects(task_id):
            return
        db.session.execute(delete(Task).where(Task.id == task_id, Task.state == state))
        db.session.commit()


def _last_phase(phases: dict[str, float]) -> str:
    """Return the last phase that was begun, from the times of those that were finished."""
    return next((phase for phase in PHASES if phase not in phases), PHASES[-1])
