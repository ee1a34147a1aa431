"""Files made to do harm do none: no connection, no foreign file, no process left, no hang, and a reason for each."""

import contextlib
import ctypes
import json
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import audio
from worker.contract.formats import FAILURES, Options
from worker.transcode import Cancelled, Conversion, Limits, Transcoder, Unconvertible

SECRET = b"CANARY-5f3a-THE-USERS-SECRET"


_libc = ctypes.CDLL(None, use_errno=True)


class Canary:
    """A server that counts who connects, and a file of which the kernel tells each time that it is opened or read."""

    def __init__(self, folder: Path) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.file = folder / "canary.wav"
        audio.make(self.file, 0.5)
        self.file.write_bytes(self.file.read_bytes() + SECRET)
        self._watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened_or_read = 0x20 | 0x1
        assert _libc.inotify_add_watch(self._watch, os.fsencode(self.file), opened_or_read) >= 0
        threading.Thread(target=self._accept, daemon=True).start()
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", self.port))
        self._datagrams.setblocking(False)

    def touched(self) -> bool:
        """Whether the file was opened or read, or a connection or datagram arrived, since this was last asked."""
        touched, self.connections = self.connections > 0, 0
        for attempt in (lambda: os.read(self._watch, 4096), lambda: self._datagrams.recv(4096)):
            with contextlib.suppress(BlockingIOError):
                attempt()
                touched = True
        return touched

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()
        self._datagrams.close()
        os.close(self._watch)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    made = Canary(tmp_path_factory.mktemp("canary"))
    yield made
    made.close()


def corpus(canary: Canary, folder: Path) -> dict[str, bytes]:
    """More than a hundred hostile files by name."""
    url, path = f"http://127.0.0.1:{canary.port}/x", str(canary.file)
    mp3 = audio.make(folder / "a.mp3", 3.0).read_bytes()
    wav = audio.make(folder / "a.wav", 1.0).read_bytes()
    flac = audio.make(folder / "a.flac", 2.0).read_bytes()
    ogg = audio.make(folder / "a.ogg", 2.0, 44_100, 2, "-c:a", "libvorbis").read_bytes()
    m4a = audio.make(folder / "a.m4a", 2.0).read_bytes()
    files: dict[str, bytes] = {}
    targets = (url, f"file:{path}", path, f"tcp://127.0.0.1:{canary.port}", f"concat:{path}|{path}", f"subfile,,start,0,end,9,,:{path}",
               f"crypto:{path}", "gopher://127.0.0.1/", f"ftp://127.0.0.1:{canary.port}/", f"data:text/plain,{path}", f"unix:{path}", f"async:{url}")  # fmt: skip
    for number, target in enumerate(targets):
        files[f"hls{number}"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n".encode()
        files[f"concat{number}"] = f"ffconcat version 1.0\nfile '{target}'\nduration 5\n".encode()
    files["hls-nested"] = f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}.m3u8\n".encode()
    files["hls-key"] = f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:5,\nsource\n'.encode()
    files["sdp"] = (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {canary.port} RTP/AVP 0\n".encode()
    )
    files["dash"] = (
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{url}</BaseURL></Period></MPD>'.encode()
    )
    files["xxe"] = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{path}">]><MPD>&e;</MPD>'.encode()
    files["svg"] = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{url}"/></svg>'.encode()
    files["ffmetadata"] = b";FFMETADATA1\ntitle=x\n"
    files["m3u"] = f"{url}\n{path}\n".encode()
    files["pls"] = f"[playlist]\nFile1={url}\n".encode()
    files["html"] = b"<html><script>alert(1)</script></html>"
    files["shell"] = b"#!/bin/sh\ntouch /tmp/pwned\n"
    files["pdf"] = b"%PDF-1.7\n" + bytes(1000)
    files["zip"] = b"PK\x03\x04" + bytes(1000)
    files["elf"] = Path("/bin/true").read_bytes()[:20_000]
    files["png"] = audio.png(64, 64)
    files["text"] = b"hello " * 1000
    files["zeros"] = bytes(100_000)
    files["ones"] = b"\xff" * 100_000
    files["noise"] = random.Random(1).randbytes(100_000)
    files["one byte"] = b"R"
    files["empty"] = b""
    files["id3 of 256 MB"] = b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(1000)
    files["id3 bomb"] = id3_bomb() + mp3
    files["flac picture of 16 MB"] = flac[:4] + b"\x06\xff\xff\xff" + flac[4:]
    files["ogg of headers"] = ogg[:58] * 500
    for rate in (0, 1, 7, 4_294_967_295, 2_147_483_648, 768_000):
        files[f"wav rate {rate}"] = wav[:24] + struct.pack("<I", rate) + wav[28:]
    for channels in (0, 255, 65_535):
        files[f"wav channels {channels}"] = wav[:22] + struct.pack("<H", channels) + wav[24:]
    for bits in (0, 1, 64, 65_535):
        files[f"wav bits {bits}"] = wav[:34] + struct.pack("<H", bits) + wav[36:]
    for size in (0, 1, 0xFFFFFFFF, 0x7FFFFFFF):
        files[f"wav data {size}"] = wav.replace(
            b"data" + struct.pack("<I", len(wav) - wav.index(b"data") - 8), b"data" + struct.pack("<I", size)
        )
    for name, data in (("mp3", mp3), ("flac", flac), ("ogg", ogg), ("m4a", m4a), ("wav", wav)):
        for tenth in range(1, 10):
            files[f"{name} cut at {tenth}/10"] = data[: len(data) * tenth // 10]
        for seed in range(4):
            chance = random.Random(seed)
            flipped = bytearray(data)
            for _ in range(10 ** (seed + 1) if seed < 3 else 20):
                flipped[chance.randrange(len(data) if seed < 3 else 400)] ^= 1 << chance.randrange(8)
            files[f"{name} flipped {seed}"] = bytes(flipped)
    files["mp3 then flac"] = mp3 + flac
    files["mp3 that is hls"] = b"ID3\x03\x00\x00\x00\x00\x00\x00" + files["hls0"]
    video = folder / "v.mp4"
    audio.run("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-c:v", "mpeg4", video)
    files["video without sound"] = video.read_bytes()
    for codec, extension in (("mjpeg", "mkv"), ("gif", "mkv"), ("ffv1", "mkv")):
        mixed = folder / f"{codec}.{extension}"
        audio.run("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", *audio.tone(1.0), "-c:v", codec, "-c:a", "flac", mixed)
        files[f"cover as {codec}"] = mixed.read_bytes()
    return files


def id3_bomb() -> bytes:
    """A tag with a compressed frame that unpacks to 400 MB."""
    import zlib

    squeezer = zlib.compressobj(9)
    packed = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(400)) + squeezer.flush()

    def synchsafe(value: int) -> bytes:
        return bytes((value >> shift) & 0x7F for shift in (21, 14, 7, 0))

    frame = b"TXXX" + synchsafe(len(packed) + 4) + b"\x00\x09" + synchsafe(1 << 27) + packed
    return b"ID3\x04\x00\x00" + synchsafe(len(frame)) + frame


