"""The whole service as real processes on this machine, with a tap on every wire, for tests that break it.

Two API instances, workers with one process each, sweepers; PostgreSQL, Redis over TCP and the bucket emulator, each
behind a `Tap`. The times that bound a recovery are seconds instead of minutes.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2
import requests

from tests import services
from tests.chaos import audio
from tests.services import Service, Tap, wait_for
from worker.contract.job import waveform_route

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 3.0
RECOVERY_SECONDS = 60.0  # what is promised, from the end of the fault
TERMINAL = ("PROCESSED", "FAILED")


class Program(Service):
    """One process of the service, with an environment of its own."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        super().__init__()
        self._line = command
        self.environment: dict[str, str] | None = environment
        self._log_from = 0
        self._wanted = False

    def _command(self) -> list[str]:
        return self._line

    def wrap(self, *command: str) -> None:
        """Have it started by another program, which becomes it."""
        self._line = [*command, *self._line]

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self._line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=self.environment,
                start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        return True

    def _forget(self) -> None:
        """It keeps nothing."""

    def close(self) -> None:
        self.kill()  # nothing of it is needed any more
        super().close()

    def launch(self) -> None:
        """Start it without waiting until it answers: what it needs may be away."""
        self._process = self._spawn()
        services.running.append(self)
        self._wanted = True

    def ended_by_itself(self) -> bool:
        """Whether it was started, nobody ended it, and it is not there any more."""
        return self._wanted and self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        self._wanted = True
        super().start()

    def end(self) -> None:
        self._wanted = False
        super().end()

    def kill(self) -> None:
        self._wanted = False
        super().kill()

    @property
    def up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it said since its last start."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode(errors="replace")

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of that event whose fields are as given, over all its lives."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            if f'"{name}"' in line:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == name and all(event.get(k) == v for k, v in fields.items()):
                        found.append(event)
        return found


class Web(Program):
    """One API instance: gunicorn with one worker process."""

    def __init__(self, number: int, environment: dict[str, str]) -> None:
        self.port = services.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            f"api-{number}",
            [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "flaskr:create_app()"],
            {**environment, "PORT": str(self.port), "WEB_WORKERS": "1"},
        )

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/healthz", timeout=2).ok
        except requests.RequestException:
            return False


class Worker(Program):
    """One Celery worker with one process. It reaches the API through a tap of its own."""

    def __init__(self, number: int, environment: dict[str, str], api: Web, scratch: Path) -> None:
        self.tap = Tap(api.port)
        super().__init__(
            f"worker-{number}",
            [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--concurrency", "1",
             "--hostname", f"w{number}@%h", "--without-gossip", "--without-mingle"],
            {**environment, "API_URL": f"http://127.0.0.1:{self.tap.port}", "SCRATCH_DIR": str(scratch)},
        )  # fmt: skip

    def start(self) -> None:
        if self.tap._listener is None:
            self.tap.restore()
        super().start()

    def close(self) -> None:
        super().close()
        self.tap.__exit__()

    def _answers(self) -> bool:
        return "ready." in self.log()

    def child(self) -> psutil.Process | None:
        """The pool's process, which runs the jobs."""
        try:
            children = psutil.Process(self.pid).children()
        except (psutil.NoSuchProcess, services.ServiceFailedError):
            return None
        for process in children:
            with contextlib.suppress(psutil.Error):
                if "celery" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def ffmpeg(self) -> psutil.Process | None:
        """The ffmpeg that runs for it now."""
        try:
            family = services.process_family(self.pid)
        except services.ServiceFailedError:
            return None
        for process in family:
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ffmpeg") and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def catch_ffmpeg(self) -> psutil.Process:
        """Wait for its next ffmpeg and freeze it: the conversion lasts until somebody thaws or kills it."""
        process = wait_for(self.ffmpeg, f"{self.name} runs ffmpeg", every=0.005)
        process.send_signal(signal.SIGSTOP)
        return process


