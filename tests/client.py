"""An HTTP client of the service, written against the wire contract alone, and audio to send."""

import io
import math
import struct
import wave
from collections.abc import Iterable
from typing import Any, Self

import requests

from tests.services import wait_for

PASSWORD = "Trombone-9-gris"
ENDED = ("PROCESSED", "FAILED")
Task = dict[str, Any]


class Client:
    """One person with a browser, say. Each method asserts the status that the contract names."""

    def __init__(self, url: str, email: str = "ana@example.com") -> None:
        self.url = url
        self.email = email
        self.session = requests.Session()
        self.refresh_token = ""

    def call(self, method: str, path: str, *, status: int = 200, **arguments: Any) -> requests.Response:
        """Sends one request and asserts the status of its answer."""
        answer = self.session.request(method, self.url + path, **{"timeout": 60, **arguments})
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer

    def signup(self) -> Self:
        """Makes the account."""
        name = self.email.partition("@")[0]
        body = {"user": name, "email": self.email, "password1": PASSWORD, "password2": PASSWORD}
        self.call("POST", "/api/auth/signup", json=body)
        return self

    def login(self) -> Self:
        """Takes a token, which every later call carries."""
        said = self.call("POST", "/api/auth/login", json={"email": self.email, "password": PASSWORD}).json()
        self.refresh_token = said["refreshToken"]
        self.session.headers["Authorization"] = f"Bearer {said['token']}"
        return self

    def refresh(self) -> Self:
        """Takes a new token for the refresh token."""
        bearer = {"Authorization": f"Bearer {self.refresh_token}"}
        said = self.call("POST", "/api/auth/refresh", headers=bearer).json()
        self.refresh_token = said["refreshToken"]
        self.session.headers["Authorization"] = f"Bearer {said['token']}"
        return self

    def logout(self) -> None:
        """Ends the session on every instance."""
        self.call("POST", "/api/auth/logout")

    def upload(self, audio: bytes, filename: str, new_format: str, **options: object) -> Task:
        """Sends a file to convert and returns its task."""
        form = {"filename": filename, "newFormat": new_format, **{name: str(value) for name, value in options.items()}}
        task: Task = self.call("POST", "/api/tasks", data=form, files={"audio": (filename, audio)}).json()["task"]
        return task

    def task(self, number: int, status: int = 200) -> Task:
        """One task as it is now."""
        task: Task = self.call("GET", f"/api/tasks/{number}", status=status).json()
        return task

    def tasks(self, **query: object) -> list[Task]:
        """The list of tasks: max, order, state."""
        tasks: list[Task] = self.call("GET", "/api/tasks", params=query).json()
        return tasks

    def wait(self, number: int, states: Iterable[str] = ENDED, seconds: float = 60) -> Task:
        """Polls a task until it is in one of the states, and returns it. Raises TimeoutError with its last state."""
        last: Task = {}

        def reached() -> bool:
            last.update(self.task(number))
            return last["state"] in states

        try:
            wait_for(reached, f"task {number} is {' or '.join(states)}", seconds, every=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {last}") from None
        return last

    def change(self, number: int, new_format: str, **options: object) -> Task:
        """Asks for another conversion of the original."""
        task: Task = self.call("PUT", f"/api/tasks/{number}", json={"newFormat": new_format, **options}).json()
        return task

    def delete(self, number: int) -> None:
        """Removes a task and its files."""
        self.call("DELETE", f"/api/tasks/{number}")

    def original(self, number: int) -> bytes:
        """The file as it was sent."""
        return self.call("GET", f"/api/tasks/{number}/original").content

    def converted(self, number: int) -> bytes:
        """The converted file."""
        return self.call("GET", f"/api/tasks/{number}/converted").content


def tone(seconds: float = 1.0, hertz: int = 440, rate: int = 44100) -> bytes:
    """A mono 16-bit WAV with a sine tone."""
    frames = round(seconds * rate)
    second = struct.pack(
        f"<{rate}h", *(round(12000 * math.sin(math.tau * hertz * frame / rate)) for frame in range(rate))
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((second * math.ceil(seconds))[: frames * 2])
    return file.getvalue()