@pytest.fixture(scope="module")
def hostile(canary: Canary, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return corpus(canary, tmp_path_factory.mktemp("corpus"))


Attempt = Callable[[bytes, str], Conversion | Unconvertible]


def bomb(folder: Path) -> Path:
    """A small FLAC file that holds minutes of eight silent channels at 192 kHz."""
    audio.run("-f", "lavfi", "-i", "anullsrc=r=192000:cl=7.1:d=60", "-c:a", "flac", "-f", "flac", folder / "source")
    return folder / "source"


@pytest.fixture
def attempt(transcoder: Transcoder, tmp_path: Path) -> Attempt:
    """Convert bytes; the conversion or why not."""

    def run(data: bytes, target: str = "wav") -> Conversion | Unconvertible:
        folder = tmp_path / f"job{len(os.listdir(tmp_path))}"
        folder.mkdir()
        (folder / "source").write_bytes(data)
        try:
            return transcoder.convert(folder / "source", folder, target, Options(), lambda *_: None, threading.Event())
        except Unconvertible as error:
            return error

    return run


def check_harmless(outcome: Conversion | Unconvertible, canary: Canary) -> None:
    """A result that is sound, or a reason from the table that names no path."""
    if isinstance(outcome, Unconvertible):
        assert outcome.code in FAILURES
        assert outcome.code != "conversion_failed"
        assert "/" not in outcome.message.replace("GET /api/formats", "")
    else:
        assert SECRET not in outcome.path.read_bytes()
        assert outcome.result["durationSeconds"] > 0
    assert not canary.touched()


def test_the_canary_notices_an_ffmpeg_without_our_locks(canary: Canary, tmp_path: Path) -> None:
    """The check can fail: the bare program, asked the ordinary way, does connect and does read the foreign file."""
    import subprocess

    for name, script in (
        ("a.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:{canary.port}/x.ts\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", f"ffconcat version 1.0\nfile '{canary.file}'\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(script)
        command = [audio.ffmpeg(), "-v", "error", "-nostdin", "-y", "-safe", "0"] if name.endswith("concat") else [
            audio.ffmpeg(), "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file,http,tcp"]  # fmt: skip
        subprocess.run([*command, "-i", tmp_path / name, tmp_path / "out.wav"], capture_output=True, timeout=60)
        assert canary.touched(), name
        assert not canary.touched()


QUICK_NAMES = ("hls0", "hls1", "concat0", "concat1", "concat2", "sdp", "text", "empty", "id3 bomb", "wav rate 0", "wav channels 65535",
               "mp3 cut at 3/10", "mp3 cut at 8/10", "flac cut at 7/10", "m4a cut at 5/10", "ogg flipped 1", "video without sound", "cover as mjpeg")  # fmt: skip


@pytest.mark.parametrize("name", QUICK_NAMES)
def test_a_hostile_file_does_no_harm(hostile: dict[str, bytes], canary: Canary, attempt: Attempt, name: str) -> None:
    """Scripts, playlists, bombs, absurd headers and torn files end with a result that is sound or with a reason."""
    check_harmless(attempt(hostile[name], "wav"), canary)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["wav", "ogg"])
def test_the_whole_hostile_corpus_does_no_harm(
    hostile: dict[str, bytes], canary: Canary, attempt: Attempt, target: str
) -> None:
    """All of more than a hundred files: no connection, no foreign byte, no process left."""
    assert len(hostile) >= 100
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    told = {}
    for name, data in hostile.items():
        outcome = attempt(data, target)
        told[name] = (
            outcome.code
            if isinstance(outcome, Unconvertible)
            else [notice["code"] for notice in outcome.result["warnings"]]
        )
        check_harmless(outcome, canary)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    psutil.wait_procs(left, timeout=10)
    assert [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == [], json.dumps(
        told
    )
    print(f"{len(hostile)} files to {target}: {json.dumps(told)}")  # noqa: T201 - shown by -s


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty", "empty_file"),
        ("text", "not_audio"),
        ("hls0", "not_audio"),
        ("concat2", "not_audio"),
        ("video without sound", "no_audio_stream"),
        ("mp3 cut at 3/10", "damaged_input"),
        ("m4a cut at 5/10", None),
    ],
)
def test_the_reason_is_the_right_one(hostile: dict[str, bytes], attempt: Attempt, name: str, code: str | None) -> None:
    """Each kind of trouble has its own code."""
    outcome = attempt(hostile[name], "mp3")
    assert isinstance(outcome, Unconvertible)
    assert code is None or outcome.code == code


@pytest.mark.parametrize("kind", ["mp3", "flac", "wav", "ogg"])
def test_a_truncated_recording_is_never_a_silent_success(
    hostile: dict[str, bytes], attempt: Attempt, kind: str
) -> None:
    """Cut at 8/10 it is converted with a warning that says so; cut at 2/10 it fails."""
    long, short = attempt(hostile[f"{kind} cut at 8/10"], "ogg"), attempt(hostile[f"{kind} cut at 2/10"], "ogg")
    assert isinstance(long, Conversion)
    assert "truncated_input" in {notice["code"] for notice in long.result["warnings"]}
    # An Ogg stream says nowhere how long it shall be, only that it is not at its end.
    assert isinstance(short, Unconvertible) or (kind == "ogg" and short.result["warnings"])


def test_damage_in_the_middle_is_told(hostile: dict[str, bytes], attempt: Attempt) -> None:
    """Flipped bits in a FLAC file, whose frames carry checksums, are a warning or a failure."""
    outcome = attempt(hostile["flac flipped 0"], "wav")
    assert isinstance(outcome, Unconvertible) or "damaged_input" in {
        notice["code"] for notice in outcome.result["warnings"]
    }


def test_a_result_that_would_be_too_large_is_refused(tmp_path: Path) -> None:
    """The limit on the output ends the conversion with its own reason."""
    source = audio.make(tmp_path / "source", 30.0, 44_100, 2, "-f", "mp3")
    with Transcoder(Limits(output_bytes=1_000_000)) as small, pytest.raises(Unconvertible) as caught:
        small.convert(source, tmp_path, "wav", Options(), lambda *_: None, threading.Event())
    assert caught.value.code == "too_large"


def test_a_decompression_bomb_fills_no_disk(tmp_path: Path) -> None:
    """A file that grows more than a hundred times is stopped at the limit, and next to nothing of it is left."""
    source = bomb(tmp_path)
    assert source.stat().st_size * 100 < 192_000 * 8 * 2 * 60
    with Transcoder(Limits(output_bytes=20_000_000)) as small, pytest.raises(Unconvertible) as caught:
        small.convert(source, tmp_path, "wav", Options(), lambda *_: None, threading.Event())
    assert caught.value.code == "too_large"
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000_000 + 2 * source.stat().st_size


def test_a_recording_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The limit on the duration is checked before anything is converted, and the message says what it is."""
    source = audio.make(tmp_path / "source", 5.0, 44_100, 2, "-f", "mp3")
    with Transcoder(Limits(max_duration_seconds=3.6)) as short, pytest.raises(Unconvertible) as caught:
        short.convert(source, tmp_path, "wav", Options(), lambda *_: None, threading.Event())
    assert caught.value.code == "too_long"


def test_time_is_limited(tmp_path: Path) -> None:
    """A conversion that takes longer than it may is killed and says so."""
    source = audio.hum(tmp_path / "source", 600.0)
    with Transcoder(Limits(wall_seconds=1.0)) as hasty, pytest.raises(Unconvertible) as caught:
        hasty.convert(source, tmp_path, "ogg", Options(), lambda *_: None, threading.Event())
    assert caught.value.code == "timed_out"


def ffmpegs(folder: Path) -> list[psutil.Process]:
    """ffmpeg processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith("ffmpeg") and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_calling_off_kills_what_runs(transcoder: Transcoder, tmp_path: Path) -> None:
    """Once the event is set, Cancelled is raised and no ffmpeg is left in the job's folder."""
    source = audio.hum(tmp_path / "source", 600.0)
    cancelled = threading.Event()

    def stop(phase: str, percent: float | None) -> None:
        if phase == "converting" and percent:
            cancelled.set()

    with pytest.raises(Cancelled):
        transcoder.convert(source, tmp_path, "ogg", Options(), stop, cancelled)
    psutil.wait_procs(ffmpegs(tmp_path), timeout=10)
    assert ffmpegs(tmp_path) == []


def test_progress_moves_from_nothing_to_everything(transcoder: Transcoder, tmp_path: Path) -> None:
    """Phases come in their order, and the percentage of the conversion never falls and reaches 100."""
    source = audio.hum(tmp_path / "source", 120.0)
    heard: list[tuple[str, float | None]] = []
    transcoder.convert(source, tmp_path, "ogg", Options(), lambda *step: heard.append(step), threading.Event())
    phases = list(dict.fromkeys(phase for phase, _ in heard))
    percents = [percent for phase, percent in heard if phase == "converting" and percent is not None]
    assert phases == ["probing", "converting", "verifying"]
    assert percents == sorted(percents)
    assert percents[-1] > 99


def test_the_worker_is_protected_and_says_how(transcoder: Transcoder) -> None:
    """The self-test has tried to read a file, to open sockets and to signal its parent, and could not."""
    assert {name for name, held in transcoder.protections.items() if held} >= {
        "files",
        "network",
        "limits",
        "environment",
    }


def test_a_killed_worker_leaves_no_ffmpeg(tmp_path: Path) -> None:
    """kill -9 of the process that converts ends its ffmpeg."""
    import subprocess
    import sys

    source = audio.hum(tmp_path / "source", 600.0)
    code = f"""
import threading
from pathlib import Path
from worker.contract.formats import Options
from worker.transcode import Transcoder
def say(phase, percent):
    if percent:
        print("on", flush=True)
Transcoder().convert(Path({str(source)!r}), Path({str(tmp_path)!r}), "ogg", Options(), say, threading.Event())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"on\n"
        running = ffmpegs(tmp_path)
        assert running
        worker.kill()
        gone, alive = psutil.wait_procs(running, timeout=10)
    assert alive == []
    assert len(gone) == len(running)


@pytest.mark.slow
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    kind=st.sampled_from(["mp3", "flac", "wav", "ogg", "m4a"]),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)), max_size=30),
)
def test_random_damage_does_no_harm(
    hostile: dict[str, bytes], canary: Canary, attempt: Attempt, kind: str, edits: list[tuple[float, bytes]]
) -> None:
    """Bytes written anywhere, mostly into headers, never give an unexpected exception."""
    data = bytearray(hostile[f"{kind} cut at 9/10"])
    for place, patch in edits:
        at = int(len(data) * place**4)
        data[at : at + len(patch)] = patch
    check_harmless(attempt(bytes(data), "wav"), canary)