@dataclass
class Answer:
    """What a client saw of one call; status 0 is a connection error."""

    status: int
    body: Any = None
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class Client:
    """Somebody with an account, who calls any of the API instances."""

    def __init__(self, stack: "Stack") -> None:
        self._stack = stack
        self._turn = 0
        name = f"u{secrets.token_hex(6)}"
        self.email = f"{name}@example.com"
        body = {"user": name, "email": self.email, "password1": "Corneta-7-azul", "password2": "Corneta-7-azul"}
        assert self._plain("POST", "/api/auth/signup", json=body).status == 200
        tokens = self._plain("POST", "/api/auth/login", json={"email": self.email, "password": "Corneta-7-azul"})
        self._headers = {"Authorization": f"Bearer {tokens.body['token']}"}

    def _plain(self, method: str, path: str, web: Web | None = None, **kwargs: Any) -> Answer:
        self._turn += 1
        url = (web or self._stack.webs[self._turn % len(self._stack.webs)]).url
        if port := kwargs.pop("port", None):
            url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        try:
            reply = requests.request(method, url + path, timeout=kwargs.pop("timeout", 60), **kwargs)
            json_like = "json" in reply.headers.get("Content-Type", "")
            body = reply.json() if json_like else reply.content
        except requests.RequestException:
            return Answer(0, None, time.monotonic() - began)
        return Answer(reply.status_code, body, time.monotonic() - began, dict(reply.headers))

    def call(self, method: str, path: str, web: Web | None = None, **kwargs: Any) -> Answer:
        """One request to one instance, in turns unless one, or the port of a balancer, is named."""
        return self._plain(method, path, web, headers=self._headers, **kwargs)

    def upload(self, data: bytes, target: str = "ogg", web: Web | None = None, port: int = 0) -> Answer:
        form = {"filename": "tone.wav", "newFormat": target}
        return self.call("POST", "/api/tasks", web, port=port, data=form, files={"audio": ("upload", data)})

    def accepted(self, data: bytes, target: str = "ogg", web: Web | None = None) -> int:
        """Upload, insist on 200, return the task's id."""
        answer = self.upload(data, target, web)
        assert answer.status == 200, answer
        return int(answer.body["task"]["id"])

    def task(self, task_id: int) -> dict[str, Any]:
        """One task, from whichever instance answers; waits for one that does."""

        def ask() -> Answer | None:
            answer = self.call("GET", f"/api/tasks/{task_id}")
            return answer if answer.status in (200, 404) else None

        answer = wait_for(ask, f"task {task_id} is answered", RECOVERY_SECONDS, 0.1)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body
        return found

    def until(self, task_id: int, *states: str, seconds: float = RECOVERY_SECONDS) -> dict[str, Any]:
        """Wait until the task is in one of the states; return it."""
        states = states or TERMINAL

        def ask() -> dict[str, Any] | None:
            task = self.task(task_id)
            return task if task["state"] in states else None

        return wait_for(ask, f"task {task_id} is {' or '.join(states)}", seconds, 0.05)

    def converted(self, task_id: int) -> bytes:
        """The converted file's bytes."""
        answer = self.call("GET", f"/api/tasks/{task_id}/converted")
        assert answer.status == 200, answer
        assert isinstance(answer.body, bytes)
        return answer.body


