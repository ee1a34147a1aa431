"""Bare connections: slow clients, bodies without a length, requests that two readers would read in two ways."""

import socket
from collections.abc import Callable

import pytest
import requests

from tests.client import Client
from tests.services import wait_for
from tests.stack import Stack

Connect = Callable[[], socket.socket]


def reply(connection: socket.socket) -> bytes:
    """Everything that comes back until the other side closes; a reset ends it as well."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def status(answer: bytes) -> int:
    """The status of the first answer; 0 when there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def test_silent_and_half_said_requests_hold_nobody_up(stack: Stack, ana: Client, connect: Connect) -> None:
    """Three times as many silent connections as threads: others are served meanwhile. Half requests are given up."""
    silent = [connect() for _ in range(12)]
    assert len(ana.tasks()) >= 0
    half = [connect() for _ in range(4)]
    for connection in half:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    # All four threads wait for the rest of those; when that has lasted too long, whoever waits is served.
    assert requests.get(f"{stack.web[0].url}/healthz", timeout=30).status_code == 200
    assert [reply(connection) for connection in (*half, *silent)] == [b""] * 16


def test_a_trickling_upload_is_given_up(stack: Stack, ana: Client, connect: Connect) -> None:
    """A body that comes byte by byte is cut off after the patience of a few seconds, and leaves nothing behind."""
    before = len(ana.tasks())
    bearer = ana.session.headers["Authorization"]
    trickling = [connect() for _ in range(4)]
    for connection in trickling:
        head = (f"POST /api/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer!s}\r\nContent-Length: 100000\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")  # fmt: skip
        connection.sendall(head.encode())

    gone: set[int] = set()

    def all_gone() -> bool:
        for number, connection in enumerate(trickling):
            try:
                connection.sendall(b"x")
            except OSError:
                gone.add(number)
        return len(gone) == len(trickling)

    wait_for(all_gone, "the service gives the trickling clients up", every=0.1)
    assert len(ana.tasks()) == before
    assert requests.get(f"{stack.web[0].url}/healthz", timeout=30).status_code == 200


@pytest.mark.parametrize("path", ["/api/tasks", "/api/auth/login"])
def test_chunks_without_a_length_are_counted(ana: Client, path: str) -> None:
    """A chunked body that never says how long it is gets 413 once it is too long."""

    def endless() -> object:
        yield b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.mp3"\r\n\r\n'
        for _ in range(64):
            yield b"x" * 65536

    kind = "multipart/form-data; boundary=b" if path == "/api/tasks" else "application/json"
    try:
        answer = ana.session.post(ana.url + path, data=endless(), headers={"Content-Type": kind}, timeout=30)
    except requests.ConnectionError:
        return  # closed in the middle of sending: refused all the same
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length: 4_0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n",
        b"Transfer\0-Encoding: chunked\r\n",
        b" Transfer-Encoding: chunked\r\n",
    ],
)
def test_a_request_that_two_could_read_in_two_ways_is_refused(connect: Connect, head: bytes) -> None:
    """What could hide a second request from a balancer gets 400 or no answer, and the connection ends with it."""
    connection = connect()
    hidden = b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    connection.sendall(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head +
                       b"\r\n0\r\n\r\n" + hidden)  # fmt: skip
    connection.shutdown(socket.SHUT_WR)
    answer = reply(connection)
    assert status(answer) in (0, 400, 501), answer
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"alive" not in answer


@pytest.mark.parametrize(
    ("request_", "codes"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (400, 414)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20000 + b"\r\n\r\n", (400, 431)),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", (400, 431)),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", (400, 505)),
        (b"GET http://169.254.169.254/computeMetadata/v1/ HTTP/1.1\r\nHost: metadata\r\n\r\n", (400, 404)),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", (400, 404, 405)),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", (405,)),
        (b"GET /static/../../flaskr/config.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (404,)),
        (b"GET /static/%2e%2e/%2e%2e/config.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (404,)),
        (b"GET /static/..%5c..%5cconfig.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (404,)),
        (b"GET /static//etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (308, 404)),
        (b"GET /api/docs/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (400, 404)),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (400, 404)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (0, 400, 505)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n", (200,)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (0, 400)),
    ],
)  # fmt: skip
def test_oversized_and_odd_requests_get_a_plain_no(connect: Connect, request_: bytes, codes: tuple[int, ...]) -> None:
    """Long lines, many headers, other protocols, paths that climb: refused, and nothing of the machine shows."""
    connection = connect()
    connection.sendall(request_)
    connection.shutdown(socket.SHUT_WR)
    answer = reply(connection)
    assert status(answer) in codes, answer[:300]
    assert b"Traceback" not in answer
    assert b"root:" not in answer


def test_a_client_that_says_who_forwarded_it_is_not_believed(stack: Stack, ana: Client) -> None:
    """Without a configured balancer neither the client's address nor its scheme come from its own words."""
    headers = {"X-Forwarded-For": "192.0.2.99", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
               "Forwarded": "for=192.0.2.99;proto=https", "X-Request-ID": "trail-of-the-forged"}  # fmt: skip
    answer = requests.get(f"{stack.web[0].url}/api/tasks", headers=headers, timeout=30)
    assert "Strict-Transport-Security" not in answer.headers
    line = wait_for(
        lambda: next((s for s in stack.web[0].log_path.read_text().splitlines() if "trail-of-the-forged" in s), None),
        "the request is logged",
    )
    assert '"address": "127.0.0.1"' in line
    assert "192.0.2.99" not in line
