"""Passwords: which are refused, and how they are kept and compared. No HTTP and no database in here."""

import contextlib
import functools
import os
import runpy
import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from worker.contract.settings import cores

LONGEST = 128
_YIELDING = 2  # niceness: two thirds of the processor's time that an upload gets beside it


class Passwords:
    """argon2id with OWASP's figures: 19 MiB, 2 passes, 1 lane. One per process; threads share it."""

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        # A flood of log-ins gets so many processors and so much memory and no more, and yields to whatever else runs.
        self._threads = ThreadPoolExecutor(cores(), "argon2", initializer=_yield)
        # Verified when there is no account, so that the answer takes as long as for a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def complaint(self, password: str, *known: str) -> str | None:
        """Return why a password is not good enough, or None.

        known: what everybody knows of its owner, such as the name.
        """
        if not self._shortest <= len(password) <= LONGEST:
            return f"A password has {self._shortest} to {LONGEST} characters."
        if password.casefold() in {each.casefold() for each in known} or len(set(password)) < 3:
            return "This password is too easy to guess: take one that is not your name or e-mail."
        if f"\n{password.casefold()}\n" in _common():
            return "This password is among the most common ones, which are tried first: take another one."
        return None

    def hash(self, password: str) -> str:
        """Return what to keep of a password."""
        return self._threads.submit(self._hasher.hash, password).result()

    def verify(self, kept: str | None, password: str) -> bool:
        """Return whether a password is the one of which that was kept; None (no account) takes as long."""
        return self._threads.submit(self._matches, kept or self._nobody, password).result() and kept is not None

    def outdated(self, kept: str) -> bool:
        """Return whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(kept)

    def _matches(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


@functools.cache
def _common() -> str:
    """Return the common passwords of 8 characters and more that zxcvbn ships, in lower case, each between line feeds.

    One string of 106 KiB, read when the first account is made. Only the file with the lists is run: importing zxcvbn
    would build tables of every list, which nothing here needs.
    """
    package = find_spec("zxcvbn")
    if package is None or package.origin is None:
        raise ImportError("zxcvbn is missing.")
    lists = runpy.run_path(str(Path(package.origin).parent / "frequency_lists.py"))["FREQUENCY_LISTS"]
    return "\n" + "\n".join(word for word in lists["passwords"] if len(word) >= 8) + "\n"


def _yield() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        with contextlib.suppress(PermissionError):  # a sandbox may forbid it: hashing goes on as any other work
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)
