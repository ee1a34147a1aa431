"""What is asked is what comes out, for every option; the result's own account is checked against an independent decoder."""

import math
from pathlib import Path

import pytest

from tests import audio
from tests.worker.transcode.conftest import Convert
from worker.contract.formats import OUTPUTS
from worker.transcode import Unconvertible


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in both channels, as busy as music: a pure tone would need next to nothing of any bit rate."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    audio.run(
        "-f",
        "lavfi",
        "-i",
        "anoisesrc=d=6:c=pink:seed=7:a=0.4:r=44100",
        "-af",
        "aecho=0.8:0.7:20:0.5",
        "-ac",
        "2",
        path,
    )
    return path


def level(values: list[float]) -> float:
    """Root mean square."""
    return math.sqrt(sum(value * value for value in values) / len(values))


@pytest.mark.parametrize("kbps", [64, 192])
@pytest.mark.parametrize("target", [name for name, entry in OUTPUTS.items() if entry.bitrates])
def test_the_bit_rate_asked_for_is_the_one_in_the_file(song: Path, convert: Convert, target: str, kbps: int) -> None:
    """Every lossy encoder keeps to it: the file's size divided by its length, container and all, is within a tenth of it or 8 kbit/s."""
    done = convert(song, target, {"bitrateKbps": kbps})
    measured = done.path.stat().st_size * 8 / done.result["durationSeconds"] / 1000
    near = pytest.approx(kbps, abs=max(kbps * 0.1, 8))  # headers weigh in six seconds
    assert measured == near
    assert done.result["bitrateKbps"] == near
    assert "bitrate_differs" not in {notice["code"] for notice in done.result["warnings"]}


def test_music_that_is_easy_to_encode_gets_the_bit_rate_asked_for_too(convert: Convert, tmp_path: Path) -> None:
    """A few tones in Ogg at 128 kbit/s take 128, although fewer would do."""
    source = audio.make(tmp_path / "a.wav", 6.0)
    for target in ("ogg", "wma", "mp3"):
        assert convert(source, target, {"bitrateKbps": 128}).result["bitrateKbps"] == pytest.approx(128, rel=0.1)


def test_better_quality_takes_more_room(song: Path, convert: Convert) -> None:
    """Each codec's own scale is kept: 0 is the best for mp3, 10 for ogg."""
    sizes = {}
    for target, best, worst in (("mp3", 0, 9), ("ogg", 10, -1)):
        sizes[target] = [convert(song, target, {"quality": value}).path.stat().st_size for value in (best, worst)]
    assert all(best > 1.5 * worst for best, worst in sizes.values())


@pytest.mark.parametrize("target", ["mp3", "ogg", "opus", "wav", "flac", "m4a", "aiff"])
def test_sample_rate_and_channels_are_those_asked_for(song: Path, convert: Convert, target: str) -> None:
    """24 kHz mono is 24 kHz mono in the file, not only in the answer."""
    done = convert(song, target, {"sampleRateHz": 24_000, "channels": 1})
    assert (done.result["sampleRateHz"], done.result["channels"]) == (24_000, 1)
    assert done.result["durationSeconds"] == pytest.approx(6.0, abs=0.06)


@pytest.mark.parametrize("target", ["m4a", "m4b"])
def test_long_mono_recordings_become_mono_m4a(convert: Convert, tmp_path: Path, target: str) -> None:
    """One channel is one channel, also where the result is too long to be decoded once more for its check."""
    source = audio.make(tmp_path / "a.flac", 130.0, 16_000, 1)
    done = convert(source, target)
    assert done.result["channels"] == 1
    assert convert(done.path, "wav", {"endSeconds": 1}).source.channels == 1


@pytest.mark.parametrize(
    ("target", "bits"),
    [("wav", 8), ("wav", 24), ("wav", 32), ("flac", 24), ("aiff", 24), ("alac", 24), ("caf", 24), ("wv", 24)],
)
def test_the_bit_depth_is_the_one_asked_for(song: Path, convert: Convert, target: str, bits: int) -> None:
    """The depth in the file's header is the asked one, and what is lost on the way is less than one step of it."""
    done = convert(song, target, {"bitDepth": bits})
    assert done.result["bitDepth"] == bits
    assert audio.signal_to_noise(audio.mono(song), audio.mono(done.path)) > (15 if bits == 8 else 60)


