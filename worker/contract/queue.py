"""The queue between the tiers: Celery on Redis, and the small facts that workers leave there.

The queue is only a doorbell. The row in the database is the record of what is to be done, so nothing here may be
needed for a task to end: messages may be lost, doubled or late.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from celery import Celery
from kombu import Queue as Route
from kombu.exceptions import OperationalError

from worker.contract.job import Job
from worker.contract.settings import Addresses

CELERY_TASK = "swnube.convert"
QUEUE = "conversions"
_PROGRESS_SECONDS = 120
_FINDINGS = "swnube:sweeper:findings"
_SWEPT = "swnube:sweeper:swept"
_SWEPT_SECONDS = 3600  # how long it is known when a sweeper was here
_CHANGED_SECONDS = 24 * 3600
_FACTS_SECONDS = 90  # a worker repeats its facts three times within that
_VISIBILITY_SECONDS = 6 * 3600  # above any conversion's wall clock: sooner, Celery would deliver a running job again
_AWAY_SECONDS = 5.0  # after a failure, how long this process leaves the broker alone


class QueueUnavailable(Exception):
    """Redis did not answer in time."""


def make_celery(addresses: Addresses) -> Celery:
    """Return the Celery application of both tiers. It connects when it is first used."""
    app = Celery("swnube", broker=addresses.broker_url, set_as_current=False)
    transport = {
        "visibility_timeout": _VISIBILITY_SECONDS,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    if "+socket" in addresses.broker_url:
        del transport["socket_keepalive"], transport["socket_connect_timeout"]  # they are TCP's
    app.conf.update(
        task_queues=[Route(QUEUE)],
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,  # how a job ended is in the row
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the sweeper issues the next attempt, and counts
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # its broadcasts would be the only traffic of an idle worker
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_pool_limit=4,
        broker_pool_acquire_timeout=2,
        broker_transport_options=transport,
        visibility_timeout=_VISIBILITY_SECONDS,
        result_backend_transport_options={"visibility_timeout": _VISIBILITY_SECONDS},
        task_publish_retry=False,  # the sweeper is the retry
    )
    return app


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running attempt is. percent: 0 to 100, or None where the phase cannot tell."""

    attempt: int
    phase: str
    percent: float | None


