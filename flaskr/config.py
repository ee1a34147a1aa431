"""The web tier's settings: read from the environment once, refused when missing or senseless."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import urlsplit

from environs import Env

from flaskr.keys import LEAST_BYTES, SigningKeys
from flaskr.limits import Limit
from worker.contract.settings import Addresses, SettingsError, number, read_addresses, text, whole

MIB = 1024 * 1024
GIB = 1024 * MIB
HOUR = 3600
_OVERFLOW = 2  # connections beyond the pool in a rush


@dataclass(frozen=True)
class Config:
    """Every setting of the web tier; sizes in bytes and times in seconds. README.md lists the variables."""

    addresses: Addresses
    database_url: str = field(repr=False)
    jwt_secret_key: str = field(repr=False)
    jwt_secret_keys_old: tuple[str, ...] = field(default=(), repr=False)
    access_token_seconds: int = HOUR
    refresh_token_seconds: int = 30 * 24 * HOUR
    password_min_length: int = 8
    max_upload_bytes: int = 1024 * MIB
    max_waiting_tasks: int = 20_000
    max_stored_bytes: int = 100 * GIB
    keep_task_seconds: int = 0
    login_failures_per_account: str = "100 per hour"
    login_failures_per_address: str = "300 per 5 minutes"
    sign_ups_per_address: str = "1000 per 10 minutes"
    conversions_per_account: str = "3000 per minute"
    download_url_seconds: int = 300
    lease_seconds: float = 45
    resend_seconds: float = 30
    receiving_seconds: float = HOUR
    tidy_seconds: float = 900
    max_tries: int = 3
    max_sends: int = 12
    trusted_proxies: int = 0
    proxy_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    database_pool: int = 10

    @classmethod
    def from_environment(cls) -> "Config":
        """Read the settings.

        Raises SettingsError that names the variable and says what is expected.
        """
        env = Env()
        return cls(
            addresses=read_addresses(env),
            database_url=_database_url(env),
            jwt_secret_key=_secret(env),
            jwt_secret_keys_old=_old_secrets(env),
            access_token_seconds=whole(env, "ACCESS_TOKEN_SECONDS", HOUR, 60, 24 * HOUR),
            refresh_token_seconds=whole(env, "REFRESH_TOKEN_SECONDS", 30 * 24 * HOUR, HOUR, 366 * 24 * HOUR),
            password_min_length=whole(env, "PASSWORD_MIN_LENGTH", 8, 8, 64),
            max_upload_bytes=whole(env, "MAX_UPLOAD_BYTES", 1024 * MIB, 1024, 100 * 1024 * MIB),
            max_waiting_tasks=whole(env, "MAX_WAITING_TASKS", 20_000, 1, 10**9),
            max_stored_bytes=whole(env, "MAX_STORED_BYTES", 100 * GIB, 0, 2**60),
            keep_task_seconds=whole(env, "KEEP_TASK_SECONDS", 0, 0, 100 * 366 * 24 * HOUR),
            login_failures_per_account=_rate(env, "LOGIN_FAILURES_PER_ACCOUNT", "100 per hour"),
            login_failures_per_address=_rate(env, "LOGIN_FAILURES_PER_ADDRESS", "300 per 5 minutes"),
            sign_ups_per_address=_rate(env, "SIGN_UPS_PER_ADDRESS", "1000 per 10 minutes"),
            conversions_per_account=_rate(env, "CONVERSIONS_PER_ACCOUNT", "3000 per minute"),
            download_url_seconds=whole(env, "DOWNLOAD_URL_SECONDS", 300, 10, HOUR),
            lease_seconds=number(env, "LEASE_SECONDS", 45, 1, HOUR),
            resend_seconds=number(env, "RESEND_SECONDS", 30, 0.5, HOUR),
            receiving_seconds=number(env, "RECEIVING_SECONDS", HOUR, 1, 24 * HOUR),
            tidy_seconds=number(env, "TIDY_SECONDS", 900, 1, 24 * HOUR),
            max_tries=whole(env, "MAX_TRIES", 3, 1, 20),
            trusted_proxies=whole(env, "TRUSTED_PROXIES", 0, 0, 5),
            proxy_networks=_networks(env),
            cors_origins=_origins(env),
            database_pool=whole(env, "DATABASE_POOL", 10, 1, 200),
        )

    @property
    def keys(self) -> SigningKeys:
        """What signs and verifies tokens."""
        return SigningKeys(self.jwt_secret_key, self.jwt_secret_keys_old)

    @property
    def database_connections(self) -> int:
        """As many connections one process may have at once."""
        return self.database_pool + _OVERFLOW

    def flask(self) -> Mapping[str, object]:
        """Return what Flask and its extensions read from their own configuration."""
        return {
            "SQLALCHEMY_DATABASE_URI": self.database_url,
            "SQLALCHEMY_ENGINE_OPTIONS": self._engine_options(),
            "MAX_CONTENT_LENGTH": self.max_upload_bytes + MIB,  # the file, and what surrounds it
            "MAX_FORM_MEMORY_SIZE": 256 * 1024,  # all text fields; above the 64 KiB that are parsed at a time
            "MAX_FORM_PARTS": 50,
            "CORS_ORIGINS": self.cors_origins,
            "JWT_ALGORITHM": "HS256",
            "JWT_DECODE_ALGORITHMS": ["HS256"],
            "JWT_ACCESS_TOKEN_EXPIRES": self.access_token_seconds,
            "JWT_REFRESH_TOKEN_EXPIRES": self.refresh_token_seconds,
            "JWT_ERROR_MESSAGE_KEY": "error",
            "PROPAGATE_EXCEPTIONS": False,
            "API_TITLE": "SWNube",
            "API_VERSION": "1",
            "OPENAPI_VERSION": "3.1.0",
        }

    def _engine_options(self) -> dict[str, object]:
        if self.database_url.startswith("sqlite"):
            return {"connect_args": {"timeout": 30}}
        return {
            "pool_size": self.database_pool,
            "max_overflow": _OVERFLOW,
            "pool_timeout": 5,  # then the request gets 503, instead of waiting behind all the others
            "pool_recycle": 1800,
            "connect_args": {"connect_timeout": 3, "application_name": "swnube", "options": "-c timezone=utc"},
        }


def _listed(env: Env, name: str) -> list[str]:
    return [part.strip() for part in (text(env, name, "") or "").split(",") if part.strip()]


def _networks(env: Env) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part) for part in _listed(env, "PROXY_NETWORKS"))
    except ValueError as error:
        raise SettingsError("PROXY_NETWORKS must hold networks such as 10.0.0.0/8, separated by commas.") from error


def _origins(env: Env) -> tuple[str, ...]:
    origins = tuple(_listed(env, "CORS_ORIGINS"))
    if not all(re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) for origin in origins):
        raise SettingsError("CORS_ORIGINS must hold origins such as https://app.example.com, separated by commas.")
    return origins


def _rate(env: Env, name: str, default: str) -> str:
    rate = (text(env, name, default) or default).lower()
    try:
        _ = Limit(name, rate, "").item
    except ValueError as error:
        raise SettingsError(f"{name} must be a rate such as “{default}”, or “off”.") from error
    return rate


def _database_url(env: Env) -> str:
    url = text(env, "DATABASE_URL", None)
    if not url:
        raise SettingsError("Set DATABASE_URL, for example to postgresql://user:password@host/swnube.")
    scheme = urlsplit(url).scheme
    if scheme in ("postgres", "postgresql"):
        return "postgresql+psycopg2" + url[len(scheme) :]
    if scheme not in ("postgresql+psycopg2", "sqlite"):
        raise SettingsError("DATABASE_URL must begin with postgresql:// or sqlite:///.")
    return url


def _secret(env: Env) -> str:
    secret = text(env, "JWT_SECRET_KEY", None)
    if not secret:
        raise SettingsError(
            "Set JWT_SECRET_KEY to a secret of at least 32 bytes, the same on every instance; "
            'python3 -c "import secrets; print(secrets.token_hex(32))" makes one.'
        )
    if len(secret.encode()) < LEAST_BYTES:
        raise SettingsError(f"JWT_SECRET_KEY is too short: it must have at least {LEAST_BYTES} bytes.")
    return secret


def _old_secrets(env: Env) -> tuple[str, ...]:
    secrets = tuple(_listed(env, "JWT_SECRET_KEYS_OLD"))
    if any(len(secret.encode()) < LEAST_BYTES for secret in secrets):
        raise SettingsError(
            f"JWT_SECRET_KEYS_OLD must hold secrets of at least {LEAST_BYTES} bytes each, separated by commas."
        )
    return secrets
