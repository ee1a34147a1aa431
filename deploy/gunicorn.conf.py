"""How gunicorn serves the web tier: `gunicorn -c deploy/gunicorn.conf.py 'flaskr:create_app()'`.

PORT (5000), WEB_WORKERS (one per core, at least 2), WEB_THREADS per worker (16), WEB_GRACEFUL_SECONDS (30) for
requests in flight at a stop, WEB_KEEPALIVE_SECONDS (75: longer than the balancer keeps an idle connection, or it
would send requests into connections that are being closed). PROMETHEUS_MULTIPROC_DIR holds the workers' metrics.
"""

import os
import re
import select
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.workers.gthread import ThreadWorker

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


class DrainingWorker(ThreadWorker):
    """A worker that closes its listening socket as soon as it is told to stop.

    gunicorn's own keeps it open, accepting nothing, until its last request in flight has ended: whoever connects
    meanwhile waits in the backlog, and is reset in the end. Refused at once, a balancer asks another instance.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:  # those who came before are still served
                self.accept(listener)
            listener.close()


# The application is loaded before the port is opened: else connections would wait at a door that nobody answers yet, and
# a balancer that finds the door open would send an upload there. The workers, forked from it, start at once.
preload_app = True
bind = f"0.0.0.0:{os.environ.get('PORT') or 5000}"
# Requests wait for the database and the store, seldom for the processor, and the big copies release the GIL.
worker_class = DrainingWorker
workers = int(os.environ.get("WEB_WORKERS") or max(2, os.cpu_count() or 2))
threads = int(os.environ.get("WEB_THREADS") or 16)
graceful_timeout = int(os.environ.get("WEB_GRACEFUL_SECONDS") or 30)
keepalive = int(os.environ.get("WEB_KEEPALIVE_SECONDS") or 75)
# The heartbeat goes through a file: on a disk that stalls, healthy workers would be killed.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
# Its default place is one file per user, which two instances on a machine would fight for.
control_socket_disable = True

accesslog = None  # the application logs each request, with what it knows of it
# gunicorn's own lines go the way of the application's: one JSON object each, once the application is loaded.
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": []},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True}},
    "handlers": {},
    "formatters": {},
}

_own_metrics: Path | None = None
if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    # Without a folder each worker would answer /metrics with its own numbers alone.
    _own_metrics = Path(tempfile.mkdtemp(prefix="swnube-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_own_metrics)
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)


def on_starting(server: "Arbiter") -> None:
    """Drops the metrics that processes of an earlier run left."""
    for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        match = re.search(r"_(\d+)\.db$", path.name)
        if match and not _alive(int(match[1])):
            path.unlink(missing_ok=True)


def child_exit(server: "Arbiter", worker: "Worker") -> None:
    """Takes a dead worker out of the gauges that count living ones; its counters stay in the sums."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: "Arbiter") -> None:
    if _own_metrics is not None:
        shutil.rmtree(_own_metrics, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
