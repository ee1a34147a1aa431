"""Starts programs, shows what they say, starts those again that die, and ends them all, whatever happens to itself.

Every program is the leader of a process group of its own, so that Ctrl-C in the terminal reaches the supervisor alone
and it decides who ends when. Should the supervisor be killed, a guardian process ends the groups in its place.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_OF_GUARDIAN = 6.0  # seconds
DEATHS, DEATHS_WITHIN = 3, 60.0  # a program that dies so often in so many seconds will not get better by itself
POLL = 0.1
STOP_SECONDS = 8.5  # the promise is 10
ONE_WISH = 1.0  # seconds within which several signals are the same wish to stop
COLOURS = (36, 33, 32, 35, 34)
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class RunFailedError(Exception):
    """The service cannot go on. The message is the one line that the person at the terminal needs."""


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM, or nobody reads our output any more."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to keep running.

    A stop ends those of the highest `rank` first, together, and the next rank when they are gone. `patience`: seconds
    that it gets between SIGTERM and SIGKILL.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    rank: int = 0
    patience: float = 1.0


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    output: threading.Thread


class Supervisor:
    """Keeps programs running between `start` and `stop`. Signals that ask for a stop raise StopRequested in `watch`
    and `until`; `stop` is then the caller's to call. `keep_open` are file descriptors that the programs inherit.
    """

    def __init__(self, folder: str, keep_open: Iterable[int] = ()) -> None:
        self._folder = folder
        self._keep_open = tuple(keep_open)
        self._running: list[_Running] = []
        self._deaths: dict[str, deque[float]] = {}
        self._stop_asked = 0.0  # when, on the monotonic clock; 0 is never
        self._hurry = False
        self._printing = threading.Lock()
        self._guardian, self._guardian_pid = _guard()
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def start(self, program: Program) -> None:
        """Starts a program; it is watched from now on."""
        self._running.append(self._spawn(program))

    def run_to_end(self, program: Program, seconds: float) -> None:
        """Runs a program that ends by itself. Raises RunFailedError unless it ends well and in time."""
        self.start(program)
        running = self._running[-1]
        self.until(lambda: running.process.poll() is not None, seconds, program.name, ignore=running)
        self._forget(running)
        if running.process.returncode != 0:
            raise RunFailedError(f"{program.name} failed ({_ending(running.process)}): see above.")

    def until(self, condition: Callable[[], object], seconds: float, what: str, ignore: _Running | None = None) -> None:
        """Waits for a condition. Raises RunFailedError when a program ends before, or time is up."""
        deadline = time.monotonic() + seconds
        while not condition():
            for running in self._running:
                if running is not ignore and running.process.poll() is not None:
                    running.output.join(1)  # its last words come first
                    raise RunFailedError(
                        f"{running.program.name} ended while starting ({_ending(running.process)}): see above."
                    )
            if time.monotonic() > deadline:
                raise RunFailedError(f"{what}: not within {seconds:g} s.")
            self._pause()

    def watch(self) -> None:
        """Starts programs again that end, for ever. Raises RunFailedError when one keeps ending."""
        while True:
            for running in list(self._running):
                if running.process.poll() is not None:
                    self._replace(running)
            self._pause()

    def stop(self) -> None:
        """Ends all programs by rank and patience, in STOP_SECONDS at most. A second signal kills at once."""
        self._stop_asked = self._stop_asked or time.monotonic()
        deadline = time.monotonic() + STOP_SECONDS
        while self._running:
            rank = max(running.program.rank for running in self._running)
            batch = [running for running in self._running if running.program.rank == rank]
            left = max(deadline - time.monotonic(), 0.1)
            patience = min(left, max(running.program.patience for running in batch))
            end_groups([running.process.pid for running in batch], patience, self._reap, lambda: self._hurry)
            for running in batch:
                self._forget(running)
        os.close(self._guardian)
        os.waitpid(self._guardian_pid, 0)

    def _forget(self, running: _Running) -> None:
        running.output.join(1)
        self._running.remove(running)
        os.write(self._guardian, f"-{running.process.pid}\n".encode())

    def _replace(self, running: _Running) -> None:
        name = running.program.name
        end_groups([running.process.pid], 0, self._reap)  # what it started must not go on without it
        self._forget(running)
        deaths = self._deaths.setdefault(name, deque(maxlen=DEATHS))
        deaths.append(time.monotonic())
        if len(deaths) == DEATHS and deaths[-1] - deaths[0] < DEATHS_WITHIN:
            raise RunFailedError(f"{name} keeps ending ({_ending(running.process)}): see above.")
        self.say(f"{name} ended ({_ending(running.process)}): starting it again.")
        self.start(running.program)

    def _spawn(self, program: Program) -> _Running:
        me = os.getpid()

        def die_with_me() -> None:
            if _libc is not None:
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != me:
                    os._exit(1)

        process = subprocess.Popen(
            program.command,
            env=program.environment, cwd=self._folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=self._keep_open, preexec_fn=die_with_me,
        )  # fmt: skip
        os.write(self._guardian, f"+{process.pid}\n".encode())
        output = threading.Thread(target=self._show, args=(program.name, process), daemon=True)
        output.start()
        return _Running(program, process, output)

    def _show(self, name: str, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            self.say(line.decode(errors="replace").rstrip("\n"), name)

    def say(self, line: str, name: str = "") -> None:
        """Prints a line of our own, or of the program `name`."""
        if name:
            prefix = f"{name:<8}| "
            if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
                prefix = f"\x1b[{COLOURS[sum(name.encode()) % len(COLOURS)]}m{prefix}\x1b[0m"
            line = prefix + line
        with self._printing:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OSError:
                self._stop_asked = self._stop_asked or time.monotonic()  # nobody reads us any more
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of our life

    def _on_signal(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        # `make` passes a signal on that the terminal or `kill -TERM -GROUP` has sent to both: that is one wish.
        self._hurry = bool(self._stop_asked) and now - self._stop_asked > ONE_WISH
        self._stop_asked = self._stop_asked or now

    def _pause(self) -> None:
        if self._stop_asked:
            raise StopRequested
        time.sleep(POLL)

    def _reap(self) -> None:
        for running in self._running:
            running.process.poll()


def end_groups(
    groups: Sequence[int],
    patience: float,
    reap: Callable[[], None] = lambda: None,
    hurried: Callable[[], bool] = lambda: False,
) -> None:
    """SIGTERM to process groups, and SIGKILL to what is left after `patience` seconds. Returns when all are gone.

    `reap` is called while waiting, since a group exists until its dead are buried; `hurried` cuts the patience short.
    """
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if number == signal.SIGTERM and not patience:
            continue
        for group in groups:
            # TERM to the leader alone: it knows how to end its own children.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if number == signal.SIGKILL else os.kill)(group, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            reap()
            if not any(map(_group_exists, groups)):
                return
            if number == signal.SIGTERM and hurried():
                break
            time.sleep(0.02)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def _guard() -> tuple[int, int]:
    """Forks the guardian, which is told of the groups through a pipe. Returns the pipe's end and the guardian's id."""
    read_end, write_end = os.pipe()
    if pid := os.fork():
        os.close(read_end)
        return write_end, pid
    try:
        os.setsid()
        os.close(write_end)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        groups: set[int] = set()
        with os.fdopen(read_end) as pipe:
            for line in pipe:  # ends when the supervisor is gone, however it went
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        end_groups(sorted(groups), PATIENCE_OF_GUARDIAN)
    finally:
        os._exit(0)


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"
