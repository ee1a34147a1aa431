"""How gunicorn serves the web tier: `gunicorn -c deploy/gunicorn.conf.py 'flaskr:create_app()'`.

WEB_PATIENCE_SECONDS (20) is how long a request may keep its thread waiting for bytes, on top of the time that those
already received would take at WEB_LEAST_BYTES_PER_SECOND (1024).

PORT (5000), WEB_WORKERS (one per core, at least 2), WEB_THREADS per worker (16), WEB_GRACEFUL_SECONDS (30) for
requests in flight at a stop, WEB_KEEPALIVE_SECONDS (75: longer than the balancer keeps an idle connection, or it
would send requests into connections that are being closed). PROMETHEUS_MULTIPROC_DIR holds the workers' metrics.
"""

import errno
import os
import re
import select
import selectors
import shutil
import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding
from gunicorn.workers.gthread import ThreadWorker

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


class PacedSocket(socket.socket):
    """A client's connection that holds its thread no longer than an honest client needs.

    A client that sends a byte now and then, or reads its download as slowly, would keep a thread for ever: a handful
    of such connections, and nobody else is served.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin()

    def begin(self) -> None:
        """A request may begin here: its time and its bytes count anew."""
        self._waited = 0.0
        self._received = 0

    def setblocking(self, flag: bool) -> None:
        """Blocks for the longest pause at most. What is sent in one piece must be read within it, too."""
        self.settimeout(LONGEST_PAUSE if flag else 0.0)

    def recv(self, *args: int) -> bytes:
        given = self.gettimeout()
        left = PATIENCE + self._received / LEAST_BYTES_PER_SECOND - self._waited
        began = time.monotonic()
        try:
            self.settimeout(max(0.001, left) if given is None else min(max(0.001, left), given))
            data = super().recv(*args)
        except TimeoutError:
            # As if it had gone: gunicorn and the application know what to do then.
            raise ConnectionResetError(errno.ECONNRESET, "The client is too slow.") from None
        finally:
            self._waited += time.monotonic() - began
            self.settimeout(given)
        self._received += len(data)
        return data


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

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answers a transfer coding that nobody knows with 400, not 501: no client is to set off the alarm for 5xx."""
        if isinstance(exc, UnsupportedTransferCoding):
            exc = InvalidHeader("TRANSFER-ENCODING")
        super().handle_error(req, client, addr, exc)

    def enqueue_req(self, conn: Any) -> None:
        """Gives a connection to a thread; a new one only once it has sent something, for a thread is worth more."""
        if not isinstance(conn.sock, PacedSocket):
            conn.sock = PacedSocket(fileno=conn.sock.detach())
            conn.sock.setblocking(False)
        if not conn.initialized and not conn.data_ready:
            conn.timeout = time.monotonic() + PATIENCE
            self.pending_conns.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
            return
        conn.sock.begin()
        super().enqueue_req(conn)


PATIENCE = float(os.environ.get("WEB_PATIENCE_SECONDS") or 20)
LEAST_BYTES_PER_SECOND = float(os.environ.get("WEB_LEAST_BYTES_PER_SECOND") or 1024)
LONGEST_PAUSE = 60.0

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

# Who is believed about a client's address and scheme is the application's TRUSTED_PROXIES; gunicorn believes nobody.
forwarded_allow_ips = ""

accesslog = None  # the application logs each request, with what it knows of it
# gunicorn's own lines go the way of the application's: one JSON object each, from `on_starting` on.
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


def on_starting(server: "Arbiter") -> None:
    """Sets up the logs, and drops the metrics that processes of an earlier run left."""
    from worker.contract.logs import set_up_logs  # the project is on the path only now

    set_up_logs("web")
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db"):
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
