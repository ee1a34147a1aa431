"""Every plan in a real JMeter against the real service: it passes where all is well, and fails where something is not."""

import csv
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from jmeter.stress import engine
from jmeter.stress.scenarios import PROCESSED, SCENARIOS
from tests.jmeter.core import CORE
from tests.jmeter.smoke.conftest import Ran
from tests.stack import Stack

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_plan_passes_and_reports(jmeter_run: Callable[..., Ran]) -> None:
    """A few users and a short file: all plans pass, and each leaves tables, figures, pictures and JMeter's dashboard."""
    ran = jmeter_run("all", "--smoke")
    assert ran.code == 0, ran.said
    for name, scenario in SCENARIOS.items():
        figures = ran.figures(name)
        assert figures["passed"] is True
        assert {row["label"]: row["samples"] for row in figures["rows"]}[scenario.main] == scenario.samples(
            scenario.smoke
        )
        folder = ran.folder / name
        assert (folder / "dashboard" / "index.html").stat().st_size > 1000
        pictures = ["aggregate.png", "times.png", *(["processed.png"] if scenario.main == PROCESSED else [])]
        assert all((folder / picture).read_bytes().startswith(PNG) for picture in pictures)
        with (folder / "aggregate.csv").open(newline="") as file:
            assert list(csv.reader(file))[-1][0] == "TOTAL"
        assert "ERROR" not in (folder / "jmeter.log").read_text()
    assert (ran.folder / "report.html").exists()
    conversion = {row["label"] for row in ran.figures("conversion")["rows"]}
    assert {"Sign up", "Log in", "Upload", "Look at the task", PROCESSED, "Download", "TOTAL"} == conversion
    assert ran.figures("capacity")["conversions"]["done"] == 3


def test_plan_makes_its_own_file(jmeter_run: Callable[..., Ran]) -> None:
    """With nothing named, as in JMeter's GUI, the plan makes a file to upload by itself."""
    ran = jmeter_run("conversion", "--users", "1", "--ramp", "0", "-J", "audio=", "--no-dashboard")
    assert ran.code == 0, ran.said
    sent = {row["label"]: row for row in ran.figures("conversion")["rows"]}["Upload"]
    assert sent["sent_kb"] * sent["most"] / 1000 == pytest.approx(2_980_000 / 1024, rel=0.01)


def test_what_is_no_audio_fails(jmeter_run: Callable[..., Ran], tmp_path: Path) -> None:
    """A task that ends FAILED is an error in the table, and the run ends with 1."""
    song = tmp_path / "song.mp3"
    song.write_text("la la la " * 5000)
    ran = jmeter_run("conversion", "--smoke", "--audio", str(song), "--no-dashboard")
    assert ran.code == 1, ran.said
    figures = ran.figures("conversion")
    rows = {row["label"]: row for row in figures["rows"]}
    assert (figures["conversions"]["done"], rows[PROCESSED]["error_percent"], rows["Upload"]["error_percent"]) == (
        0,
        100,
        0,
    )
    assert "Download" not in rows
    assert re.search(r"Task \d+ FAILED: not_audio", ran.said)
    assert "Scenario 1: conversion: FAILED" in ran.said


def test_what_is_never_processed_fails(jmeter_run: Callable[..., Ran], stack: Stack) -> None:
    """With the worker frozen the users give up after so many looks, and the run ends with 1."""
    stack.workers[0].stop()
    try:
        ran = jmeter_run("capacity", "--smoke", "-J", "tries=3", "--no-dashboard")
    finally:
        stack.workers[0].cont()
    assert ran.code == 1, ran.said
    assert ran.figures("capacity")["conversions"] == {**ran.figures("capacity")["conversions"], "asked": 3, "done": 0}
    assert re.search(r"Task \d+ is not PROCESSED after 3 looks", (ran.folder / "capacity" / "report.md").read_text())


def test_refused_sign_ups_fail(jmeter_run: Callable[..., Ran]) -> None:
    """Codes other than the expected are errors: here of accounts with a password that is too short."""
    ran = jmeter_run("login", "--smoke", "--password", "abc", "--no-dashboard")
    assert ran.code == 1, ran.said
    rows = {row["label"]: row for row in ran.figures("login")["rows"]}
    assert rows["Sign up"]["error_percent"] == rows["Log in"]["error_percent"] == 100
    assert "FAILED" in ran.said


def test_plans_name_nothing_that_jmeter_lacks() -> None:
    """The list that the quick tests hold the plans against is within what JMeter itself knows."""
    jmeter = engine.find("256m")
    program = Path(jmeter.command[-1]).resolve()
    known = (program.parent / "saveservice.properties").read_text()
    names = {
        name
        for line in known.splitlines()
        if "=" in line and line[0] not in "#_"
        for name in line.split("=")[0].split(",")
    }
    assert names >= CORE


class SigningService(BaseHTTPRequestHandler):
    """Answers as the contract says, at once, from a store that signs addresses: the download is a 302 to another place."""

    protocol_version = "HTTP/1.1"
    file = b"audio" * 1000
    tokens_at_the_store: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        task = {"id": 7, "state": "UPLOADED"}
        self._json({"message": "done", "token": "a.b.c", "refreshToken": "d.e.f", "expiresIn": 9, "task": task})

    def do_GET(self) -> None:
        if self.path.startswith("/bucket/"):
            self.tokens_at_the_store.append(self.headers.get("Authorization", ""))
            self._send(200, self.file, {"Content-Type": "audio/ogg"})
        elif self.path.endswith("/converted"):
            self._send(302, b"", {"Location": f"http://127.0.0.1:{self.server.server_port}/bucket/7?sign=x%2By"})  # type: ignore[attr-defined]
        else:
            self._json({"id": 7, "state": "PROCESSED", "result": {"bytes": len(self.file)}, "error": None})

    def _json(self, body: dict[str, object]) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


def test_signed_addresses(jmeter_run: Callable[..., Ran]) -> None:
    """Where the store signs addresses the file is fetched from there, checked as well, and the token stays away from it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SigningService) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ran = jmeter_run("conversion", "--smoke", "--no-dashboard", "-J", f"port={server.server_port}")
        server.shutdown()
    assert ran.code == 0, ran.said
    rows = {row["label"]: row["samples"] for row in ran.figures("conversion")["rows"]}
    assert (rows["Download"], rows["Download from the store"]) == (2, 2)
    assert SigningService.tokens_at_the_store == ["", ""]
