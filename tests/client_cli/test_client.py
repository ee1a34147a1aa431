"""What the command-line client does for a person, and what it does when the way to the service is bad."""

import json
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import audio
from tests.client_cli.conftest import Person
from tests.services import Tap, free_port, wait_for
from tests.stack import PROJECT, Stack


def seconds(path: Path) -> float:
    return len(audio.samples(path, 8_000, 1, "s16le")) / 16_000


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_files_are_converted_side_by_side(person: Person) -> None:
    """Three files come out beside their originals, as asked, under their own names; what is there is not replaced."""
    for name in ("one.wav", "twó 🎵.wav", "three.wav"):
        audio.make(person.folder / name, 2)
    (person.folder / "one.opus").write_bytes(b"mine")
    said = person.json("convert", "one.wav", "twó 🎵.wav", "three.wav", "--to", "opus", "--bitrate", "96")
    assert [item["state"] for item in said] == ["done"] * 3
    assert (person.folder / "one.opus").read_bytes() == b"mine"
    for name in ("one (2).opus", "twó 🎵.opus", "three.opus"):
        assert seconds(person.folder / name) == pytest.approx(2, abs=0.05)
    assert {item["result"]["codec"] for item in said} == {"opus"}
    assert not [path for path in person.folder.iterdir() if path.suffix == ".part"]
    assert person.run("resume") == ""  # nothing is left to do


def test_the_session_is_its_owners_alone(person: Person) -> None:
    """The file with the tokens has mode 0600, the password is in none, and after logout there is no session."""
    kept = person.home / "session.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "Trombone" not in kept.read_text()
    person.run("list")
    person.run("logout")
    assert "swnube login" in person.run("list", code=3)
    person.run("login")
    person.run("list")
    assert "wrong" in person.run("login", code=3, SWNUBE_PASSWORD="not this one")


def test_one_bad_file_does_not_stop_the_others(person: Person) -> None:
    """What is no audio ends with its reason and exit code 1; the other file is there."""
    (person.folder / "noise.mp3").write_bytes(b"this is not audio " * 99)
    (person.folder / "letter.docx").write_bytes(b"x")
    audio.make(person.folder / "good.wav", 1)
    out = person.folder / "out"
    said = person.json("convert", "noise.mp3", "letter.docx", "good.wav", "--to", "flac", "-o", str(out), code=1)
    ended = {Path(item["source"]).name: item for item in said}
    assert ended["noise.mp3"]["code"] == "not_audio"
    assert (ended["letter.docx"]["state"], ended["letter.docx"]["code"]) == ("failed", "400")
    assert [path.name for path in out.iterdir()] == ["good.flac"]


def test_what_cannot_be_is_refused_before_anything_is_sent(person: Person) -> None:
    """Unknown formats, unknown options and values out of the service's range are told with what would do: exit code 2."""
    audio.make(person.folder / "a.wav", 1)
    assert "It can write: " in person.run("convert", "a.wav", "--to", "exe", code=2)
    assert "It can be: 8, 16, 24" in person.run("convert", "a.wav", "--to", "mp3", "--bitrate", "97", code=2)
    assert "0 to 9" in person.run("convert", "a.wav", "--to", "mp3", "--quality", "12", code=2)
    assert "wav has no option bitrateKbps" in person.run("convert", "a.wav", "--to", "wav", "--bitrate", "96", code=2)
    assert "has no option volume" in person.run("convert", "a.wav", "--to", "wav", "--option", "volume=9", code=2)
    assert "no such file" in person.run("convert", "b.wav", "--to", "wav", code=5)
    assert person.json("list") == []


def test_every_option_of_the_service_can_be_asked_for(person: Person) -> None:
    """`formats` shows each option with its range and its name here; all of one format's together reach the result."""
    audio.make(person.folder / "a.wav", 6)
    listed = person.run("formats", "mp3")
    (catalogue,) = person.json("formats")
    for name in catalogue["outputs"]["mp3"]["options"]:
        assert name in listed
    (item,) = person.json(
        "convert", "a.wav", "--to", "mp3", "--bitrate", "64", "--sample-rate", "22050", "--channels", "1", "--start", "1",
        "--end", "4.5", "--fade-in", "0.5", "--fade-out", "0.5", "--loudness", "-20", "--no-metadata", "--option",
        "keepCover=false",
    )  # fmt: skip
    (task,) = person.json("list")
    assert task["options"] == {
        "bitrateKbps": 64, "sampleRateHz": 22050, "channels": 1, "startSeconds": 1, "endSeconds": 4.5,
        "fadeInSeconds": 0.5, "fadeOutSeconds": 0.5, "loudnessLufs": -20, "keepMetadata": False, "keepCover": False,
    }  # fmt: skip
    assert item["result"]["sampleRateHz"] == 22050
    assert seconds(person.folder / "a.mp3") == pytest.approx(3.5, abs=0.1)


