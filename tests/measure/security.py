"""Measures what an attacker could measure, and what an attack does to others. Run: python -m tests.measure.security

Timing: how long a log-in with an unknown e-mail and one with a wrong password take, in turns, TRIES (2000) each.
Flood: how long uploads and log-ins of honest people take, alone and while another address floods the service with
failing log-ins or with refused uploads. Prints a line of JSON for each figure.
"""

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.client import PASSWORD, Client, tone
from tests.stack import Stack

TRIES = int(os.environ.get("TRIES") or 2000)
SECONDS = float(os.environ.get("SECONDS") or 20)
FLOOD_RATE = float(os.environ.get("FLOOD_RATE") or 100)  # requests a second, from one address


class From(HTTPAdapter):
    """Connections from one of this machine's other loopback addresses, as from another client's machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **kwargs)


def say(figure: str, **values: object) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)  # noqa: T201


def milliseconds(call: Callable[[], requests.Response], *codes: int) -> float:
    began = time.perf_counter()
    answer = call()
    took = (time.perf_counter() - began) * 1000
    assert answer.status_code in codes, (answer.status_code, answer.text)
    return took


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def timing() -> None:
    """Unknown and wrong, in turns, so that whatever else happens on the machine happens to both."""
    off = {"LOGIN_FAILURES_PER_ACCOUNT": "off", "LOGIN_FAILURES_PER_ADDRESS": "off"}
    with Stack(web=1, workers=0, sweepers=0, database="postgres", environment=off) as stack:
        client = Client(stack.web[0].url).signup()
        session = requests.Session()

        def log_in(email: str) -> requests.Response:
            body = {"email": email, "password": "not-" + PASSWORD}
            return session.post(f"{client.url}/api/auth/login", json=body, timeout=30)

        took: dict[str, list[float]] = {"unknown": [], "wrong": []}
        for number in range(TRIES):
            pairs = [("unknown", f"nobody{number}@example.com"), ("wrong", client.email)]
            for kind, email in pairs if number % 2 else reversed(pairs):
                took[kind].append(milliseconds(lambda email=email: log_in(email), 401))  # type: ignore[misc]
        medians = {kind: round(statistics.median(values), 3) for kind, values in took.items()}
        say("timing", tries_each=TRIES, median_ms=medians,
            difference_ms=round(abs(medians["unknown"] - medians["wrong"]), 3))  # fmt: skip


class Flood(threading.Thread):
    """One address that sends at a fixed rate over a few kept connections, from a process of its own."""

    def __init__(self, kind: str, url: str, token: str) -> None:
        super().__init__()
        self._command = [sys.executable, "-m", "tests.measure.security", kind, url, token]
        self.codes: dict[str, int] = {}

    def run(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        said, _ = self._process.communicate()
        self.codes = json.loads(said)

    def stop(self) -> dict[str, int]:
        self._process.terminate()
        self.join()
        return self.codes


def flood(kind: str, url: str, token: str) -> None:
    """The flooding process: it yields the processor to the service, for a real attacker has a machine of its own."""
    os.nice(10)
    codes: dict[int, int] = {}
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    address, port = url.removeprefix("http://").split(":")
    headers = {"Content-Type": "application/json"}
    path, body = (
        "/api/auth/login",
        json.dumps({"email": "victim@example.com", "password": "guess-after-guess"}).encode(),
    )
    if kind == "uploads":
        path = "/api/tasks"
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {token}"}
        field = "Content-Disposition: form-data; name="
        body = (f'--b\r\n{field}"filename"\r\n\r\na.wav\r\n--b\r\n{field}"newFormat"\r\n\r\nflac\r\n--b\r\n{field}"audio"; '
                f'filename="a.wav"\r\n\r\n').encode() + tone(0.1) + b"\r\n--b--\r\n"  # fmt: skip

    def send() -> None:
        connection = http.client.HTTPConnection(address, int(port), timeout=30, source_address=("127.0.0.66", 0))
        while not stop.wait(4 / FLOOD_RATE):
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            codes[answer.status] = codes.get(answer.status, 0) + 1

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({str(code): number for code, number in sorted(codes.items())}))  # noqa: T201


def floods() -> None:
    """Honest uploads and log-ins for some seconds, in turns with the same while a flood goes on."""
    limits = {"CONVERSIONS_PER_ACCOUNT": "600 per minute", "WEB_WORKERS": "2", "WEB_THREADS": "16"}
    with Stack(web=1, workers=0, sweepers=0, database="postgres", environment=limits) as stack:
        url = stack.web[0].url
        honest = Client(url).signup().login()
        honest.session.mount("http://", From("127.0.0.7"))
        mallory = Client(url, "mallory@example.com").signup().login()
        token = str(mallory.session.headers["Authorization"]).removeprefix("Bearer ")
        audio = tone(1)

        def upload() -> requests.Response:
            form = {"filename": "a.wav", "newFormat": "flac"}
            return honest.session.post(f"{url}/api/tasks", data=form, files={"audio": ("a.wav", audio)}, timeout=30)

        def log_in() -> requests.Response:
            body = {"email": honest.email, "password": PASSWORD}
            return honest.session.post(f"{url}/api/auth/login", json=body, timeout=30)

        def some(seconds: float) -> dict[str, list[float]]:
            took: dict[str, list[float]] = {"upload": [], "log-in": []}
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                took["upload"].append(milliseconds(upload, 200))
                took["log-in"].append(milliseconds(log_in, 200))
                time.sleep(0.1)  # a person is no flood
            return took

        some(3)
        for kind in ("log-ins", "uploads"):
            alone: dict[str, list[float]] = {"upload": [], "log-in": []}
            during: dict[str, list[float]] = {"upload": [], "log-in": []}
            codes: dict[str, int] = {}
            for _ in range(2):
                for name, values in some(SECONDS / 2).items():
                    alone[name] += values
                attack = Flood(kind, url, token)
                attack.start()
                some(8)  # until the limits have noticed
                for name, values in some(SECONDS / 2).items():
                    during[name] += values
                for code, number in attack.stop().items():
                    codes[code] = codes.get(code, 0) + number
            for name in alone:
                before, after = p95(alone[name]), p95(during[name])
                say("flood", of=kind, a_second=FLOOD_RATE, answered=codes, of_others=name,
                    median_ms=[round(statistics.median(alone[name]), 1), round(statistics.median(during[name]), 1)],
                    p95_ms=[round(before, 1), round(after, 1)], p95_growth_percent=round((after / before - 1) * 100, 1),
                    samples=[len(alone[name]), len(during[name])])  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 4:
        flood(*sys.argv[1:])
    elif sys.argv[1:] == ["timing"]:
        timing()
    elif sys.argv[1:] == ["floods"]:
        floods()
    else:
        timing()
        floods()
