"""How conversions are usually written: pydub's load and export in a Celery task. `celery -A tests.bench.usual worker`."""

import os

from celery import Celery
from pydub import AudioSegment

app = Celery("usual", broker=os.environ["REDIS_URL"].replace("unix://", "redis+socket://"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)


@app.task(name="usual.convert")
def convert(source: str, target: str, kind: str) -> None:
    """Convert one file."""
    AudioSegment.from_file(source).export(target, format=kind)