def test_files_at_the_service_are_listed_fetched_converted_again_and_deleted(person: Person) -> None:
    """What was uploaded can be had again from another folder, in another format, and removed."""
    source = audio.make(person.folder / "a.wav", 1)
    person.run("convert", "a.wav", "--to", "ogg")
    (task,) = person.json("list", "--name", "a.w", "--state", "PROCESSED")
    number = str(task["id"])
    person.run("download", number, "-o", str(person.home), "--original")
    assert (person.home / "a.wav").read_bytes() == source.read_bytes()
    person.run("again", number, "--to", "flac")
    wait_for(lambda: person.json("list")[0]["state"] == "PROCESSED", "converted again")
    person.run("download", number)
    assert seconds(person.folder / "a.flac") == pytest.approx(1, abs=0.01)
    person.run("delete", number)
    assert person.json("list") == []
    assert "no such task" in person.run("download", number, code=1)


def test_waiting_goes_on_after_ctrl_c(person: Person, stack: Stack) -> None:
    """Interrupted while the service works, `resume` fetches the results; nothing is uploaded twice."""
    for name in ("a.wav", "b.wav"):
        audio.make(person.folder / name, 2)
    stack.workers[0].stop()
    try:
        running = person.begin("convert", "a.wav", "b.wav", "--to", "ogg")
        wait_for(lambda: len(person.json("list")) == 2, "both files are uploaded")
        (journal,) = (person.home / "batches").glob("*.json")
        items: Any = lambda: json.loads(journal.read_text())["items"]  # noqa: E731
        wait_for(lambda: all(item["state"] == "waiting" for item in items()), "the client knows")
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert "swnube resume" in running.communicate()[1]
    finally:
        stack.workers[0].cont()
    said = person.json("resume")
    assert sorted(Path(item["target"]).name for item in said) == ["a.ogg", "b.ogg"]
    assert seconds(person.folder / "b.ogg") == pytest.approx(2, abs=0.05)
    assert len(person.json("list")) == 2
    assert list((person.home / "batches").glob("*.json")) == []


def test_an_upload_without_an_answer_is_looked_up_and_not_sent_again(person: Person, stack: Stack) -> None:
    """The connection breaks just before the answer: the task that was made is found and waited for, and is the only one."""
    with Tap(port_of(stack.url)) as tap:
        away = replace(person, url=f"http://127.0.0.1:{tap.port}")
        away.run("login")
        cut: list[bytes] = []

        def swallow(piece: bytes) -> bytes:
            if b"The file is uploaded" in piece and len(cut) < 2:
                cut.append(piece)
                raise ConnectionError
            return piece

        tap.alter(answers=swallow)
        audio.make(person.folder / "a.wav", 2)
        (item,) = away.json("convert", "a.wav", "--to", "ogg")
        assert len(cut) == 1
        assert (item["state"], len(away.json("list"))) == ("done", 1)


def test_an_upload_that_breaks_in_its_middle_is_sent_again(person: Person, stack: Stack) -> None:
    """Cut after some of its bytes, the file goes again and becomes one task."""
    with Tap(port_of(stack.url)) as tap:
        away = replace(person, url=f"http://127.0.0.1:{tap.port}")
        away.run("login")
        passed = [0, 0]

        def limit(piece: bytes) -> bytes:
            passed[0] += len(piece)
            if passed[0] > 900_000 and not passed[1]:
                passed[1] = 1
                raise ConnectionError
            return piece

        tap.alter(requests=limit)
        audio.make(person.folder / "long.wav", 15)
        (item,) = away.json("convert", "long.wav", "--to", "ogg")
        assert passed[1] == 1
        assert (item["state"], len(away.json("list"))) == ("done", 1)


def test_a_service_that_is_away_is_waited_for_and_then_given_up(person: Person) -> None:
    """Nobody listens: exit code 4 after the patience that was asked for."""
    nobody = replace(person, url=f"http://127.0.0.1:{free_port()}")
    kept = json.loads((person.home / "session.json").read_text())
    (person.home / "session.json").write_text(json.dumps({**kept, "url": nobody.url}))
    assert nobody.json("list", "--patience", "1", code=4)[0]["exitCode"] == 4


def test_two_processes_share_a_session_that_must_be_renewed(person: Person) -> None:
    """Both find the access token at its end: the refresh token, good for one use, is used once, and both go on."""
    kept = json.loads((person.home / "session.json").read_text())
    (person.home / "session.json").write_text(json.dumps({**kept, "ends": 0}))
    codes: list[str] = []
    threads = [threading.Thread(target=lambda: codes.append(person.run("list"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(codes) == 4
    assert json.loads((person.home / "session.json").read_text())["refresh"] != kept["refresh"]


@pytest.mark.slow
def test_it_installs_alone(person: Person, tmp_path: Path) -> None:
    """In an empty environment `pip install ./client` is enough for `swnube` and for `python -m swnube_client`."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "-q", str(PROJECT / "client")], check=True, cwd=tmp_path)
    environment = {name: value for name, value in person.environment.items() if name != "PYTHONPATH"}
    for command in ([str(binaries / "swnube")], [str(binaries / "python"), "-m", "swnube_client"]):
        done = subprocess.run([*command, "list"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