class Stack:
    """Everything, started on entry and gone on exit."""

    def __init__(self, workers: int = 2, sweepers: int = 1, **settings: str) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="swnube-chaos-scratch-"))
        self._cleanup = contextlib.ExitStack()
        self._counts = workers, sweepers
        self._settings = settings
        self.webs: list[Web] = []
        self.workers: list[Worker] = []
        self.sweepers: list[Program] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            stack.callback(shutil.rmtree, self.scratch, ignore_errors=True)
            self.postgres = enter(services.Postgres())
            self.redis = enter(services.Redis(tcp=True))
            gcs_port = services.free_port()
            self.gcs = enter(services.GcsEmulator(public_port=gcs_port))
            self.postgres_tap = enter(Tap(self.postgres.port))
            self.redis_tap = enter(Tap(self.redis.port))
            self.gcs_tap = enter(Tap(self.gcs.port, port=gcs_port))
            self.bucket = self.gcs.create_bucket()
            self.database = self.postgres.create()
            environment = self.environment = self._settle()
            subprocess.run(
                [sys.executable, "-m", "flask", "--app", "flaskr", "db", "upgrade"],
                cwd=ROOT, env=environment, check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            self._watch_results()
            self.webs = [Web(number, environment) for number in (1, 2)]
            workers, sweepers = self._counts
            self.workers = [
                Worker(number, environment, self.webs[number % 2], self.scratch) for number in range(1, workers + 1)
            ]
            sweep = [sys.executable, "-m", "flask", "--app", "flaskr", "sweep", "--every", "1"]
            self.sweepers = [Program(f"sweep-{number}", sweep, environment) for number in range(1, sweepers + 1)]
            programs = (*self.webs, *self.workers, *self.sweepers)
            for program in programs:
                stack.callback(program.close)
            with ThreadPoolExecutor(len(programs)) as side_by_side:
                list(side_by_side.map(lambda program: program.start(), programs))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _settle(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.postgres.url(self.database, self.postgres_tap.port),
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_tap.port}/0",
            "STORAGE_URL": f"gs://{self.bucket}",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.gcs_tap.port}",
            "JWT_SECRET_KEY": secrets.token_hex(32),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "RESEND_SECONDS": "2",
            "TIDY_SECONDS": "3",
            "RECEIVING_SECONDS": "5",
            "MAX_WAITING_TASKS": "100000",
            "WEB_THREADS": "16",
            **self._settings,
        }

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database directly, past every tap."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.postgres.port, user="postgres", dbname=self.database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def _watch_results(self) -> None:
        """Have the database itself note every recording of an outcome: that is what must happen once."""
        self.rows("""
            CREATE TABLE outcomes (task bigint, attempt int, state text, at timestamptz DEFAULT clock_timestamp());
            CREATE FUNCTION note_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO outcomes (task, attempt, state) VALUES (NEW.id, NEW.attempt, NEW.state);
                RETURN NEW;
            END $$;
            CREATE TRIGGER outcome AFTER UPDATE ON tasks FOR EACH ROW
            WHEN (NEW.state IN ('PROCESSED', 'FAILED') AND (OLD.finished_at, OLD.state)
                  IS DISTINCT FROM (NEW.finished_at, NEW.state)) EXECUTE FUNCTION note_outcome();
        """)

    def outcomes(self, task_id: int) -> list[tuple[int, str]]:
        """Every (attempt, state) that was ever recorded as the task's outcome, oldest first."""
        return [
            (a, s) for a, s in self.rows("SELECT attempt, state FROM outcomes WHERE task = %s ORDER BY at", task_id)
        ]

    def objects(self, task_id: int | None = None) -> list[str]:
        """The bucket's listing, past the tap."""
        prefix = "" if task_id is None else f"{task_id}/"
        names: list[str] = []
        token = ""
        while True:
            reply = requests.get(
                f"http://127.0.0.1:{self.gcs.port}/storage/v1/b/{self.bucket}/o",
                params={"prefix": prefix, **({"pageToken": token} if token else {})}, timeout=60,
            ).json()  # fmt: skip
            names += [item["name"] for item in reply.get("items", [])]
            if not (token := reply.get("nextPageToken", "")):
                return sorted(names)

    def messages(self) -> list[bytes]:
        """The messages that wait on the queue."""
        return self.redis.client.lrange("conversions", 0, -1)  # type: ignore[return-value]

    def job_folders(self) -> list[Path]:
        return list(self.scratch.glob("job-*"))

    def wait_until_quiet(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until no task is under way and nothing is left to tidy."""
        query = """SELECT count(*) FROM tasks
                   WHERE state IN ('RECEIVING', 'UPLOADED', 'PROCESSING', 'REMOVED') OR tidy_at IS NOT NULL"""
        wait_for(lambda: self.rows(query) == [(0,)], "every task is at its end and tidy", seconds, 0.2)

    def untidy(self) -> tuple[set[str], set[str]]:
        """Objects that no row names, and objects that a row names but are missing."""
        named: set[str] = set()
        query = "SELECT id, attempt, state, original_route, converted_route, waveform_crc32c FROM tasks"
        for task, attempt, state, original, converted, waveform in self.rows(query):
            named.add(original)
            if state == "PROCESSED":
                named.add(converted)
            if waveform:
                named.add(waveform_route(task, attempt))
        there = set(self.objects())
        return there - named, named - there


@contextlib.contextmanager
def down(program: Program) -> Iterator[None]:
    """The program is killed for the length of the block, and started again after."""
    program.kill()
    try:
        yield
    finally:
        program.start()


def at_work(stack: Stack, *besides: Worker) -> tuple[Worker, psutil.Process]:
    """Wait for a worker, besides those named, that runs an ffmpeg; freeze that ffmpeg."""

    def look() -> tuple[Worker, psutil.Process] | None:
        for worker in stack.workers:
            if worker not in besides and (process := worker.ffmpeg()) is not None:
                return worker, process
        return None

    worker, process = wait_for(look, "a worker runs ffmpeg", every=0.005)
    process.send_signal(signal.SIGSTOP)
    return worker, process


@contextlib.contextmanager
def instead(stack: Stack, *, disk: str = "", **settings: str) -> Iterator[Worker]:
    """One worker with other settings takes the place of all for the length of the block.

    disk: the size of its scratch disk as mount(8) takes it; such a worker lives in a mount namespace of its own.
    """
    scratch = stack.scratch / "instead"
    scratch.mkdir(exist_ok=True)
    worker = Worker(len(stack.workers) + 1, {**stack.environment, **settings}, stack.webs[0], scratch)
    if disk:
        mount = f'mount -t tmpfs -o size={disk},mode=700 tmpfs "$SCRATCH_DIR" && exec "$@"'
        worker.wrap("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    with contextlib.ExitStack() as after:
        for each in stack.workers:
            after.enter_context(down(each))
        after.callback(worker.close)
        after.enter_context(worker.tap)
        worker.start()
        yield worker


def off(seconds: float) -> dict[str, str]:
    """The environment of a process on a host whose clock is ahead by so much."""
    return {"CLOCK_OFF_SECONDS": str(seconds), "PYTHONPATH": f"{ROOT / 'tests' / 'chaos' / 'skewed'}:{ROOT}"}


def other(stack: Stack, worker: Worker) -> Worker:
    return next(each for each in stack.workers if each is not worker)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def right(client: Client, task_id: int, hertz: int) -> bool:
    """Whether the converted file is the tone that was uploaded."""
    pitch, seconds = audio.decode(client.converted(task_id))
    return abs(pitch - hertz) < 10 and abs(seconds - 1.0) < 0.1
