"""The waveform drawn while converting, compared with the result's own samples."""

from pathlib import Path

import pytest

from tests import audio
from tests.worker.transcode.conftest import Convert
from worker.transcode import Transcoder, waveform
from worker.transcode.waveform import POINTS


def ramp(path: Path, seconds: float, *options: str) -> Path:
    """A tone that grows evenly from silence to half of full scale in one channel; the other is silent."""
    voice = f"0.5*t/{seconds}*sin(2*PI*440*t)|0"
    audio.run("-f", "lavfi", "-i", f"aevalsrc={voice}:s=44100:d={seconds}", *options, path)
    return path


@pytest.mark.parametrize(("name", "target"), [
    ("a.wav", "wav"), ("a.wav", "ogg"), ("a.flac", "mp3"), ("a.mp3", "mp3"), ("a.mp3", "flac"), ("a.ogg", "opus"), ("a.wav", "ac3"),
])  # fmt: skip
def test_it_follows_the_loudest_channel(convert: Convert, tmp_path: Path, name: str, target: str) -> None:
    """Every point is as high as the recording is there, for conversions and for streams that are copied."""
    peaks = convert(ramp(tmp_path / name, 8), target).waveform
    assert len(peaks) == POINTS
    wanted = [16_384 * (index + 1) / POINTS for index in range(POINTS)]
    assert max(abs(peak - want) for peak, want in zip(peaks, wanted, strict=True)) < 1_000


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.wv", "a.tta"])
def test_a_long_recording_is_seen_in_full(convert: Convert, tmp_path: Path, name: str) -> None:
    """Looking at some of its frames keeps the picture's shape and its beginning and end, however long the frames are."""
    peaks = convert(ramp(tmp_path / name, 200), "ogg").waveform
    assert len(peaks) >= 200
    wanted = [16_384 * (index + 1) / len(peaks) for index in range(len(peaks))]
    assert max(abs(peak - want) for peak, want in zip(peaks, wanted, strict=True)) < 1_000


def test_it_shows_the_part_that_was_asked_for(convert: Convert, tmp_path: Path) -> None:
    """Cut to its second half and faded out, a growing tone begins at half its height and ends in silence."""
    options = {"startSeconds": 4, "endSeconds": 8, "fadeOutSeconds": 1}
    peaks = convert(ramp(tmp_path / "a.wav", 8), "flac", options).waveform
    assert peaks[0] == pytest.approx(8_192, rel=0.1)
    assert peaks[POINTS // 2] == pytest.approx(12_288, rel=0.1)
    assert peaks[-1] < 400


@pytest.mark.parametrize("channels", [1, 3, 6, 8])
def test_any_number_of_channels(convert: Convert, tmp_path: Path, channels: int) -> None:
    """Recordings of one to eight channels have a picture."""
    source = audio.make(tmp_path / "a.wav", 2, 48_000, channels)
    assert max(convert(source, "flac").waveform) == pytest.approx(0.3 * 32_768, rel=0.1)


def test_the_shortest_recording_has_points_for_its_samples(convert: Convert, tmp_path: Path) -> None:
    """A tenth of a second gives fewer points, never points made up."""
    assert 0 < len(convert(audio.make(tmp_path / "a.wav", 0.1), "wav").waveform) <= POINTS


def test_an_ffmpeg_that_cannot_draw_still_converts(
    transcoder: Transcoder, convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an encoder for the peaks there is a result, and no waveform."""
    monkeypatch.setattr(waveform, "ENCODER", "pcm_not_there")
    done = convert(audio.make(tmp_path / "a.wav", 1), "ogg")
    assert (done.waveform, done.result["codec"]) == ((), "vorbis")


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF....WAVElevl" + b"\xff" * 24, b"RIFF....WAVElevl" + bytes(200)])
def test_a_file_that_is_no_picture_gives_none(tmp_path: Path, data: bytes) -> None:
    """Whatever ffmpeg left, reading it raises nothing."""
    (tmp_path / waveform.FILE).write_bytes(data)
    assert waveform.read(tmp_path) == ()
    assert waveform.read(tmp_path / "nowhere") == ()
