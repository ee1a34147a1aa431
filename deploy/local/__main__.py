"""`make run`: the whole service on this machine, in the foreground, until Ctrl-C or SIGTERM."""

import contextlib
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.local.binaries import ProgramMissingError
from deploy.local.environment import Settings, complete, private_folder, read_environment, read_port
from deploy.local.supervisor import Program, RunFailedError, StopRequested, Supervisor
from worker.contract.settings import cores
from worker.transcode.ffmpeg import Ffmpeg, FfmpegMissing

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
    ffmpeg = find_ffmpeg(settings)
    programs = service_programs(settings)
    # The worker needs no database: it starts while the migrations run. The sweeper waits until there is time.
    supervisor.start(programs["worker"])
    # Asked in a process of its own: what it loads, this one would hold for as long as the service runs.
    if subprocess.call([*PYTHON, "deploy.local.migrated"], cwd=PROJECT, env=settings.environment) != 0:
        upgrade = [*PYTHON, "flask", "--app", "flaskr", "db", "upgrade"]
        supervisor.run_to_end(Program("migrate", upgrade, settings.environment), MIGRATE_SECONDS)
    supervisor.start(programs["web"])
    answer = ["no answer yet"]
    try:
        supervisor.until(lambda: is_ready(settings.port, answer), READY_SECONDS, "The service is not ready")
    except RunFailedError as error:
        raise RunFailedError(f"{error} /readyz: {answer[0]}") from None
    supervisor.start(programs["sweeper"])
    supervisor.say(f"Audio: {ffmpeg}")
    supervisor.say(f"Ready: http://localhost:{settings.port}  (data in {settings.folder}; Ctrl-C stops)")
    supervisor.watch()


def find_ffmpeg(settings: Settings) -> str:
    """Chooses the worker's ffmpeg as the worker would, makes that choice final, and returns it for people."""
    try:
        found = Ffmpeg.find()
    except FfmpegMissing as error:
        raise RunFailedError(str(error)) from None
    settings.environment["FFMPEG"] = found.path
    slow = "imageio_ffmpeg" in Path(found.path).parts
    advice = "; ogg and flac take 2 to 10 times as long with it as with a packaged one: install ffmpeg" if slow else ""
    return f"ffmpeg {found.version} ({found.path}{advice})"


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


def service_programs(settings: Settings) -> dict[str, Program]:
    """Web, worker and sweeper. The worker ends first, while the web tier is still there to hear what it has done."""
    worker = {**settings.environment, "REMAP_SIGTERM": "SIGQUIT"}  # gives its jobs back instead of finishing them
    web = {"WEB_GRACEFUL_SECONDS": "2", **settings.environment}
    # What is left out would only talk to other workers of the same queue.
    celery = [*PYTHON, "celery", "-A", "worker.app", "--quiet", "worker", "--without-mingle", "--without-gossip"]
    gunicorn = [*PYTHON, "gunicorn", "-c", "deploy/gunicorn.conf.py", "flaskr:create_app()"]
    sweep = [*PYTHON, "flask", "--app", "flaskr", "sweep", "--every", "5"]
    programs = [
        Program("web", gunicorn, web, rank=1, patience=2.5),
        Program("worker", [*celery, "--concurrency", str(cores())], worker, rank=2, patience=5),
        Program("sweeper", sweep, settings.environment, rank=2, patience=5),
    ]
    return {program.name: program for program in programs}


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
