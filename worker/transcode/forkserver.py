"""Starts every process that touches a stranger's file, each behind the locks of :mod:`worker.transcode.confine`.

A small single-threaded Python process, started once per worker with an empty environment, forks two processes per request: a *keeper*
that waits, and the *confined* one, which locks itself in and becomes ffmpeg or runs one function of :mod:`worker.transcode.reader`.
Forking from here costs about 2 ms where starting Python anew costs 20 to 60, is safe however many threads the worker has, and keeps the
worker's memory, secrets and open files out of the confined process.

Nothing survives the worker: the keeper kills the confined process group when the worker closes its end or dies, at the deadline, and the
kernel kills the confined process when the keeper dies.
"""

import array
import contextlib
import fcntl
import gc
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import mutagen

from worker.transcode import confine, reader

_FD_SIZE = array.array("i").itemsize
_LENGTH = struct.Struct("=I")
_SYSTEM_READABLE = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store")
_CLEAN_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/nonexistent", "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}


# ---------------------------------------------------------------------------------------------- the worker's side


@dataclass(frozen=True, slots=True)
class Ended:
    """How a confined process ended: exit code (negative: the signal), whether at its deadline, and what it used."""

    code: int
    timed_out: bool
    cpu_seconds: float
    memory_bytes: int


class Confined:
    """A running confined process: its output and error pipes, and how it ended."""

    def __init__(self, control: socket.socket, stdout: int, stderr: int) -> None:
        self._control = control
        self.stdout = stdout
        self.stderr = stderr

    def result(self) -> Ended:
        """Wait for the end. Raises OSError when the fork server itself was lost."""
        body = _receive(self._control)
        if body is None:
            raise OSError("the process that guards conversions was lost")
        return Ended(**body)

    def close(self) -> None:
        """Let go: what still runs is killed."""
        self._control.close()
        for handle in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                os.close(handle)
        self.stdout = self.stderr = -1


class ForkServer:
    """The worker's handle on its fork server. Thread-safe; started at first use, and again in a forked child or when it was lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner = 0

    def spawn(self, request: Mapping[str, Any]) -> Confined:
        """Start one confined process.

        ``request``: ``folder`` (str, working directory and only writable place), ``limits`` (rlimit names → int), ``wall_seconds``, and
        either ``argv`` with ``program`` (absolute path) or ``function`` (a name in :mod:`reader`) with ``arguments``.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        # A full pipe makes ffmpeg wait for the worker; a wide one makes that rare.
        with contextlib.suppress(OSError):
            fcntl.fcntl(err_read, fcntl.F_SETPIPE_SZ, 262_144)
        confined = Confined(mine, out_read, err_read)
        try:
            self._send([theirs.fileno(), out_write, err_write])
            _send(mine, {**request, "worker": os.getpid()})
        except BaseException:
            confined.close()
            raise
        finally:
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        return confined

    def close(self) -> None:
        """Stop the fork server and with it everything it started."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            if self._process is not None and self._owner == os.getpid():
                self._process.wait(timeout=10)
            self._socket = self._process = None

    def _send(self, handles: list[int]) -> None:
        with self._lock:
            for attempt in (1, 2):
                if self._socket is None or self._owner != os.getpid():
                    self._start()
                try:
                    assert self._socket is not None  # noqa: S101 - for the type checker; _start has set it
                    socket.send_fds(self._socket, [b"+"], handles)
                except (BrokenPipeError, ConnectionResetError):
                    self._socket = None
                    if attempt == 2:
                        raise
                else:
                    return

    def _start(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[2])
        code = "import sys; sys.path.insert(0, sys.argv[1]); from worker.transcode.forkserver import serve; serve(int(sys.argv[2]))"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, root, str(theirs.fileno())],
                env=_CLEAN_ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                # A Ctrl-C or a stop of the worker's group must not end running work: the worker decides, by closing.
                start_new_session=True,
            )
        self._socket = mine
        self._owner = os.getpid()


def _send(channel: socket.socket, body: Mapping[str, Any]) -> None:
    data = json.dumps(body).encode()
    channel.sendall(_LENGTH.pack(len(data)) + data)


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    """One message, or None when the other side is gone."""
    with contextlib.suppress(ConnectionError):
        head = channel.recv(_LENGTH.size, socket.MSG_WAITALL)
        if len(head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            data = channel.recv(length, socket.MSG_WAITALL) if length else b""
            while len(data) < length:
                more = channel.recv(length - len(data), socket.MSG_WAITALL)
                if not more:
                    return None
                data += more
            body: dict[str, Any] = json.loads(data)
            return body
    return None


# ------------------------------------------------------------------------------------------ the fork server's side


def serve(handle: int) -> Never:
    """The fork server's whole life: one keeper per request, until the worker's end of the socket is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = socket.socket(fileno=handle)
    # What is here stays: without this, collecting garbage would copy it page by page into every process forked from here.
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        try:
            message, handles, _, _ = socket.recv_fds(channel, 16, 3)
        except InterruptedError:
            continue
        if not message:
            os._exit(0)
        if len(handles) == 3 and os.fork() == 0:
            channel.close()
            try:
                _keep(*handles)
            finally:
                os._exit(1)
        for each in handles:
            os.close(each)