class Queue:
    """Jobs, progress and the workers' facts, on one Redis. One per process; threads may share it."""

    def __init__(self, celery: Celery, addresses: Addresses) -> None:
        self._celery = celery
        timeouts: dict[str, Any] = {"socket_timeout": 2, "socket_connect_timeout": 2}
        self._redis: redis.Redis = redis.Redis.from_url(
            addresses.redis_url, decode_responses=True, health_check_interval=25, **timeouts
        )
        self._away_until = 0.0

    @property
    def redis(self) -> redis.Redis:
        """The client, for what shares this Redis (rate limits)."""
        return self._redis

    def send(self, job: Job) -> None:
        """Put a job on the queue; raise QueueUnavailable when Redis is away.

        After a failure the next calls of the process fail at once for a few seconds, so that uploads stay as fast as
        with Redis there.
        """
        self._not_away()
        try:
            self._celery.send_task(CELERY_TASK, args=[job.encode()], queue=QUEUE, retry=False)
        except (OperationalError, redis.RedisError, OSError) as error:
            raise self._away(error) from error

    def depth(self) -> int:
        """Return how many jobs wait on the queue; raise QueueUnavailable."""
        try:
            return int(self._redis.llen(QUEUE))
        except redis.RedisError as error:
            raise self._away(error) from error

    def check(self) -> None:
        """Return if Redis answers; raise QueueUnavailable if not."""
        try:
            self._redis.ping()
        except redis.RedisError as error:
            raise QueueUnavailable(type(error).__name__) from error

    def write_progress(self, task: int, progress: Progress) -> None:
        """Leave word of how far a task is; it is worth nothing later, so failures are passed over."""
        try:
            self._not_away()
            value = json.dumps([progress.attempt, progress.phase, progress.percent])
            self._redis.set(_progress_key(task), value, ex=_PROGRESS_SECONDS)
        except QueueUnavailable:
            return
        except redis.RedisError as error:
            self._away(error)

    def read_progress(self, tasks: list[int]) -> dict[int, Progress]:
        """Return how far those tasks are, as far as anybody knows."""
        if not tasks:
            return {}
        try:
            self._not_away()
            values: list[Any] = self._redis.mget([_progress_key(task) for task in tasks])
        except QueueUnavailable:
            return {}
        except redis.RedisError as error:
            self._away(error)
            return {}
        return {task: Progress(*json.loads(value)) for task, value in zip(tasks, values, strict=True) if value}

    def say_changed(self, account: int) -> None:
        """Leave word that something of an account's tasks has changed; pages look again. Failures are passed over."""
        try:
            self._not_away()
            self._redis.set(_changed_key(account), secrets.token_hex(6), ex=_CHANGED_SECONDS)
        except QueueUnavailable:
            return
        except redis.RedisError as error:
            self._away(error)

    def changed(self, account: int) -> str:
        """Return a word that is another one after every change; raises QueueUnavailable."""
        self._not_away()
        try:
            return str(self._redis.get(_changed_key(account)) or "0")
        except redis.RedisError as error:
            raise self._away(error) from error

    def publish_facts(self, worker: str, facts: dict[str, Any]) -> None:
        """Say what a worker is and can do; raises QueueUnavailable."""
        try:
            self._redis.set(f"swnube:worker:{worker}", json.dumps(facts), ex=_FACTS_SECONDS)
        except redis.RedisError as error:
            raise QueueUnavailable(type(error).__name__) from error

    def facts(self) -> list[dict[str, Any]]:
        """Return what the living workers said of themselves; raises QueueUnavailable."""
        self._not_away()
        try:
            keys = list(self._redis.scan_iter("swnube:worker:*", count=1000))
            values: list[Any] = self._redis.mget(keys) if keys else []
        except redis.RedisError as error:
            raise self._away(error) from error
        return [json.loads(value) for value in values if value]

    def note_sweep(self, found: Mapping[str, int]) -> None:
        """Add to what sweepers ever found, by kind, and leave word that one was here; raises QueueUnavailable.

        Kept here because a sweeper serves nobody whom Prometheus could ask, and ends with what it counted.
        """
        self._not_away()
        try:
            with self._redis.pipeline() as pipeline:
                for kind, count in found.items():
                    pipeline.hincrby(_FINDINGS, kind, count)
                pipeline.set(_SWEPT, "", ex=_SWEPT_SECONDS)
                pipeline.execute()
        except redis.RedisError as error:
            raise self._away(error) from error

    def sweeps(self) -> tuple[dict[str, int], float | None]:
        """Return what sweepers ever found, by kind, and how many seconds ago one was here; raises QueueUnavailable.

        The seconds are None when that was more than an hour ago.
        """
        self._not_away()
        try:
            with self._redis.pipeline() as pipeline:
                pipeline.hgetall(_FINDINGS)
                pipeline.pttl(_SWEPT)
                found, left = pipeline.execute()
        except redis.RedisError as error:
            raise self._away(error) from error
        silent = _SWEPT_SECONDS - left / 1000 if left >= 0 else None
        return {kind: int(count) for kind, count in found.items()}, silent

    def _not_away(self) -> None:
        if time.monotonic() < self._away_until:
            raise QueueUnavailable("Redis failed a moment ago.")

    def _away(self, error: Exception) -> QueueUnavailable:
        self._away_until = time.monotonic() + _AWAY_SECONDS
        return QueueUnavailable(type(error).__name__)


def _changed_key(account: int) -> str:
    return f"swnube:changed:{account}"


def _progress_key(task: int) -> str:
    return f"swnube:progress:{task}"
