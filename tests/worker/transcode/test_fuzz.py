"""Fuzzing what reads strangers' bytes and words: the probe of a file, the plan over it, and what ffmpeg says and writes.

`make test` tries the same few examples each time; `make fuzz-audio EXAMPLES=5000 SEED=7` tries new ones.
"""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import audio
from tests.worker.fuzzing import FUZZ
from worker.contract.formats import FAILURES, OUTPUTS, OptionError, Options, Probe, plan, probe_from_json
from worker.transcode import Transcoder, Unconvertible, _read_metadata
from worker.transcode.ffmpeg import Account, escape_metadata, progress_seconds

KINDS = (
    "tagged.mp3",
    "mp3",
    "wav",
    "flac",
    "ogg",
    "opus",
    "m4a",
    "aiff",
    "aac",
    "caf",
    "mka",
    "wma",
    "wv",
    "au",
    "ac3",
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A sound file of each kind."""
    folder = tmp_path_factory.mktemp("seeds")
    made = {}
    for kind in KINDS:
        path = folder / f"a.{kind}"
        if kind == "tagged.mp3":
            audio.tagged_mp3(path, 0.5)
        else:
            audio.make(path, 0.5, 48_000, 2, *(["-c:a", "libvorbis"] if kind == "ogg" else []))
        made[kind] = path.read_bytes()
    return made


_edits = st.lists(
    st.tuples(
        st.sampled_from(["write", "insert", "drop", "double"]),
        st.floats(0, 0.999),
        st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"OggS", b"data", b"moov"])),
    ),
    max_size=12,
)  # fmt: skip


@FUZZ
@given(kind=st.sampled_from(KINDS), edits=_edits, options=st.builds(Options, sample_rate_hz=st.sampled_from([None, 8_000, 48_000]), channels=st.sampled_from([None, 1, 2]), end_seconds=st.one_of(st.none(), st.floats(0.01, 5))))  # fmt: skip
def test_any_file_is_probed_and_planned_or_refused_with_a_reason(
    transcoder: Transcoder,
    seeds: dict[str, bytes],
    tmp_path: Path,
    kind: str,
    edits: list[tuple[str, float, bytes]],
    options: Options,
) -> None:
    """However a file is damaged: a probe that survives the wire and from which every format can be planned, or a code of the table."""
    data = bytearray(seeds[kind])
    for how, place, patch in edits:
        at = int(len(data) * place**3)  # mostly in the headers
        if how == "write":
            data[at : at + len(patch)] = patch
        elif how == "insert":
            data[at:at] = patch
        elif how == "drop":
            del data[at : at + len(patch)]
        else:
            data[at:at] = data[at : at + 64]
    folder = tmp_path / f"job{len(os.listdir(tmp_path))}"
    folder.mkdir()
    (folder / "source").write_bytes(data)
    try:
        probe = transcoder.probe(folder / "source", folder)
    except Unconvertible as refused:
        assert refused.code in FAILURES
        assert "/" not in refused.message
        return
    assert isinstance(probe, Probe)
    assert probe_from_json(probe.to_json()) == probe
    for target in OUTPUTS:
        try:
            planned = plan(probe, target, options)
        except OptionError as error:
            assert all(error.errors.values())
            continue
        assert 1 <= planned.channels <= OUTPUTS[target].max_channels
        assert planned.duration_seconds is None or planned.duration_seconds >= 0


_words = st.sampled_from([
    "Input #0, mp3, from 'file:source':", "  Duration: 00:00:05.04, start: 0.025, bitrate: 131 kb/s", "  Duration: N/A, bitrate: N/A",
    "  Stream #0:0: Audio: mp3, 44100 Hz, stereo, fltp, 128 kb/s", "  Stream #0:1[0x1](und): Audio: aac (LC) (mp4a / 0x6134706D), 0 Hz, 99 channels",
    "  Input stream #0:0 (audio): 5 packets read (99 bytes); 5 frames decoded; 2 decode errors (99999 samples); ", "Summary:", "    I:  -inf LUFS",
    "Codec (png) not on whitelist 'aac'", "No space left on device", "Stream mapping:", "Output #0, wav, to 'x':",
])  # fmt: skip
_lines = st.lists(
    st.builds(
        lambda level, speaker, text: f"{speaker}{level}{text}",
        st.sampled_from(["[info] ", "[error] ", "[verbose] ", "[fatal] ", "", "["]),
        st.sampled_from(["", "[mp3 @ 0x55d0] ", "[Parsed_ebur128_0 @ 0x1] ", "[] "]),
        st.one_of(_words, st.text(max_size=60)),
    ),
    max_size=25,
)


@FUZZ
@given(lines=_lines)
def test_whatever_ffmpeg_says_is_taken_in(lines: list[str]) -> None:
    """Any lines, in any order and with a stranger's text among them, never raise, and a stream has a rate and channels."""
    account = Account()
    for line in lines:
        account.hear(line)
    assert account.stream is None or (account.stream.sample_rate_hz > 0 and account.stream.channels > 0)
    assert len(account.complaints) <= 20
    position = progress_seconds(lines)
    assert position is None or position >= 0


@FUZZ
@given(
    tags=st.dictionaries(st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=3, max_size=8).map("x".__add__), st.text(min_size=1, max_size=40), max_size=5),
    junk=st.text(max_size=200),
)  # fmt: skip
def test_tags_survive_ffmpegs_metadata_file(tmp_path: Path, tags: dict[str, str], junk: str) -> None:
    """What is escaped for ffmpeg's own format is read back as it was, whatever follows it in the file."""
    path = tmp_path / "tags.txt"
    body = "".join(f"{name}={escape_metadata(text)}\n" for name, text in tags.items())
    path.write_text(f";FFMETADATA1\n{body}[STREAM]\n{junk}", encoding="utf-8", newline="\n")
    found = _read_metadata(path)["tags"]
    for name, text in tags.items():
        kept = text.replace("\0", "").strip()
        assert not kept or kept in found[name]