def _keep(control_handle: int, stdout: int, stderr: int) -> Never:
    """Run one confined process, kill it when it must end, and tell the worker how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=control_handle)
    request = _receive(control)
    if request is None:
        os._exit(0)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            control.close()
            _become(request, keeper, stdout, stderr)
        except BaseException as error:  # noqa: BLE001 - nothing may run on as a second keeper
            with contextlib.suppress(OSError):
                os.write(2, f"confined process: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(126)
    os.close(stdout)
    os.close(stderr)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    timed_out = not _wait(child, control, int(request["worker"]), float(request["wall_seconds"]))
    _, status, usage = os.wait4(child, 0)
    _kill(child)
    own = resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.suppress(OSError):
        _send(
            control,
            {
                "code": os.waitstatus_to_exitcode(status),
                "timed_out": timed_out,
                "cpu_seconds": usage.ru_utime + usage.ru_stime + own.ru_utime + own.ru_stime,
                "memory_bytes": usage.ru_maxrss * 1024,
            },
        )
    os._exit(0)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _wait(child: int, control: socket.socket, worker: int, seconds: float) -> bool:
    """Until the child ends. Killed when the worker is gone or lets go, or time is up; False for the last."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        watched = os.pidfd_open(child)
        selector.register(watched, selectors.EVENT_READ, "child")
        selector.register(control, selectors.EVENT_READ, "gone")
        try:
            selector.register(os.pidfd_open(worker), selectors.EVENT_READ, "gone")
        except ProcessLookupError:
            _kill(child)
            return True
        while True:
            remaining = end - time.monotonic()
            if remaining <= 0:
                _kill(child)
                return False
            reasons = {key.data for key, _ in selector.select(remaining)}
            if "child" in reasons:
                return True
            if "gone" in reasons:
                _kill(child)
                return True


def _become(request: Mapping[str, Any], keeper: int, stdout: int, stderr: int) -> Never:
    """In the confined process: put the locks on, then become ffmpeg or run the function."""
    os.setpgid(0, 0)
    confine.die_with_parent(keeper)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 4096)
    folder = str(request["folder"])
    os.chdir(folder)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    program = request.get("program")
    readable = [(path, confine.RUN) for path in _SYSTEM_READABLE]
    readable += [("/dev/null", confine.WORK), ("/dev/urandom", confine.READ), ("/dev/zero", confine.READ)]
    # Python and mutagen load some of their modules when they are first needed.
    libraries = [os.path.dirname(os.__file__), os.path.dirname(mutagen.__file__)]
    readable += [(program, confine.RUN)] if program else [(path, confine.READ) for path in libraries]
    confine.drop_capabilities()
    confine.lock_files([(folder, confine.WORK), *readable])
    confine.lock_calls()
    confine.limit(request["limits"])
    if program:
        os.execve(program, request["argv"], _CLEAN_ENVIRONMENT)  # noqa: S606 - a fixed program and a list of arguments
    answer = json.dumps(getattr(reader, request["function"])(**request["arguments"])).encode()
    view = memoryview(answer)
    while view:
        view = view[os.write(1, view) :]
    os._exit(0)
