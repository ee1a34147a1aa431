"""Settings are refused when missing or senseless, with a line that names them."""

import pytest
from environs import Env

from flaskr.config import Config
from worker.contract.settings import SettingsError, read_addresses, read_api_url

GOOD = {"DATABASE_URL": "sqlite:////x.db", "STORAGE_URL": "file:///x", "REDIS_INSTANCE_IP": "10.0.0.3",
        "JWT_SECRET_KEY": "s" * 32, "API_INSTANCE_IP": "10.0.0.2"}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*GOOD, "REDIS_URL", "API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_hosts_become_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two host variables give the usual ports; the whole URLs replace them."""
    assert Config.from_environment().addresses.redis_url == "redis://10.0.0.3:6379/0"
    assert read_api_url(Env()) == "http://10.0.0.2:5000"
    monkeypatch.setenv("REDIS_URL", "unix:///run/redis.sock")
    monkeypatch.setenv("API_URL", "https://audio.example.com/")
    assert read_addresses(Env()).broker_url == "redis+socket:///run/redis.sock"
    assert read_api_url(Env()) == "https://audio.example.com"


@pytest.mark.parametrize(
    ("name", "value"),
    [("JWT_SECRET_KEY", ""), ("JWT_SECRET_KEY", "s" * 31), ("JWT_SECRET_KEYS_OLD", "short," + "s" * 32), ("DATABASE_URL", ""), ("DATABASE_URL", "mysql://x"),
     ("STORAGE_URL", ""), ("STORAGE_URL", "/srv"), ("REDIS_INSTANCE_IP", ""), ("MAX_UPLOAD_BYTES", "much"),
     ("LEASE_SECONDS", "0"), ("MAX_TRIES", "1.5"), ("PASSWORD_MIN_LENGTH", "4")],
)  # fmt: skip
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """There is no default secret and no guessing: the line says which variable is wrong."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        Config.from_environment()


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a secret nor the database's password appears when settings are printed."""
    monkeypatch.setenv("JWT_SECRET_KEYS_OLD", f"{'o' * 32}, {'p' * 32}")
    config = Config.from_environment()
    assert config.jwt_secret_keys_old == ("o" * 32, "p" * 32)
    assert not any(secret in repr((config, config.keys)) for secret in ("ssss", "oooo", "pppp"))
