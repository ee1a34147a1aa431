"""Clients that cost little, so that what is measured is the service: whole requests made once and sent as they are."""

import asyncio
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

    def __init__(self, url: str, email: str = "") -> None:
        """Make an account, unless one is named."""
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        name = f"u{secrets.token_hex(6)}"
        self.email = email or f"{name}@example.com"
        self.headers: dict[str, str] = {}
        if email:
            return
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


class Crowd:
    """Many people at once, each with a connection of their own, in one thread."""

    def __init__(self, url: str, people: "list[Person]") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._people = people

    def all_at_once(self, forms: list[bytes]) -> list[Answer]:
        """Everybody uploads at the same moment, on a new connection."""

        async def run() -> list[Answer]:
            return await asyncio.gather(
                *(self._once(person, form) for person, form in zip(self._people, forms, strict=True))
            )

        return asyncio.run(run())

    def stream(
        self, seconds: float, rate: float, forms: list[bytes] | None = None, path: str = "/api/tasks"
    ) -> list[Answer]:
        """Everybody stays connected; in turn they upload or, without forms, read `path`: `rate` a second in all.

        They begin when it is time, however late earlier answers are.
        """

        async def run() -> list[Answer]:
            lines = [await asyncio.open_connection(self._host, self._port) for _ in self._people]
            asked: list[asyncio.Task[Answer]] = []
            began = time.perf_counter()
            for number in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                who = number % len(lines)
                form = forms[number % len(forms)] if forms else b""
                asked.append(asyncio.create_task(self._send(*lines[who], self._people[who], form, path)))
            answers = await asyncio.gather(*asked)
            for _, writer in lines:
                writer.close()
            return answers

        return asyncio.run(run())

    async def _once(self, person: Person, form: bytes) -> Answer:
        began = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            return Answer(0, b"", time.perf_counter() - began)
        answer = await self._send(reader, writer, person, form)
        writer.close()
        return Answer(answer.status, answer.body, time.perf_counter() - began)

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, person: Person, form: bytes,
        path: str = "/api/tasks",
    ) -> Answer:  # fmt: skip
        began = time.perf_counter()
        head = {"Host": f"{self._host}:{self._port}", **person.headers}
        if form:
            head |= {"Content-Type": FORM_TYPE, "Content-Length": str(len(form))}
        lines = [f"{'POST' if form else 'GET'} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode())
            writer.write(form)
            await writer.drain()
            answer_head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(answer_head.partition("content-length:")[2].split("\r\n", 1)[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            return Answer(0, b"", time.perf_counter() - began)
        return Answer(int(answer_head.split(" ", 2)[1]), body, time.perf_counter() - began)