@pytest.mark.parametrize("target", ["wav", "mp3", "ogg", "m4a", "flac"])
def test_a_part_is_cut_out_to_the_sample(song: Path, convert: Convert, target: str) -> None:
    """Seconds 1.25 to 3.5 are those very seconds of the recording."""
    done = convert(song, target, {"startSeconds": 1.25, "endSeconds": 3.5})
    assert done.result["durationSeconds"] == pytest.approx(2.25, abs=0.03)
    whole = audio.mono(song)
    part = whole[10_000:28_000]
    assert audio.signal_to_noise(part, audio.mono(done.path)) > 14


def test_fades_begin_and_end_in_silence(song: Path, convert: Convert) -> None:
    """The first and last tenth of a second are quiet, the middle is not."""
    values = audio.mono(convert(song, "wav", {"fadeInSeconds": 2, "fadeOutSeconds": "1.5"}).path)
    middle = level(values[20_000:28_000])
    assert level(values[:800]) < 0.06 * middle
    assert level(values[-800:]) < 0.08 * middle


def test_a_fade_at_the_end_finds_the_end_of_a_file_that_does_not_say_how_long_it_is(
    convert: Convert, tmp_path: Path
) -> None:
    """A bare AAC stream has no length in its header; the fade still ends where the audio ends."""
    source = audio.make(tmp_path / "a.aac", 4.0)
    values = audio.mono(convert(source, "wav", {"fadeOutSeconds": 1}).path)
    assert level(values[-600:]) < 0.1 * level(values[8_000:16_000])


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("wav", {"loudnessLufs": -23}),
        ("mp3", {"loudnessLufs": -16, "bitrateKbps": 64}),
        ("mp3", {"loudnessLufs": -16, "channels": 1}),
        ("ogg", {"loudnessLufs": -20, "channels": 1, "sampleRateHz": 16_000}),
        ("flac", {"loudnessLufs": -20, "fadeInSeconds": 2, "fadeOutSeconds": 2}),
        ("opus", {"loudnessLufs": -18, "startSeconds": 1, "endSeconds": 5}),
        ("flac", {"loudnessLufs": -9}),
    ],
)
def test_loudness_is_brought_to_the_target_and_measured(
    song: Path, convert: Convert, target: str, options: dict[str, float]
) -> None:
    """Whatever else is asked for, another meter finds the loudness within 0.5 LU, the true peak as it is told and not above 0 dBTP."""
    done = convert(song, target, options)
    report = done.result["loudness"]
    loudness, peak = audio.loudness(done.path)
    assert loudness == pytest.approx(options["loudnessLufs"], abs=0.5)
    assert report["measuredLufs"] == pytest.approx(loudness, abs=0.1)
    assert report["truePeakDbtp"] == pytest.approx(peak, abs=0.1)
    assert peak <= 0.0


def test_a_loudness_out_of_reach_is_told(convert: Convert, tmp_path: Path) -> None:
    """Short beats in near silence cannot be at -5 LUFS under -1 dBTP: the result is as loud as it gets and a warning names its loudness."""
    beats = "0.9*sin(2*PI*200*t)*exp(-90*mod(t,1))+0.001*sin(2*PI*440*t)"
    audio.run("-f", "lavfi", "-i", f"aevalsrc='{beats}':s=44100:d=6:c=mono", tmp_path / "beats.wav")
    result = convert(tmp_path / "beats.wav", "wav", {"loudnessLufs": -5}).result
    assert result["loudness"]["truePeakDbtp"] <= -0.8
    assert "loudness_missed" in {notice["code"] for notice in result["warnings"]}


def test_mixing_down_does_not_clip(convert: Convert, tmp_path: Path) -> None:
    """Two full channels of floating point mixed to one stay within full scale, asked for or forced by the format."""
    source = audio.make(tmp_path / "full.wav", 2.0, 44_100, 2, "-c:a", "pcm_f32le", level=0.97)
    loud = [abs(value) for value in audio.mono(convert(source, "wav", {"channels": 1, "bitDepth": 16}).path, 44_100)]
    assert sum(value > 0.999 for value in loud) < 5


