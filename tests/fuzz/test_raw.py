"""Bytes on a bare connection to the service as it runs: whatever they are, the answer is a plain one, and comes."""

import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.client import Client
from tests.fuzz.conftest import ANSWERS, HANGS_AFTER, SEED, cases
from tests.stack import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One web instance; nothing is converted."""
    environment = {"WEB_WORKERS": "1", "WEB_PATIENCE_SECONDS": "2", "LOG_LEVEL": "WARNING",
                   "LOGIN_FAILURES_PER_ADDRESS": "off", "LOGIN_FAILURES_PER_ACCOUNT": "off",
                   "CONVERSIONS_PER_ACCOUNT": "off"}  # fmt: skip
    with Stack(web=1, workers=0, sweepers=0, environment=environment) as running:
        yield running


ODD = st.sampled_from([False] * 15 + [True])  # requests that are odd everywhere do not get past the first check


@st.composite
def _mostly(draw: st.DrawFn, usual: st.SearchStrategy[bytes], odd: st.SearchStrategy[bytes]) -> bytes:
    """The usual, now and then something odd."""
    return draw(odd) if draw(ODD) else draw(usual)


_methods = _mostly(
    st.sampled_from([b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"]),
    st.one_of(st.sampled_from([b"TRACE", b"get", b"G\0T"]), st.binary(min_size=1, max_size=12)),
)
_segment = _mostly(
    st.sampled_from(
        [b"api", b"auth", b"tasks", b"login", b"signup", b"refresh", b"logout", b"1", b"-1", b"9" * 25, b"original",
         b"converted", b"processed", b"claimed", b"released", b"formats", b"plan", b"docs", b"static", b"..", b".", b"%2e%2e", b"%00",
         b"%", b"%zz", b"download", b"healthz", b"readyz", b"metrics", b"openapi.json", b"\xff", b"a" * 200]
    ),
    st.binary(max_size=8),
)  # fmt: skip
_known = st.sampled_from([b"/api/auth/login", b"/api/auth/signup", b"/api/tasks", b"/api/tasks/1", b"/api/auth/refresh",
                          b"/api/formats/plan", b"/api/tasks/1/processed", b"/", b"/api/tasks/1/original"])  # fmt: skip
_query = st.one_of(
    st.just(b""),
    st.sampled_from(
        [b"?max=-1", b"?max=99999999999999999999", b"?order=2", b"?state=%00", b"?after=1e9", b"?name=%ff"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(lambda text: b"?" + text.encode()),
)
_paths = st.tuples(
    _mostly(
        st.one_of(_known, st.lists(_segment, max_size=5).map(lambda parts: b"/" + b"/".join(parts))),
        st.binary(max_size=20),
    ),
    _query,
).map(b"".join)
_values = _mostly(
    st.sampled_from([b"application/json", b"multipart/form-data; boundary=b", b"Bearer x", b"Bearer x.y.z", b"cookie",
                     b"gzip", b"chunked", b"100-continue", b"bytes=0-", b"bytes=9-1", b"*", b"close", b"1" * 5000]),
    st.binary(max_size=30),
)  # fmt: skip
_headers = st.lists(
    st.tuples(
        _mostly(
            st.sampled_from([b"Content-Type", b"Authorization", b"Cookie", b"Range", b"Expect", b"X-Refresh-In",
                             b"X-Forwarded-For", b"X-Request-ID", b"Accept", b"Content-Encoding", b"If-None-Match",
                             b"Upgrade", b"Origin", b"Sec-Fetch-Site", b"X-Request-ID"]),
            st.one_of(st.sampled_from([b"Transfer-Encoding", b"Content-Length"]), st.binary(min_size=1, max_size=15)),
        ),
        _values,
    ),
    max_size=3,
)  # fmt: skip
_bodies = st.one_of(
    st.just(b""), st.binary(max_size=400),
    st.sampled_from([b"{}", b"[]", b"null", b'{"email": "ana@example.com", "password": "Trombone-9-gris"}',
                     b'{"newFormat": "ogg", "probe": {}}', b"{" * 5000, b"[" * 100000, b'{"a":' * 9000,
                     b'{"max": 1e999}', b'"\\ud800"', b"--b\r\n\r\n--b--", b"0\r\n\r\n", b"ffffffffffffffff\r\nx"]),
)  # fmt: skip


@st.composite
def requests_(draw: st.DrawFn, bearer: bytes) -> bytes:
    """A request, more or less."""
    if draw(ODD):
        return draw(st.binary(min_size=1, max_size=500))
    body = draw(_bodies)
    version = draw(st.sampled_from([*[b"HTTP/1.1"] * 12, b"HTTP/1.0", b"HTTP/2.0", b""]))
    lines = [draw(_methods) + b" " + draw(_paths) + b" " + version, b"Host: x", b"Connection: close"]
    framing = draw(st.sampled_from([*["right"] * 6, "chunked", "chunked", "none", "short", "long"]))
    if framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif framing != "none":
        lines.append(b"Content-Length: %d" % max(0, len(body) + {"right": 0, "short": -3, "long": 7}[framing]))
    if draw(st.booleans()):
        lines.append(b"Authorization: Bearer " + bearer)
    if draw(st.booleans()):
        lines.append(
            b"Content-Type: " + draw(st.sampled_from([b"application/json", b"multipart/form-data; boundary=b"]))
        )
    lines += [name + b": " + value for name, value in draw(_headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_any_bytes_get_a_plain_answer(stack: Stack) -> None:
    """Methods, paths, headers, framing and bodies of any kind: no 5xx, no hang, and the service lives on."""
    web = stack.web[0]
    client = Client(web.url).signup().login()
    bearer = str(client.session.headers["Authorization"]).removeprefix("Bearer ").encode()

    @seed(SEED)
    @cases(0.3)
    @given(request=requests_(bearer))
    def one(request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", web.port), timeout=HANGS_AFTER) as connection:
            answer = b""
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    answer += data
            except TimeoutError:
                raise
            except OSError:
                pass  # refused before all of it was said
        match = re.match(rb"(?:HTTP/1\.1 100 Continue\r\n\r\n)?HTTP/1\.[01] (\d{3}) ", answer)
        code = int(match[1]) if match else 0
        kind = "by the service" if b"\r\nX-Request-ID:" in answer else "before it"
        ANSWERS[f"raw, {kind}", code] += 1
        assert match or not answer, answer[:200]
        assert code < 500, answer[:500]
        assert b"Traceback" not in answer

    one()
    assert client.tasks() is not None
    errors = [line for line in web.log_path.read_text(errors="replace").splitlines() if "request.failed" in line]
    assert errors == []
