"""`jmeter/run` where it cannot run, with programs that play Java, JMeter and Maven: it says what is missing, and ends with 2."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jmeter.stress import engine, song
from jmeter.stress.__main__ import arguments, command_line, properties
from jmeter.stress.scenarios import FOLDER, SCENARIOS
from jmeter.stress.trouble import CannotRun
from tests.services import free_port

BANNER = "    _    ____   _    ____\n/_/   \\_\\_| /_/   \\_\\____|_| |_|  \\___/|_|  |_|_____| |_| |_____|_| \\_\\ 5.6.3    \n\nCopyright (c) 1999-2024 The Apache"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder which alone is the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("FFMPEG", raising=False)
    return folder


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_no_java(programs: Path) -> None:
    """Without Java it names the package to install."""
    with pytest.raises(CannotRun, match=r"There is no Java.*apt install default-jre-headless"):
        engine.find("256m")


def test_old_java(programs: Path) -> None:
    """A Java that JMeter does not run on is named as it names itself."""
    program(programs, "java", "echo 'java version \"1.7.0_80\"' >&2")
    with pytest.raises(CannotRun, match=r"too old: java version \"1\.7"):
        engine.find("256m")


def test_jmeter_of_the_path(programs: Path) -> None:
    """A JMeter 5 on the PATH is used."""
    program(programs, "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
    program(
        programs, "jmeter", f"cat <<'END'\n{BANNER}\nEND".replace("cat", shutil.which("cat", path=os.defpath) or "cat")
    )
    assert engine.find("256m") == engine.JMeter((str(programs / "jmeter"),), "5.6.3", str(programs / "jmeter"))


def test_old_jmeter_and_no_maven(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's 2.13 is refused in a sentence; the next way is Maven, and without it the sentence says so."""
    program(programs, "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
    program(programs, "jmeter", "echo 2.13")
    (tmp_path / "pom.xml").write_text((FOLDER / "pom.xml").read_text())
    monkeypatch.setattr(engine, "POM", tmp_path / "pom.xml")
    with pytest.raises(CannotRun, match="no JMeter 5 on the PATH, and no Maven"):
        engine.find("256m")
    assert "is JMeter 2.13, which cannot load these plans" in capsys.readouterr().out


def test_maven_that_fails(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Maven says reaches the person."""
    program(programs, "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")
    program(programs, "mvn", "echo 'Could not transfer artifact'; exit 1")
    (tmp_path / "pom.xml").write_text((FOLDER / "pom.xml").read_text())
    monkeypatch.setattr(engine, "POM", tmp_path / "pom.xml")
    with pytest.raises(CannotRun, match="Could not transfer artifact"):
        engine.find("256m")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (BANNER, (5, 6, 3)),
        ("2.13", (2, 13)),
        ("Version 2.13 r1665067", (2, 13)),
        ("", ()),
        ("cannot open display :0", ()),
    ],
)
def test_versions(said: str, version: tuple[int, ...]) -> None:
    """The version is found in the big letters of 5.x, and in the plain line of older ones."""
    assert engine.version_in(said) == version


def test_service_that_does_not_answer(tmp_path: Path) -> None:
    """Nothing on the port: one sentence and 2, before Java or Maven are looked for."""
    audio = tmp_path / "a.mp3"
    audio.write_bytes(b"x")
    command = [sys.executable, "-m", "jmeter.stress", "login", "--host", "127.0.0.1", "--port", str(free_port())]
    done = subprocess.run(
        [*command, "--audio", str(audio)], cwd=FOLDER.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Nothing answers at http://127.0.0.1:" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "argv", [["nothing"], ["gui"], ["gui", "all"], ["login", "--users", "0"], ["login", "-J", "x"], []]
)
def test_senseless_commands(argv: list[str]) -> None:
    """What makes no sense ends with 2 and the usage."""
    with pytest.raises(SystemExit) as ended:
        arguments(argv)
    assert ended.value.code == 2


def test_what_is_asked_wins() -> None:
    """Options win over a smoke run's values, and those over the plan's."""
    asked = arguments(["conversion", "--smoke", "--users", "7", "--port", "8080", "-J", "tries=9"])
    given = properties(asked, SCENARIOS["conversion"], Path("song.mp3"))
    assert (given["users"], given["loops"], given["port"], given["tries"]) == ("7", "1", "8080", "9")
    assert given["audio"] == "song.mp3"
    assert "email" not in given


def test_no_password_in_the_report() -> None:
    """The command is part of the report; the password is not."""
    for argv in (["browse", "--password", "Secret-1 x"], ["browse", "--password=Secret-1 x"]):
        assert "Secret" not in command_line(arguments(argv), argv)


def test_song(tmp_path: Path) -> None:
    """The file that is uploaded has the length it should: 16,000 bytes a second, to a frame; made once."""
    path = song.make(tmp_path, 3)
    size = path.stat().st_size
    assert abs(size - 3 * 16_000) < 1_500
    before = path.stat().st_mtime_ns
    assert song.make(tmp_path, 3).stat().st_mtime_ns == before
