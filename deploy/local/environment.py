"""The environment that `make run` gives to the service: what the person set wins, the rest is embedded here."""

import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import URL

from deploy.local.binaries import RedisServer, find_redis
from deploy.local.supervisor import RunFailedError

SECRETS = ("JWT_SECRET_KEY",)
# A unix socket's name holds 107 bytes on Linux, 103 on macOS; and every client reads a `%` or `?` in its own way.
SOCKET_NAME_BYTES = 100
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")


@dataclass(slots=True)
class Settings:
    """What to run: `environment` is complete; `redis` is the embedded server to start, if any, on `socket`."""

    folder: Path
    port: int
    environment: dict[str, str] = field(repr=False)
    redis: RedisServer | None = None
    socket: Path | None = None


def private_folder(path: Path) -> Path:
    """Makes a folder that nobody else can enter, or makes an existing one so. Raises RunFailedError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = path.lstat()
        if here.st_uid != os.geteuid() or not stat.S_ISDIR(here.st_mode):
            raise RunFailedError(f"{path} belongs to somebody else.")
        path.chmod(0o700)
    except OSError as error:
        raise RunFailedError(f"Cannot use the folder {path}: {error.strerror}.") from None
    return path


def read_environment(project: Path) -> dict[str, str]:
    """The process's environment over the lines of `.env`; an empty value counts as not set."""
    merged = {**dotenv_values(project / ".env"), **os.environ}
    return {name: value for name, value in merged.items() if value}


def read_port(environment: dict[str, str]) -> int:
    """PORT, 5000 by default. Raises RunFailedError."""
    given = environment.get("PORT", "5000")
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
        raise RunFailedError(f"PORT must be a number from 1 to 65535, not {given!r}.")
    return int(given)


def complete(environment: dict[str, str], folder: Path, port: int) -> Settings:
    """Fills in what the person left out, with all data below `folder`. Raises RunFailedError, ProgramMissingError."""
    if "?" in str(folder):
        raise RunFailedError(f"The folder {folder} has a ? in its name, which no address of a file can hold.")
    settings = Settings(folder, port, {**_secrets(folder / "secrets.env"), **environment})
    fill = settings.environment.setdefault
    fill("PORT", str(port))
    fill("LOG_FORMAT", "text")
    fill("DATABASE_URL", URL.create("sqlite", database=str(folder / "swnube.db")).render_as_string())
    if "STORAGE_URL" not in environment:
        fill("STORAGE_URL", private_folder(folder / "store").as_uri())
    if not {"REDIS_URL", "REDIS_INSTANCE_IP"} & environment.keys():
        settings.redis = find_redis()
        settings.socket = _socket(folder)
        fill("REDIS_URL", f"unix://{settings.socket}")
    if not {"API_URL", "API_INSTANCE_IP"} & environment.keys():
        fill("API_URL", f"http://127.0.0.1:{port}")
    for name, inside in (("SCRATCH_DIR", "scratch"), ("PROMETHEUS_MULTIPROC_DIR", "metrics")):
        if name not in environment:
            fill(name, str(private_folder(folder / inside)))
    return settings


def _secrets(path: Path) -> dict[str, str]:
    """The secrets in the file, made when they are not there yet. A secret that the environment has wins elsewhere."""
    known = {name: value for name, value in dotenv_values(path).items() if value} if path.exists() else {}
    missing = [name for name in SECRETS if name not in known]
    if missing:
        known |= {name: secrets.token_urlsafe(48) for name in missing}
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name}={value}\n" for name, value in known.items())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    path.chmod(0o600)
    return known


def _socket(folder: Path) -> Path:
    """Where Redis listens: in `folder`, or, if that name is too long, in a private folder with a short one."""
    path = private_folder(folder / "redis") / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_NAME_BYTES and PLAIN.issuperset(str(path)):
        return path
    # The same name each time, so that nothing piles up after a run that could not clean up.
    name = f"swnube-{os.geteuid()}-{sha256(os.fsencode(folder)).hexdigest()[:16]}"
    return private_folder(Path(tempfile.gettempdir()) / name) / "redis.sock"