def test_a_length_that_is_only_guessed_refuses_nothing(convert: Convert, tmp_path: Path) -> None:
    """An AAC stream that begins with silence seems to last minutes; its true length is counted, told, and held against what is asked."""
    source = tmp_path / "a.aac"
    silence, noise = ["-f", "lavfi", "-i", "anullsrc=d=8"], ["-f", "lavfi", "-i", "anoisesrc=d=8"]
    audio.run(*silence, *noise, "-filter_complex", "[0][1]concat=n=2:v=0:a=1", source)
    done = convert(source, "wav")
    assert done.source.duration_seconds == pytest.approx(16, abs=0.1)
    assert done.result["durationSeconds"] == pytest.approx(16, abs=0.1)
    assert convert(source, "wav", {"startSeconds": 14}).result["durationSeconds"] == pytest.approx(2, abs=0.1)
    with pytest.raises(Unconvertible) as caught:
        convert(source, "wav", {"startSeconds": 17})
    assert caught.value.code == "bad_options"


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({}, "damaged_input"),
        ({"startSeconds": 9}, "damaged_input"),
        ({"startSeconds": 7, "endSeconds": 12}, "damaged_input"),
        ({"endSeconds": 10}, "truncated_input"),
        ({"endSeconds": 7}, None),
    ],
)
def test_a_part_that_a_truncated_recording_lacks_is_never_a_silent_success(
    convert: Convert, tmp_path: Path, options: dict[str, float], ends: str | None
) -> None:
    """Of 18.6 s that an MP3's header promises, 8.1 are there: what lies within them is converted, what does not fails or is told."""
    data = audio.make(tmp_path / "whole.mp3", 18.6).read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) * 81 // 186])
    try:
        told = {notice["code"] for notice in convert(tmp_path / "cut.mp3", "flac", options).result["warnings"]}
    except Unconvertible as error:
        told = {error.code}
    assert (ends in told) if ends else not told


def test_silence_has_no_loudness(convert: Convert, tmp_path: Path) -> None:
    """Nothing can bring silence to -16 LUFS, and the failure says so."""
    audio.run("-f", "lavfi", "-i", "anullsrc=d=3", tmp_path / "silence.wav")
    with pytest.raises(Unconvertible) as caught:
        convert(tmp_path / "silence.wav", "mp3", {"loudnessLufs": -16})
    assert caught.value.code == "too_quiet"


def test_without_metadata_and_cover_nothing_of_them_is_left(convert: Convert, tmp_path: Path) -> None:
    """keepMetadata and keepCover are each kept, alone and together."""
    source = audio.tagged_mp3(tmp_path / "a.mp3")
    bare = convert(source, "flac", {"keepMetadata": "false", "keepCover": False}).result
    no_tags = convert(source, "flac", {"keepMetadata": False}).result
    no_cover = convert(source, "mp3", {"keepCover": "no"}).result
    assert (bare["tags"], bare["cover"], bare["chapters"]) == (0, False, 0)
    assert (no_tags["tags"], no_tags["cover"]) == (0, True)
    assert (no_cover["tags"], no_cover["cover"], no_cover["copied"]) == (8, False, True)


def test_options_that_this_recording_does_not_allow_fail_with_what_is_allowed(song: Path, convert: Convert) -> None:
    """A part behind the end is refused with the length that there is."""
    with pytest.raises(Unconvertible) as caught:
        convert(song, "mp3", {"startSeconds": 7})
    assert caught.value.code == "bad_options"
    assert "6.020" in caught.value.message


def test_a_stream_that_fits_is_copied_and_says_so(convert: Convert, tmp_path: Path) -> None:
    """m4a → aac, ogg → webm and mp3 → mp3 keep every packet; asking for a bit rate encodes anew."""
    m4a = audio.make(tmp_path / "a.m4a", 3.0, 48_000)
    ogg = audio.make(tmp_path / "a.opus", 3.0, 48_000)
    mp3 = audio.make(tmp_path / "a.mp3", 3.0, 48_000)
    for source, target in ((m4a, "aac"), (m4a, "m4a"), (ogg, "webm"), (mp3, "mp3")):
        done = convert(source, target)
        assert done.result["copied"] is True
        assert audio.signal_to_noise(audio.mono(source, 48_000), audio.mono(done.path, 48_000), 2_400) > 60
    assert convert(mp3, "mp3", {"bitrateKbps": 96}).result["copied"] is False
    assert convert(m4a, "m4a", {"endSeconds": 1}).result["copied"] is False
