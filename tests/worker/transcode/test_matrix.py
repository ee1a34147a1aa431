"""Every input to every output, with real files: decoded and compared with the original by programs that are not ours."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import audio
from tests.worker.transcode.conftest import Convert
from worker.contract.formats import OUTPUTS, Options, plan

# Name of the input, how it is made: seconds, rate, channels, ffmpeg's options.
INPUTS: Mapping[str, tuple[float, int, int, tuple[str, ...]]] = {
    "mp3": (2.0, 44_100, 2, ()),
    "low.mp3": (2.0, 22_050, 1, ()),
    "wav": (2.0, 44_100, 2, ()),
    "8bit.wav": (2.0, 8_000, 1, ("-c:a", "pcm_u8")),
    "24.wav": (2.0, 96_000, 2, ("-c:a", "pcm_s24le")),
    "32.wav": (1.0, 192_000, 2, ("-c:a", "pcm_s32le")),
    "float.wav": (2.0, 48_000, 2, ("-c:a", "pcm_f32le")),
    "adpcm.wav": (2.0, 44_100, 2, ("-c:a", "adpcm_ms")),
    "rf64.wav": (2.0, 44_100, 2, ("-rf64", "always")),
    "surround.wav": (2.0, 48_000, 6, ()),
    "tiny.wav": (0.05, 44_100, 1, ()),
    "flac": (2.0, 44_100, 2, ("-sample_fmt", "s16")),
    "24.flac": (2.0, 96_000, 2, ("-sample_fmt", "s32")),
    "ogg": (2.0, 44_100, 2, ("-c:a", "libvorbis")),
    "opus": (2.0, 48_000, 2, ()),
    "aac": (2.0, 44_100, 2, ()),
    "m4a": (2.0, 44_100, 2, ()),
    "surround.m4a": (2.0, 48_000, 6, ()),
    "mov": (2.0, 44_100, 2, ("-c:a", "pcm_s16le")),
    "alac.m4a": (2.0, 44_100, 2, ("-c:a", "alac")),
    "aiff": (2.0, 44_100, 2, ()),
    "caf": (2.0, 44_100, 2, ("-c:a", "pcm_s16be")),
    "wma": (2.0, 44_100, 2, ()),
    "ac3": (2.0, 48_000, 6, ()),
    "mkv": (2.0, 48_000, 2, ("-c:a", "flac")),
    "webm": (2.0, 48_000, 2, ("-c:a", "libopus")),
    "au": (2.0, 44_100, 2, ()),
    "mp2": (2.0, 48_000, 2, ()),
    "wv": (2.0, 44_100, 2, ()),
    "tta": (2.0, 44_100, 2, ()),
    "w64": (2.0, 44_100, 2, ()),
    "eac3": (2.0, 48_000, 2, ()),
    "avi": (2.0, 44_100, 2, ("-c:a", "pcm_s16le")),
    "ts": (2.0, 48_000, 2, ("-c:a", "mp2")),
    "flv": (2.0, 44_100, 2, ("-c:a", "libmp3lame")),
    "tagged.mp3": (2.0, 44_100, 2, ()),
    "tagged.flac": (2.0, 44_100, 2, ()),
    "tagged.m4a": (2.0, 44_100, 2, ()),
}
LOSSLESS = {
    "wav",
    "8bit.wav",
    "24.wav",
    "rf64.wav",
    "surround.wav",
    "flac",
    "24.flac",
    "mov",
    "alac.m4a",
    "aiff",
    "caf",
    "mkv",
    "au",
    "wv",
    "tta",
    "w64",
    "avi",
    "tagged.flac",
}
QUICK = {"mp3", "24.wav", "surround.wav", "m4a", "webm"}
_made: dict[str, Path] = {}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


def source_file(folder: Path, name: str) -> Path:
    """The input of that name, made once."""
    if name not in _made:
        seconds, rate, channels, options = INPUTS[name]
        path = folder / f"in.{name}"
        if name == "tagged.mp3":
            _made[name] = audio.tagged_mp3(path, seconds)
        elif name.startswith("tagged"):
            _made[name] = retagged(folder, name)
        else:
            _made[name] = audio.make(path, seconds, rate, channels, *options)
    return _made[name]


def retagged(folder: Path, name: str) -> Path:
    """A FLAC or M4A file with tags and cover, made by ffmpeg out of the tagged MP3."""
    path = folder / f"in.{name}"
    audio.run(
        "-i", source_file(folder, "tagged.mp3"), "-map", "0", "-c:v", "copy", "-disposition:v:0", "attached_pic", path
    )
    return path


def check(convert: Convert, folder: Path, name: str, target: str) -> None:
    """Convert, decode both with ffmpeg, compare."""
    seconds, rate, channels, _ = INPUTS[name]
    source = source_file(folder, name)
    done = convert(source, target)
    wanted = OUTPUTS[target]
    probe = done.source
    planned = plan(probe, target, Options()).to_json()
    came = {**done.result, "newFormat": target, "extension": wanted.extension}
    foretold = (
        "newFormat",
        "codec",
        "container",
        "extension",
        "mimeType",
        "copied",
        "sampleRateHz",
        "channels",
        "bitDepth",
    )
    assert {key: came.get(key) for key in foretold} == {key: planned.get(key) for key in foretold}
    if name.startswith("tagged"):
        tags = wanted.tags != "none"
        assert ((done.result["tags"] or 0) >= 7, done.result["cover"]) == (tags, wanted.cover)
    assert (probe.sample_rate_hz, probe.channels) == (rate, channels)
    exact = (
        name in LOSSLESS
        and wanted.lossless
        and done.result["sampleRateHz"] == rate
        and done.result["channels"] == channels
    )
    if exact and (done.result["bitDepth"] or 0) >= (probe.bit_depth or 0):
        assert audio.samples(done.path) == audio.samples(source)
        return
    # Raw AAC cannot say that its first frame is the encoder's run-up and that its last one is filled up.
    frames = 2 * 1_152 / done.result["sampleRateHz"]
    assert done.result["durationSeconds"] == pytest.approx(seconds, abs=max(0.12, frames))
    if seconds >= 1:
        if done.result["channels"] != channels:
            # Six channels mixed to two and then to one are not six mixed to one.
            source = audio.make_from(source, folder / f"mixed.{name}.wav", "-ac", str(done.result["channels"]))
        # Each hop is compared in what both can hold: one channel at 8 kHz.
        worst = {"eac3": 10, "ac3": 10}.get(target, 12)
        assert audio.signal_to_noise(audio.mono(source), audio.mono(done.path)) > worst


@pytest.mark.parametrize("name", sorted(QUICK))
@pytest.mark.parametrize("target", ["mp3", "ogg", "wav", "flac", "m4a", "opus"])
def test_common_conversions_keep_the_sound(convert: Convert, folder: Path, name: str, target: str) -> None:
    """Lossless to lossless is the same to the bit; anything else keeps length and signal."""
    check(convert, folder, name, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(INPUTS))
@pytest.mark.parametrize("target", sorted(OUTPUTS))
def test_every_conversion_keeps_the_sound(convert: Convert, folder: Path, name: str, target: str) -> None:
    """The whole matrix: every input to every output."""
    check(convert, folder, name, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(OUTPUTS))
def test_ten_minutes_come_out_whole(convert: Convert, folder: Path, target: str) -> None:
    """Ten minutes of stereo keep length and sound in every format, decoded to the end."""
    if "long" not in _made:
        _made["long"] = audio.make(folder / "in.long.wav", 600.0)
    done = convert(_made["long"], target)
    assert len(audio.samples(done.path, 8_000, 1, "s16le")) / 16_000 == pytest.approx(600.0, abs=0.2)
    if OUTPUTS[target].lossless:
        assert audio.samples(done.path, form="s16le") == audio.samples(_made["long"], form="s16le")


@pytest.mark.parametrize("target", ["wav", "mp3", "ogg", "flac"])
def test_pydub_reads_the_result_as_we_describe_it(convert: Convert, folder: Path, target: str) -> None:
    """An independent reader sees the rate, channels and length that the result states."""
    from pydub import AudioSegment

    AudioSegment.converter = audio.ffmpeg()
    done = convert(source_file(folder, "mp3"), target)
    if target == "wav":
        segment = AudioSegment.from_wav(str(done.path))
    else:
        segment = AudioSegment(data=audio.run("-i", done.path, "-f", "wav", "-"))
    assert (segment.frame_rate, segment.channels) == (done.result["sampleRateHz"], done.result["channels"])
    assert segment.duration_seconds == pytest.approx(done.result["durationSeconds"], abs=0.05)
