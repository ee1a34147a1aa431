"""The services that other tests stand on do what those tests assume of them."""

import io
import os
import socket
from collections.abc import Iterator

import psutil
import pytest
import redis
import requests
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import create_engine, text

from tests import services

ONCE = Retry(NoBackoff(), 0)  # the client's own retries would hide the faults


@pytest.fixture
def broker() -> Iterator[services.Redis]:
    with services.Redis(tcp=True) as server:
        yield server


def bucket_client(server: services.GcsEmulator) -> storage.Client:
    return storage.Client(
        project="test", credentials=AnonymousCredentials(), client_options=ClientOptions(api_endpoint=server.url)
    )


def test_redis_keeps_what_it_answered_over_a_kill(broker: services.Redis) -> None:
    """A write that Redis confirmed is there after SIGKILL and a restart; with keep_data=False it starts empty."""
    broker.client.set("key", "value")
    first = broker.pid
    broker.kill()
    assert not psutil.pid_exists(first)
    with pytest.raises(redis.ConnectionError):
        broker.client.ping()
    broker.start()
    assert broker.client.get("key") == b"value"
    broker.restart(keep_data=False)
    assert broker.client.get("key") is None


def test_a_stopped_service_answers_again_when_continued(broker: services.Redis) -> None:
    """SIGSTOP makes a client's read time out; after SIGCONT the same server answers."""
    impatient = redis.Redis(port=broker.port, socket_timeout=0.2, retry=ONCE)
    impatient.ping()
    broker.stop()
    with pytest.raises(redis.TimeoutError):
        impatient.ping()
    broker.cont()
    assert impatient.ping()


def test_redis_by_unix_socket_opens_no_port() -> None:
    """The default Redis of the tests can be reached by its socket alone."""
    with services.Redis() as server:
        assert server.client.ping()
        listening = psutil.Process(server.pid).net_connections(kind="inet")
        assert listening == []


def test_every_database_is_its_own(postgres_server: services.Postgres) -> None:
    """A database made from a template starts with the template's tables, and changes stay in it."""

    def build(url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE things (name text)"))
        engine.dispose()

    template = postgres_server.template("things", build)
    for _ in range(2):
        with postgres_server.database(template) as url:
            engine = create_engine(url)
            with engine.begin() as connection:
                assert connection.scalar(text("SELECT count(*) FROM things")) == 0
                connection.execute(text("INSERT INTO things VALUES ('one')"))
            engine.dispose()


def test_postgres_keeps_commits_over_a_kill() -> None:
    """A committed row survives SIGKILL of the whole server; restart(keep_data=False) starts empty."""
    with services.Postgres() as server:
        engine = create_engine(server.url("postgres"))
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE kept AS SELECT 7 AS seven"))
        engine.dispose()
        server.kill()
        server.start()
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT seven FROM kept")) == 7
        engine.dispose()
        server.restart(keep_data=False)
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT to_regclass('kept')")) is None
        engine.dispose()


def test_emulator_takes_resumable_uploads_and_keeps_them() -> None:
    """An upload in several chunks goes through, ranges are served, and a restart keeps objects and generations."""
    content = os.urandom(700_000)
    with services.GcsEmulator() as server:
        client = bucket_client(server)
        blob = client.bucket(server.create_bucket()).blob("1/a song.mp3")
        blob.chunk_size = 256 * 1024
        blob.upload_from_file(io.BytesIO(content))
        generation = blob.generation
        server.restart()
        again = blob.bucket.get_blob("1/a song.mp3")
        assert (again.generation, again.size) == (generation, len(content))
        assert again.download_as_bytes(start=100, end=199) == content[100:200]


def test_a_service_that_cannot_start_says_why() -> None:
    """Settings that the server refuses end in an error that quotes its log, and leave nothing behind."""
    broken = services.Redis(settings={"maxmemory-policy": "no-such-policy"})
    with pytest.raises(services.ServiceFailedError, match="maxmemory-policy"), broken:
        pass
    assert not broken.folder.exists()
    assert broken not in services.running


class TestTap:
    """The TCP proxy for faults on the wire, before a real Redis."""

    @pytest.fixture
    def tap(self, broker: services.Redis) -> Iterator[services.Tap]:
        with services.Tap(broker.port) as tap:
            yield tap

    @pytest.fixture
    def client(self, tap: services.Tap) -> redis.Redis:
        return redis.Redis(port=tap.port, socket_timeout=0.3, retry=ONCE)

    def test_passes_everything_on(self, client: redis.Redis) -> None:
        """A value larger than the proxy's buffer comes back unchanged."""
        client.set("large", bytes(3_000_000))
        assert client.get("large") == bytes(3_000_000)

    def test_cut_breaks_open_connections_only(self, client: redis.Redis, tap: services.Tap) -> None:
        """After a cut the old connection is reset and a new one works."""
        with socket.create_connection(("127.0.0.1", tap.port), timeout=5) as old:
            old.sendall(b"PING\r\n")
            assert old.recv(100) == b"+PONG\r\n"
            tap.cut()
            with pytest.raises(ConnectionResetError):
                old.recv(100)
        assert client.ping()
        assert tap.connections == 2

    def test_refuse_lets_nobody_in_until_restored(self, client: redis.Redis, tap: services.Tap) -> None:
        """New connections are refused, not merely left waiting."""
        client.ping()
        tap.refuse()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        tap.restore()
        assert client.ping()

    def test_hang_and_delay_make_a_client_wait(self, client: redis.Redis, tap: services.Tap) -> None:
        """A hung or slowed wire makes reads time out while the connection is accepted."""
        tap.hang()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        tap.restore()
        tap.delay(1)
        with pytest.raises(redis.TimeoutError):
            client.ping()
        tap.restore()
        assert client.ping()

    def test_resumable_uploads_stay_on_the_tap(self) -> None:
        """With `public_port` each chunk of a resumable upload passes through the Tap, so faults can reach it."""
        port = services.free_port()
        with services.GcsEmulator(public_port=port) as server, services.Tap(server.port, port=port) as tap:
            name = server.create_bucket()
            session = bucket_client(server).bucket(name).blob("1/x").create_resumable_upload_session(size=4)
            assert session.startswith(f"http://127.0.0.1:{port}/")
            tap.refuse()
            with pytest.raises(requests.ConnectionError):
                requests.put(session, data=b"four", timeout=5)
            tap.restore()
            assert requests.put(session, data=b"four", timeout=5).ok
