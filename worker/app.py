"""Celery's entry point: ``celery -A worker.app worker``. The only wiring of this tier."""

import os
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import structlog
from celery.signals import setup_logging, worker_init, worker_process_init
from environs import Env
from kombu import Connection
from kombu.transport import redis as kombu_redis

from worker import tasks
from worker.contract.logs import set_up_logs
from worker.contract.queue import Queue, QueueUnavailable, make_celery
from worker.contract.settings import SettingsError, read_addresses, read_api_url, text, whole
from worker.contract.store import open_store
from worker.pipeline import Pipeline, clear_scratch
from worker.report import Api
from worker.transcode import Limits, Transcoder

log = structlog.get_logger()
_FACTS_SECONDS = 30

try:
    _env = Env()
    _addresses = read_addresses(_env)
    _api_url = read_api_url(_env)
    _scratch = Path(text(_env, "SCRATCH_DIR", None) or Path(tempfile.gettempdir()) / "swnube-scratch")
    _limits = Limits(output_bytes=whole(_env, "MAX_RESULT_BYTES", Limits().output_bytes, 1024, 1 << 40))
except SettingsError as error:
    sys.stderr.write(f"SWNube's worker cannot start: {error}\n")
    sys.exit(2)


class _Acknowledgements(kombu_redis.QoS):
    """Celery's own forgets to let go of a message that it could not acknowledge: Redis away as a job ends.

    It only logs the failure, counts the message as in hand, and with one message at a time never asks for another, so
    never finds out that its connection is gone: a worker that looks alive and does nothing. Let go of here, the worker
    asks for the next one and connects anew. The copy that Redis keeps is refused when it is delivered again.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except BaseException:
            super(kombu_redis.QoS, self).ack(delivery_tag)
            raise


class _Connection(Connection):
    """Celery's own waits two seconds longer after each failure, up to half a minute: so long nobody should wait."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Connection:  # type: ignore[override]
        return super().ensure_connection(*args, **{"interval_start": 1, "interval_max": 3, **kwargs})


kombu_redis.Channel.QoS = _Acknowledgements
app = make_celery(_addresses)
app.amqp.Connection = _Connection
_pipeline: list[Pipeline] = []
_transcoder: list[Transcoder] = []
tasks.register(app, _pipeline)


@setup_logging.connect
def _logs(**_: Any) -> None:
    set_up_logs("worker")


@worker_init.connect
def _worker_begins(**_: Any) -> None:
    """Before the processes are made: find out what ffmpeg can do, and clear up after workers that died."""
    set_up_logs("worker")  # Celery sets them up only later
    cleared = clear_scratch(_scratch)
    transcoder = Transcoder(_limits)
    _transcoder.append(transcoder)
    log.info("worker.ready", ffmpeg=transcoder.version, protections=transcoder.protections, cleared=cleared)
    facts = {
        "encoders": sorted(transcoder.encoders),
        "ffmpeg": transcoder.version,
        "protections": transcoder.protections,
    }
    name = f"{socket.gethostname()}-{os.getpid()}"

    def repeat() -> None:
        queue = Queue(app, _addresses)
        while True:
            try:
                queue.publish_facts(name, facts)
            except QueueUnavailable as trouble:
                log.warning("worker.facts_unsaid", reason=str(trouble))
            clear_scratch(_scratch)
            threading.Event().wait(_FACTS_SECONDS)

    threading.Thread(target=repeat, name="facts", daemon=True).start()


@worker_process_init.connect
def _process_begins(**_: Any) -> None:
    """In each process: connections of its own."""
    set_up_logs("worker")
    store = open_store(_addresses.storage_url)
    _pipeline[:] = [Pipeline(Api(_api_url), store, Queue(app, _addresses), _transcoder[0], _scratch)]
