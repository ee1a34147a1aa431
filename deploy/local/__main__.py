"""`make run`: the whole service on this machine, in the foreground, until Ctrl-C or SIGTERM."""

import contextlib
import fcntl
import http.client
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.local.binaries import ProgramMissingError
from deploy.local.environment import Settings, complete, private_folder, read_environment, read_port
from deploy.local.supervisor import Program, RunFailedError, StopRequested, Supervisor

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-m"]
LAST_RUN_SECONDS = 15.0  # a run that was killed takes a moment to take its programs along
MIGRATE_SECONDS = 300.0
READY_SECONDS = 60.0


def main() -> None:
    """Runs the service. Raises RunFailedError, ProgramMissingError, StopRequested."""
    environment = read_environment(PROJECT)
    port = read_port(environment)
    folder = private_folder((PROJECT / environment.get("INSTANCE_DIR", "instance")).absolute())
    with only_one(folder, port) as lock:
        refuse_taken(port)
        settings = complete(environment, folder, port)
        supervisor = Supervisor(str(PROJECT), keep_open=[lock])
        try:
            run(supervisor, settings)
        except StopRequested:
            supervisor.say("Stopping ...")
        finally:
            supervisor.stop()
            if settings.socket is not None:
                settings.socket.unlink(missing_ok=True)


def run(supervisor: Supervisor, settings: Settings) -> None:
    """Starts everything, says where it is, and keeps it running."""
    if settings.redis is not None:
        supervisor.say(f"Queue: {settings.redis}")
        supervisor.start(redis_program(settings))
    supervisor.run_to_end(
        Program("migrate", [*PYTHON, "flask", "--app", "flaskr", "db", "upgrade"], settings.environment),
        MIGRATE_SECONDS,
    )
    for program in service_programs(settings):
        supervisor.start(program)
    answer: list[str] = ["no answer yet"]
    try:
        supervisor.until(lambda: is_ready(settings.port, answer), READY_SECONDS, "The service is not ready")
    except RunFailedError as error:
        raise RunFailedError(f"{error} /readyz: {answer[0]}") from None
    supervisor.say(f"Ready: http://localhost:{settings.port}  (data in {settings.folder}; Ctrl-C stops)")
    supervisor.watch()


def redis_program(settings: Settings) -> Program:
    """The embedded Redis: reached by its socket alone, every write on disk within a second, nothing ever evicted."""
    assert settings.redis is not None  # noqa: S101
    assert settings.socket is not None  # noqa: S101
    # A server cannot read the files of a newer one; starting empty is safe, since the rows are the queue of record.
    kind = f"{settings.redis.product.lower()}-{settings.redis.version[0]}"
    data = private_folder(settings.folder / "redis" / kind)
    options = {
        "port": "0",
        "unixsocket": str(settings.socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    command = [str(settings.redis.path), *(word for name, value in options.items() for word in (f"--{name}", value))]
    return Program("redis", command, settings.environment, rank=0, patience=1.5)


def service_programs(settings: Settings) -> list[Program]:
    """Web, worker and sweeper. The worker ends first, while the web tier is still there to hear what it has done."""
    cores = os.cpu_count() or 1
    worker = {**settings.environment, "REMAP_SIGTERM": "SIGQUIT"}  # finishes or gives its jobs back, in seconds
    web = {"WEB_GRACEFUL_SECONDS": "2", **settings.environment}
    return [
        Program(
            "web",
            [*PYTHON, "gunicorn", "-c", "deploy/gunicorn.conf.py", "flaskr:create_app()"],
            web,
            rank=1,
            patience=2.5,
        ),
        Program(
            "worker",
            [*PYTHON, "celery", "-A", "worker.app", "worker", "--concurrency", str(cores), "--loglevel", "info"],
            worker,
            rank=2,
            patience=5.0,
        ),
        Program(
            "sweeper",
            [*PYTHON, "flask", "--app", "flaskr", "sweep", "--every", "5"],
            settings.environment,
            rank=2,
            patience=5.0,
        ),
    ]


def is_ready(port: int, answer: list[str]) -> bool:
    """Whether /readyz says 200; `answer` is left with what it said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        answer[0] = f"{response.status} {response.read(2000).decode(errors='replace').strip()}"
    except (OSError, http.client.HTTPException) as error:
        answer[0] = str(error)
        return False
    else:
        return response.status == 200
    finally:
        connection.close()


def refuse_taken(port: int) -> None:
    """Raises RunFailedError when another program listens on the port, or we may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as gunicorn will
        except PermissionError:
            raise RunFailedError(
                f"No permission to listen on port {port}. Choose another: PORT=5001 make run"
            ) from None
        except OSError:
            raise RunFailedError(
                f"Port {port} is taken by another program. Choose another: PORT={port % 65535 + 1} make run"
            ) from None


@contextlib.contextmanager
def only_one(folder: Path, port: int) -> Iterator[int]:
    """Holds the folder's lock and yields its file descriptor. Raises RunFailedError when another run has it.

    Every program inherits the descriptor: the lock is free only when the last of them is gone, even if the run that
    started them was killed.
    """
    with (folder / "lock").open("a+") as lock:
        deadline = time.monotonic() + LAST_RUN_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                pid, _, its_port = lock.read().strip().partition(" ")
                if (pid.isdigit() and is_alive(int(pid))) or time.monotonic() > deadline:
                    where = f"process {pid}, http://localhost:{its_port}" if pid else "it is starting"
                    raise RunFailedError(f"Already running in {folder} ({where}).") from None
                time.sleep(0.1)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()} {port}")
        lock.flush()
        yield lock.fileno()


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    try:
        main()
    except (RunFailedError, ProgramMissingError) as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit(130)
