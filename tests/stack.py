"""The whole service as it runs in production, as real processes on this machine, for journeys and for faults.

    with Stack(database="postgres", store="gcs", web=2, workers=2, tapped=True) as stack:
        client = Client(stack.url).signup().login()
        stack.workers[0].kill()

Every part is a `Service` of tests/services.py: `pid`, `kill()`, `stop()`, `cont()`, `restart()`, `log_tail()`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self

import requests

from tests.services import GcsEmulator, Postgres, Redis, Service, ServiceFailedError, Tap, free_port, wait_for

PROJECT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-m"]


class Web(Service):
    """One instance of the API: gunicorn with its workers, on `port`."""

    def __init__(self, name: str, environment: Mapping[str, str], port: int | None = None) -> None:
        self.name = name
        super().__init__()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = PROJECT
        self.environment = {
            **environment, "PORT": str(self.port), "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
        }  # fmt: skip

    def _command(self) -> list[str]:
        return [*PYTHON, "gunicorn", "-c", "deploy/gunicorn.conf.py", "flaskr:create_app()"]

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        except requests.RequestException:
            return False


class Worker(Service):
    """One conversion worker: Celery with `concurrency` processes."""

    def __init__(self, name: str, environment: Mapping[str, str], concurrency: int, app: str = "worker.app") -> None:
        self.name = name
        super().__init__()
        self._app = app
        self.directory = PROJECT
        self.environment = {**environment, "SCRATCH_DIR": str(self.folder / "scratch"), "REMAP_SIGTERM": "SIGQUIT"}
        self._concurrency = concurrency

    def _command(self) -> list[str]:
        return [*PYTHON, "celery", "-A", self._app, "worker", "--concurrency", str(self._concurrency)]

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log_path.unlink(missing_ok=True)  # what the last process said must not count as this one's
        return super()._spawn()

    def _answers(self) -> bool:
        return "ready." in self.log_path.read_text(errors="replace")


class Sweeper(Service):
    """One sweeper, sweeping every half second."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        super().__init__()
        self.directory = PROJECT
        self.environment = dict(environment)

    def _command(self) -> list[str]:
        return [*PYTHON, "flask", "--app", "flaskr", "sweep", "--every", "0.5"]

    def _answers(self) -> bool:
        return True  # it serves nobody; that it keeps running is seen by `_up`


class Stack:
    """The service on a database, a store and a Redis of its own. A context manager; leaves nothing behind.

    `url` is a balancer before all web instances, which clients and workers use. With `tapped`, everything that a
    process of the service says to Redis, PostgreSQL and the GCS emulator passes `redis_tap`, `postgres_tap` and
    `gcs_tap`. `environment` adds settings for every process. With `direct` there is one web instance and no balancer
    before it, whose work would count as the service's when that is measured.
    """

    postgres: Postgres
    gcs: GcsEmulator
    redis_tap: Tap
    postgres_tap: Tap
    gcs_tap: Tap
    balancer: Tap

    def __init__(
        self,
        *,
        database: Literal["sqlite", "postgres"] = "sqlite",
        store: Literal["folder", "gcs"] = "folder",
        web: int = 1,
        workers: int = 1,
        sweepers: int = 1,
        concurrency: int = 1,
        tapped: bool = False,
        direct: bool = False,
        worker_app: str = "worker.app",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._database, self._store = database, store
        self._counts = {"web": web, "workers": workers, "sweepers": sweepers}
        self._concurrency = concurrency
        self._tapped = tapped
        self._direct = direct
        self._worker_app = worker_app
        self._more = dict(environment or {})
        self._open = contextlib.ExitStack()
        self.web: list[Web] = []
        self.workers: list[Worker] = []
        self.sweepers: list[Sweeper] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def url(self) -> str:
        """Where clients and workers reach any web instance."""
        return self.environment["API_URL"]

    @property
    def services(self) -> list[Service]:
        """Every process tree of the service itself: web instances, workers and sweepers."""
        return [*self.web, *self.workers, *self.sweepers]

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="swnube-stack-"))
        self._open.callback(shutil.rmtree, self.folder, ignore_errors=True)
        port = free_port()
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "PYTHONUNBUFFERED": "1",
            "JWT_SECRET_KEY": os.urandom(32).hex(),
            "REDIS_URL": self._start_redis(),
            "DATABASE_URL": self._start_database(),
            "API_URL": f"http://127.0.0.1:{port}",
            "WEB_WORKERS": "2",
            "WEB_THREADS": "8",
            "WEB_GRACEFUL_SECONDS": "5",
            **self._start_store(),
            **self._more,
        }
        self._migrate()
        own_port = port if self._direct else None
        self.web = [Web(f"web{number}", self.environment, own_port) for number in range(self._counts["web"])]
        self.workers = [
            Worker(f"worker{number}", self.environment, self._concurrency, self._worker_app)
            for number in range(self._counts["workers"])
        ]
        self.sweepers = [Sweeper(f"sweeper{number}", self.environment) for number in range(self._counts["sweepers"])]
        if not self._direct:
            self.balancer = self._open.enter_context(Tap(*(web.port for web in self.web), port=port))
        self._open.callback(self._close_services)
        for service in self.services:
            service.launch()
        for service in self.services:
            service.wait_until_up()
        wait_for(self._ready, "/readyz says 200")

    def _close_services(self) -> None:
        with ThreadPoolExecutor(max_workers=len(self.services)) as pool:  # together: each takes its time to say goodbye
            list(pool.map(lambda service: service.close(), self.services))

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=10).ok
        except requests.RequestException:
            return False

    def _start_redis(self) -> str:
        self.redis = self._open.enter_context(Redis(tcp=self._tapped))
        if not self._tapped:
            return self.redis.url
        self.redis_tap = self._open.enter_context(Tap(self.redis.port))
        return f"redis://127.0.0.1:{self.redis_tap.port}/0"

    def _start_database(self) -> str:
        if self._database == "sqlite":
            return f"sqlite:///{self.folder}/swnube.db"
        self.postgres = self._open.enter_context(Postgres())
        if not self._tapped:
            return self.postgres.url("postgres")
        self.postgres_tap = self._open.enter_context(Tap(self.postgres.port))
        return self.postgres.url("postgres", self.postgres_tap.port)

    def _start_store(self) -> dict[str, str]:
        if self._store == "folder":
            folder = self.folder / "store"
            folder.mkdir()
            return {"STORAGE_URL": folder.as_uri()}
        public_port = free_port() if self._tapped else None
        self.gcs = self._open.enter_context(GcsEmulator(public_port=public_port))
        if public_port is not None:
            self.gcs_tap = self._open.enter_context(Tap(self.gcs.port, port=public_port))
        return {"STORAGE_URL": f"gs://{self.gcs.create_bucket()}", "STORAGE_EMULATOR_HOST": self.gcs.url}

    def _migrate(self) -> None:
        done = subprocess.run(
            [*PYTHON, "flask", "--app", "flaskr", "db", "upgrade"],
            cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServiceFailedError(f"The migrations failed:\n{done.stdout}{done.stderr}")
