"""Clients that cost little, so that what is measured is the service: whole requests made once and sent as they are."""

import http.client
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.client import PASSWORD

_BOUNDARY = "swnube-bench-boundary"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the seconds from the first byte sent to the last one received."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


class Person:
    """Somebody with an account and a connection that stays open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        name = f"u{secrets.token_hex(6)}"
        self.email = f"{name}@example.com"
        self.headers: dict[str, str] = {}
        body = {"user": name, "email": self.email, "password1": PASSWORD, "password2": PASSWORD}
        self.expect(200, "POST", "/api/auth/signup", body)

    def log_in(self) -> Self:
        said = self.expect(200, "POST", "/api/auth/login", {"email": self.email, "password": PASSWORD})
        self.headers = {"Authorization": f"Bearer {said['token']}"}
        return self

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Answer:
        """One request; raises OSError or HTTPException when no answer came."""
        headers = {**self.headers, "Content-Type": kind} if body else self.headers
        began = time.perf_counter()
        self._connection.request(method, path, body, headers)
        reply = self._connection.getresponse()
        data = reply.read()
        return Answer(reply.status, data, time.perf_counter() - began)

    def expect(self, status: int, method: str, path: str, body: Any = None) -> Any:
        answer = self.send(method, path, b"" if body is None else json.dumps(body).encode())
        if answer.status != status:
            raise AssertionError(f"{method} {path}: {answer.status} {answer.body[:500]!r}")
        return answer.json()

    def upload(self, form: bytes) -> Answer:
        """Send a form that `upload_form` made."""
        return self.send("POST", "/api/tasks", form, FORM_TYPE)


FORM_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


def upload_form(audio: bytes, name: str, target: str, **options: object) -> bytes:
    """Return the body of an upload."""
    fields = {"filename": name, "newFormat": target, **options}
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="audio"; filename="{name}"\r\n\r\n'
    return b"".join([*parts, head.encode(), audio, f"\r\n--{_BOUNDARY}--\r\n".encode()])
