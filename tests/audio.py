"""Real audio files for tests: made by ffmpeg, tagged by mutagen, decoded by ffmpeg. No recording is shipped with the repository."""

import math
import os
import re
import shutil
import struct
import subprocess
import zlib
from functools import cache
from pathlib import Path

import numpy as np

TAGS = {
    "title": "Größe – 東京 🎵",
    "artist": "Ana Müller",
    "album": "Ça va?",
    "date": "2019",
    "genre": "Jazz",
    "tracknumber": "3/12",
    "comment": "first line\nsecond = line; #3 \\ end",
    "mykey": "my value",
}
"""Tags with everything that gets lost elsewhere: Unicode outside the first plane, line breaks, ffmpeg's special characters, an own name."""

CHAPTERS = ((0.0, 0.8, "Début"), (0.8, 1.4, "Zwei"), (1.4, 2.0, "Three"))


@cache
def ffmpeg() -> str:
    """The ffmpeg that the tests make files with."""
    found = os.environ.get("FFMPEG") or shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return str(found)


def run(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    """Run ffmpeg; its standard output. Raises with ffmpeg's own words when it fails."""
    done = subprocess.run(
        [ffmpeg(), "-v", "error", "-nostdin", "-y", *map(str, arguments)], input=stdin, capture_output=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done.stdout


def tone(seconds: float = 2.0, rate: int = 44_100, channels: int = 2, *, level: float = 0.3) -> list[str]:
    """Input arguments for ffmpeg: a sweep per channel with a little noise, different in each channel, the same at every call."""
    voices = "|".join(
        f"{level}*sin(2*PI*({180 + 60 * n}+{rate / 90:.0f}*t/{max(seconds, 0.1)})*t)+0.01*sin({12_345 + n}*t*t)"
        for n in range(channels)
    )
    layout = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}[channels]
    return ["-f", "lavfi", "-i", f"aevalsrc={voices}:s={rate}:d={seconds}:c={layout}"]


def make(
    path: Path, seconds: float = 2.0, rate: int = 44_100, channels: int = 2, *options: str, level: float = 0.3
) -> Path:
    """A file in the format that its name says, or that ``options`` (ffmpeg's) ask for."""
    run(*tone(seconds, rate, channels, level=level), *options, path)
    return path


def hum(path: Path, seconds: float) -> Path:
    """A long FLAC file, made in no time: one tone."""
    run("-f", "lavfi", "-i", f"sine=440:r=44100:d={seconds}", "-ac", "2", "-compression_level", "0", "-f", "flac", path)
    return path


def make_from(source: Path, path: Path, *options: str) -> Path:
    """Another file made from one, by ffmpeg alone."""
    run("-i", source, *options, path)
    return path


def png(width: int = 32, height: int = 32, seed: int = 1) -> bytes:
    """A small picture."""
    rows = b"".join(
        b"\0" + bytes((x * seed + y * 7 + c * 50) % 256 for x in range(width) for c in range(3)) for y in range(height)
    )

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tagged_mp3(path: Path, seconds: float = 2.0, *, cover: bytes | None = None, chapters: bool = True) -> Path:
    """An MP3 with :data:`TAGS`, a cover and :data:`CHAPTERS`, written by mutagen as a music player would."""
    from mutagen import id3

    make(path, seconds)
    tags = id3.ID3()
    tags.add(id3.TIT2(encoding=3, text=[TAGS["title"]]))
    tags.add(id3.TPE1(encoding=3, text=[TAGS["artist"]]))
    tags.add(id3.TALB(encoding=1, text=[TAGS["album"]]))
    tags.add(id3.TDRC(encoding=3, text=[TAGS["date"]]))
    tags.add(id3.TCON(encoding=3, text=[TAGS["genre"]]))
    tags.add(id3.TRCK(encoding=3, text=[TAGS["tracknumber"]]))
    tags.add(id3.COMM(encoding=3, lang="eng", desc="", text=[TAGS["comment"]]))
    tags.add(id3.TXXX(encoding=3, desc="MyKey", text=[TAGS["mykey"]]))
    tags.add(id3.APIC(encoding=3, mime="image/png", type=3, desc="front", data=cover or png()))
    if chapters:
        for number, (start, end, title) in enumerate(CHAPTERS):
            sub = [id3.TIT2(encoding=3, text=[title])]
            tags.add(
                id3.CHAP(
                    element_id=f"c{number}", start_time=int(start * 1000), end_time=int(end * 1000), sub_frames=sub
                )
            )
        names = [f"c{number}" for number in range(len(CHAPTERS))]
        tags.add(id3.CTOC(element_id="toc", flags=3, child_element_ids=names, sub_frames=[]))
    tags.save(path)
    return path


def samples(path: Path, rate: int | None = None, channels: int | None = None, form: str = "s32le") -> bytes:
    """A file's decoded samples, interleaved, as ``form``."""
    change = [*(["-ar", str(rate)] if rate else []), *(["-ac", str(channels)] if channels else [])]
    return run("-i", path, "-map", "0:a:0", *change, "-f", form, "-c:a", f"pcm_{form}", "-")


def mono(path: Path, rate: int = 8_000) -> list[float]:
    """A file's samples as one channel of numbers from -1 to 1."""
    data = samples(path, rate, 1, "s16le")
    return [value / 32_768 for (value,) in struct.iter_unpack("<h", data)]


def loudness(path: Path) -> tuple[float, float]:
    """A file's integrated loudness in LUFS and its true peak in dBTP, by ffmpeg's meter."""
    said = subprocess.run(
        [ffmpeg(), "-hide_banner", "-nostdin", "-i", path, "-af", "ebur128=peak=true", "-f", "null", "-"],
        capture_output=True, text=True, check=True, errors="replace",
    ).stderr  # fmt: skip
    summary = said[said.rindex("Summary:") :]
    found = [re.search(rf"{name}:\s+(-?[\d.]+)", summary) for name in ("I", "Peak")]
    return tuple(float(match[1]) if match else -math.inf for match in found)  # type: ignore[return-value]


def signal_to_noise(first: list[float], second: list[float], reach: int = 1_200) -> float:
    """Decibels by which the signal exceeds the difference of two recordings, at the shift (up to ``reach`` samples) that fits best.

    Codecs delay by whole samples at their own rate, which are fractions of one here: the shift is found to 1/32 sample,
    as the highest point of the correlation.
    """
    size = min(len(first), len(second)) - 2 * reach
    if size <= 0:
        raise ValueError("too short to compare")
    room = 1 << (len(first) + len(second)).bit_length()
    spectrum = np.fft.rfft(second, room)
    correlation = np.fft.irfft(np.conj(np.fft.rfft(first, room)) * spectrum, room * 32)
    shifts = np.arange(-reach * 32, reach * 32 + 1)
    best = shifts[np.argmax(correlation[shifts])] / 32
    aligned = np.fft.irfft(spectrum * np.exp(2j * np.pi * np.fft.rfftfreq(room) * best), room)
    signal = np.asarray(first[reach : reach + size])
    noise = float(np.sum((signal - aligned[reach : reach + size]) ** 2))
    power = float(np.sum(signal**2))
    return math.inf if noise < 1e-18 else 10 * math.log10(max(power, 1e-12) / noise)
