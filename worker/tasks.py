"""The one Celery task: decode the message, run the pipeline."""

import os
import signal
from typing import Any

import structlog
from billiard.common import TERM_SIGNAL
from celery import Celery

from worker.contract.job import Job, JobError
from worker.contract.queue import CELERY_TASK
from worker.pipeline import Pipeline

log = structlog.get_logger()


def register(app: Celery, pipeline: "list[Pipeline]") -> None:
    """Add the task to the application. `pipeline` holds this process's own once it has been made."""

    @app.task(name=CELERY_TASK, acks_late=True, ignore_result=True)
    def convert(message: Any) -> None:
        """Do one attempt. It never retries by itself: the row's lease and the sweeper do, and count."""
        try:
            job = Job.decode(message)
        except JobError as error:
            log.error("message.refused", reason=str(error))
            return
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=job.request or None, task=job.task, attempt=job.attempt)
        # Celery ends its processes by this signal when it is not to wait for what they do, and handles it by itself as
        # long as they are idle.
        usual = signal.signal(TERM_SIGNAL, lambda *_: pipeline[0].stop())
        try:
            pipeline[0].run(job)
        finally:
            signal.signal(TERM_SIGNAL, usual)
        if pipeline[0].stopped:
            os.kill(os.getpid(), TERM_SIGNAL)
