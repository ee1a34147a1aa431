"""The addresses and limits that both tiers read from the environment. Nothing here connects to anything."""

import os
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from environs import Env, EnvError


class SettingsError(Exception):
    """A setting is missing or makes no sense; the message names the variable and says what is expected."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the other parts of the system are.

    redis_url: as redis-py reads it (``redis://``, ``rediss://`` or ``unix://``).
    storage_url: ``gs://bucket`` or ``file:///absolute/folder``.
    """

    redis_url: str
    storage_url: str

    @property
    def broker_url(self) -> str:
        """The same Redis in the spelling of Celery, which names a unix socket differently."""
        if self.redis_url.startswith("unix://"):
            return "redis+socket://" + self.redis_url.removeprefix("unix://").replace("?db=", "?virtual_host=")
        return self.redis_url


def read_addresses(env: Env) -> Addresses:
    """Read where Redis and the store are.

    Raises SettingsError when one of them is not named.
    """
    redis_url = text(env, "REDIS_URL", None)
    if not redis_url:
        host = text(env, "REDIS_INSTANCE_IP", None)
        if not host:
            raise SettingsError("Set REDIS_INSTANCE_IP to the host of Redis, or REDIS_URL to its whole address.")
        redis_url = f"redis://{bracketed(host)}:6379/0"
    if urlsplit(redis_url).scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("REDIS_URL must begin with redis://, rediss:// or unix://.")
    storage_url = text(env, "STORAGE_URL", None)
    if not storage_url or urlsplit(storage_url).scheme not in ("gs", "file"):
        raise SettingsError("Set STORAGE_URL to gs://bucket or file:///absolute/folder.")
    return Addresses(redis_url=redis_url, storage_url=storage_url)


def read_api_url(env: Env) -> str:
    """Return the origin of the API as workers reach it, without a slash at the end.

    Raises SettingsError when it is not named.
    """
    url = text(env, "API_URL", None)
    if url:
        if urlsplit(url).scheme not in ("http", "https"):
            raise SettingsError("API_URL must begin with http:// or https://.")
        return url.rstrip("/")
    host = text(env, "API_INSTANCE_IP", None)
    if not host:
        raise SettingsError("Set API_INSTANCE_IP to the balancer's host, or API_URL to its whole origin.")
    return f"http://{bracketed(host)}:5000"


def text(env: Env, name: str, default: str | None) -> str | None:
    """Return a variable without surrounding white space; an empty one counts as not set."""
    value = (env.str(name, None) or "").strip()
    return value or default


def number(env: Env, name: str, default: float, least: float, most: float) -> float:
    """Return a number within its range; raise SettingsError that names the variable when it is not."""
    try:
        value = env.float(name, default)
    except EnvError as error:
        raise SettingsError(f"{name} must be a number.") from error
    if value is None or not least <= value <= most:
        raise SettingsError(f"{name} must be between {least:g} and {most:g}.")
    return float(value)


def whole(env: Env, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number within its range; raise SettingsError that names the variable when it is not."""
    value = number(env, name, default, least, most)
    if value != int(value):
        raise SettingsError(f"{name} must be a whole number.")
    return int(value)


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else quote(host, safe="[]:")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
