"""The one Celery task: decode the message, run the pipeline."""

from typing import Any

import structlog
from celery import Celery

from worker.contract.job import Job, JobError
from worker.contract.queue import CELERY_TASK
from worker.contract.traces import span
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
        facts = {
            "swnube.task": job.task,
            "swnube.attempt": job.attempt,
            "swnube.request": job.request,
            "swnube.format": job.format,
        }
        with span("conversions process", "consumer", job.trace, facts) as under_way:
            if under_way.trace:
                structlog.contextvars.bind_contextvars(trace=under_way.trace)
            pipeline[0].run(job)
