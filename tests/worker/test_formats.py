"""The table of formats, the reading of options, and the plan: pure functions, checked without any audio."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.fuzzing import FUZZ
from worker.contract import formats
from worker.contract.formats import (
    OUTPUTS,
    Chapter,
    OptionError,
    Options,
    Probe,
    catalogue,
    parse_options,
    plan,
    probe_from_json,
)
from worker.contract.formats_doc import page

MP3 = Probe("mp3", "mp3", 44_100, 2, duration_seconds=186.0, duration_exact=True, bitrate_kbps=128)
WAV = Probe("wav", "pcm_s24le", 96_000, 2, bit_depth=24, duration_seconds=10.0, duration_exact=True)


def refusal(target: str, raw: dict[str, object]) -> dict[str, list[str]]:
    """The errors with which the options are refused."""
    with pytest.raises(OptionError) as caught:
        parse_options(target, raw)
    return caught.value.errors


@pytest.mark.parametrize(
    ("target", "raw", "field", "says"),
    [
        ("exe", {}, "newFormat", "mp3"),
        ("mp3", {"bitrate": 1}, "bitrate", "bitrateKbps"),
        ("opus", {"sampleRateHz": 44_100}, "sampleRateHz", "48000"),
        ("mp3", {"bitrateKbps": 127}, "bitrateKbps", "128"),
        ("mp3", {"bitrateKbps": 320, "sampleRateHz": 22_050}, "bitrateKbps", "160"),
        ("ogg", {"bitrateKbps": 128, "sampleRateHz": 96_000}, "bitrateKbps", "quality"),
        ("mp3", {"bitrateKbps": 128, "quality": 2}, "quality", "not for both"),
        ("flac", {"bitrateKbps": 128}, "bitrateKbps", "bitDepth"),
        ("mp3", {"bitDepth": 16}, "bitDepth", "bitrateKbps"),
        ("flac", {"bitDepth": 32}, "bitDepth", "16 or 24"),
        ("mp3", {"channels": 6}, "channels", "1 or 2"),
        ("wav", {"startSeconds": 5, "endSeconds": 5}, "endSeconds", "startSeconds"),
        ("wav", {"endSeconds": 5, "fadeInSeconds": 3, "fadeOutSeconds": 3}, "fadeOutSeconds", "5"),
        ("wav", {"startSeconds": -1}, "startSeconds", "from 0"),
        ("wav", {"startSeconds": "nan"}, "startSeconds", "number"),
        ("wav", {"loudnessLufs": 3}, "loudnessLufs", "-50 to -5"),
        ("wav", {"channels": True}, "channels", "whole number"),
        ("wav", {"keepCover": "maybe"}, "keepCover", "true or false"),
        ("mp3", {"quality": 10}, "quality", "0 is the best"),
        ("mp3", {"bitrateKbps": ""}, "bitrateKbps", "320"),
        ("opus", {"sampleRateHz": "fast"}, "sampleRateHz", "48000"),
        ("wav", {"loudnessLufs": float("nan")}, "loudnessLufs", "-50 to -5"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(
    target: str, raw: dict[str, object], field: str, says: str
) -> None:
    """Every refusal names the field as the client wrote it and the values that would do."""
    assert says in " ".join(refusal(target, raw)[field])


def test_text_from_a_form_and_values_from_json_mean_the_same() -> None:
    """Multipart sends "128" and "false" where JSON sends 128 and false."""
    form = parse_options("mp3", {"bitrateKbps": "128", "startSeconds": "1.5", "keepCover": "false"})
    assert form == parse_options("mp3", {"bitrateKbps": 128, "startSeconds": 1.5, "keepCover": False})
    assert Options.from_json(form.to_json()) == form
    assert form.to_json() == {"bitrateKbps": 128, "startSeconds": 1.5, "keepCover": False}


def test_every_mistake_is_told_at_once() -> None:
    """Three wrong fields give three errors, not the first of them."""
    assert set(refusal("opus", {"sampleRateHz": 1, "channels": "x", "nope": 1})) == {"sampleRateHz", "channels", "nope"}


def test_every_default_is_allowed_by_its_own_format() -> None:
    """The bit rate used when none is asked is one that may be asked, for every rate and number of channels."""
    for entry in OUTPUTS.values():
        for rate in formats._sample_rates(entry):
            for channels in range(1, entry.max_channels + 1):
                default = formats.default_bitrate(entry, rate, channels)
                assert default is None or (entry.bitrates is not None and default in entry.bitrates(rate, channels))


def test_a_lossy_source_becomes_16_bit_and_a_deep_one_stays_deep() -> None:
    """The depth follows the source unless asked: 16 for mp3, 24 for 24-bit WAV."""
    assert plan(MP3, "wav", Options()).bit_depth == 16
    assert plan(WAV, "flac", Options()).bit_depth == 24
    assert plan(MP3, "flac", Options(bit_depth=24)).warnings[0].code == "deeper_than_source"


def test_what_the_format_forces_is_a_warning() -> None:
    """96 kHz does not fit in mp3, six channels do not fit in mp3: both are said."""
    surround = Probe("wav", "pcm_s16le", 96_000, 6, bit_depth=16, duration_seconds=1.0, duration_exact=True)
    planned = plan(surround, "mp3", Options())
    assert (planned.sample_rate_hz, planned.channels) == (48_000, 2)
    assert {notice.code for notice in planned.warnings} == {"resampled", "downmixed"}


def test_an_option_that_only_the_input_makes_wrong_is_refused_by_the_plan() -> None:
    """320 kbit/s is fine for mp3, but not for a recording at 22,050 Hz."""
    options = parse_options("mp3", {"bitrateKbps": 320})
    with pytest.raises(OptionError) as caught:
        plan(Probe("wav", "pcm_s16le", 22_050, 1, bit_depth=16), "mp3", options)
    assert "160" in caught.value.errors["bitrateKbps"][0]


@pytest.mark.parametrize(
    ("probe", "target", "options", "copied"),
    [
        (MP3, "mp3", Options(), True),
        (MP3, "mp3", Options(bitrate_kbps=96), False),
        (MP3, "mp3", Options(end_seconds=3), False),
        (MP3, "mp3", Options(keep_metadata=False), True),
        (Probe("mp4", "aac", 44_100, 2), "aac", Options(), True),
        (Probe("mp4", "aac", 44_100, 2), "aac", Options(channels=1), False),
        (Probe("ogg", "opus", 48_000, 2), "webm", Options(), True),
        (Probe("wav", "pcm_s16le", 44_100, 2, bit_depth=16), "flac", Options(), False),
    ],
)
def test_a_stream_is_copied_exactly_when_nothing_asked_would_change_it(
    probe: Probe, target: str, options: Options, copied: bool
) -> None:
    """No needless encoding, and no option ignored by a copy."""
    assert plan(probe, target, options).copied is copied


def test_the_size_is_foretold() -> None:
    """A minute of CD sound is 10 MB as WAV and 1.4 MB at 192 kbit/s."""
    minute = Probe("flac", "flac", 44_100, 2, bit_depth=16, duration_seconds=60.0, duration_exact=True)
    assert plan(minute, "wav", Options()).estimated_bytes == pytest.approx(10_584_000, rel=0.01)
    assert plan(minute, "mp3", Options(bitrate_kbps=192)).estimated_bytes == pytest.approx(1_440_000, rel=0.01)


def test_the_catalogue_lists_only_what_the_workers_can_write() -> None:
    """Without libmp3lame there is no mp3; before any worker has spoken the whole table is given."""
    assert set(catalogue(None)["outputs"]) == set(OUTPUTS)
    assert set(catalogue({"flac", "libopus"})["outputs"]) == {"flac", "opus", "webm"}


def test_the_page_is_the_one_that_the_table_gives() -> None:
    """docs/formats.md was written anew after the last change of the table."""
    written = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m worker.contract.formats_doc > docs/formats.md"


def test_the_contract_loads_without_heavy_libraries() -> None:
    """The web tier must not pay for pydub, mutagen or ffmpeg."""
    code = "import sys, worker.contract.formats; print(sorted({'pydub', 'mutagen', 'flask', 'worker.transcode'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


# ------------------------------------------------------------------------------------------------------ fuzzing

_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2),
    st.sampled_from(["1", "128", "44100", "-1", "1e5", "0x10", "٣", "true", "off", "1_000", " 5 ", "5.5"]),
)  # fmt: skip
_options = st.dictionaries(st.one_of(st.sampled_from(formats.OPTION_NAMES), st.text(max_size=10)), _values, max_size=8)
_probes = st.builds(
    Probe,
    container=st.sampled_from(["mp3", "wav", "ogg", "mp4", "matroska"]),
    codec=st.sampled_from(
        ["mp3", "aac", "opus", "vorbis", "flac", "pcm_s16le", "pcm_f32le", "alac", "ac3", "dsd_lsbf", "wmav2"]
    ),
    sample_rate_hz=st.integers(1, 10_000_000),
    channels=st.integers(1, 1_024),
    bit_depth=st.one_of(st.none(), st.integers(1, 64)),
    float_samples=st.booleans(),
    duration_seconds=st.one_of(st.none(), st.floats(0, 1e9)),
    duration_exact=st.booleans(),
    bitrate_kbps=st.one_of(st.none(), st.integers(0, 10_000_000)),
    tags=st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=2).map(tuple), max_size=3),
    has_cover=st.booleans(),
    cover_bytes=st.one_of(st.none(), st.integers(0, 2**30)),
    chapters=st.lists(st.builds(Chapter, st.just(0.0), st.floats(0, 100), st.text(max_size=5)), max_size=3).map(tuple),
)


@FUZZ
@given(target=st.sampled_from(list(OUTPUTS)), raw=_options, probe=_probes)
def test_any_options_and_any_input_give_a_possible_plan_or_a_refusal(
    target: str, raw: dict[str, object], probe: Probe
) -> None:
    """Whatever comes in: a plan within the format's own limits that does what was asked, or an OptionError with sentences. Never a crash."""
    try:
        options = parse_options(target, raw)
        planned = plan(probe, target, options)
    except OptionError as error:
        assert error.errors
        assert all(sentence.endswith(".") for sentences in error.errors.values() for sentence in sentences)
        return
    entry = OUTPUTS[target]
    assert Options.from_json(options.to_json()) == options
    assert planned.to_json()["newFormat"] == target
    assert planned.channels <= entry.max_channels
    assert planned.copied or planned.sample_rate_hz in entry.rates
    for asked, got in (
        (options.sample_rate_hz, planned.sample_rate_hz),
        (options.channels, planned.channels),
        (options.bit_depth, planned.bit_depth),
        (options.bitrate_kbps, planned.bitrate_kbps),
        (options.quality, planned.quality),
    ):
        assert asked is None or asked == got
    assert planned.estimated_bytes is None or planned.estimated_bytes >= 0


@FUZZ
@given(probe=_probes)
def test_a_probe_survives_the_wire(probe: Probe) -> None:
    """to_json and probe_from_json are inverses."""
    assert probe_from_json(probe.to_json()) == probe


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
    max_leaves=12,
)


@FUZZ
@given(
    raw=st.one_of(
        _json,
        st.dictionaries(st.sampled_from(["container", "codec", "sampleRateHz", "channels", "tags", "chapters"]), _json),
    )
)
def test_a_strangers_probe_is_read_or_refused(raw: object) -> None:
    """Any JSON gives a Probe or an OptionError whose fields begin with "probe"."""
    try:
        assert isinstance(probe_from_json(raw), Probe)
    except OptionError as error:
        assert all(name.startswith("probe") for name in error.errors)
