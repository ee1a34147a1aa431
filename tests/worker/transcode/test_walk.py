"""A walk along a result agrees with a decoder about its length and sees every kind of damage to its structure."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import audio
from worker.transcode.walk import Broken, ogg_checksum, walk

FILES = (
    ("a.mp3", "mp3"), ("a.mp2", "mp2"), ("a.aac", "adts"), ("a.ac3", "ac3"), ("a.ogg", "ogg"), ("a.opus", "ogg"), ("a.flac", "flac"),
    ("a.wav", "wav"), ("a.aiff", "aiff"), ("a.m4a", "mp4"),
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    for name, _ in FILES:
        audio.make(folder / name, 3.0, 48_000, 2, *(["-c:a", "libvorbis"] if name == "a.ogg" else []))
    return folder


@pytest.mark.parametrize(("name", "container"), FILES)
def test_a_walk_counts_what_a_decoder_plays(files: Path, name: str, container: str) -> None:
    """The number of samples is the decoder's; the m4a of 3 seconds may differ by the filled-up last frame."""
    walked = walk(str(files / name), container)
    played = len(audio.samples(files / name, form="s16le")) // 4
    assert walked is not None
    assert abs(walked.samples - played) <= (1_024 if container == "mp4" else 0)


@pytest.mark.parametrize(("name", "container"), FILES)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_walk_sees_that_the_end_is_missing(
    files: Path, tmp_path: Path, name: str, container: str, share: float
) -> None:
    """Cut anywhere but exactly between two frames, the file is broken."""
    data = (files / name).read_bytes()
    torn = tmp_path / name
    torn.write_bytes(data[: int(len(data) * share) | 1])
    with pytest.raises(Broken):
        walk(str(torn), container)


def test_a_walk_sees_one_flipped_bit_in_an_ogg_page(files: Path, tmp_path: Path) -> None:
    """Ogg pages carry a checksum over all their bytes."""
    data = bytearray((files / "a.ogg").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.ogg").write_bytes(data)
    with pytest.raises(Broken, match="checksum"):
        walk(str(tmp_path / "a.ogg"), "ogg")


def test_oggs_checksum_is_the_one_of_the_specification() -> None:
    """Computed bit by bit, the slow way, it is the same."""

    def slowly(data: bytes) -> int:
        register = 0
        for byte in data:
            register ^= byte << 24
            for _ in range(8):
                register = (register << 1 ^ (0x04C11DB7 if register & 0x80000000 else 0)) & 0xFFFFFFFF
        return register

    for data in (b"", b"a", b"OggS" * 50, bytes(range(256))):
        assert ogg_checksum(data) == slowly(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FILES),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20),
    cut=st.floats(0.01, 1),
)
def test_any_damage_is_walked_or_found_broken(
    files: Path, tmp_path: Path, name: tuple[str, str], flips: list[tuple[float, int]], cut: float
) -> None:
    """Whatever bytes a file holds, the walk ends with a count or with Broken."""
    data = bytearray((files / name[0]).read_bytes())
    for place, value in flips:
        data[int(len(data) * place * place)] = value
    damaged = tmp_path / name[0]
    damaged.write_bytes(data[: max(1, int(len(data) * cut))])
    try:
        walk(str(damaged), name[1])
    except Broken:
        pass
