"""Tags, cover and chapters come through every container that can hold them, there and back."""

from pathlib import Path

import pytest

from tests import audio
from tests.worker.transcode.conftest import Convert
from worker.contract.formats import OUTPUTS

TAGGED = [name for name, entry in OUTPUTS.items() if entry.tags != "none"]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audio.tagged_mp3(tmp_path_factory.mktemp("tagged") / "a.mp3")


@pytest.mark.parametrize("target", TAGGED)
def test_tags_come_through(tagged: Path, convert: Convert, target: str) -> None:
    """Unicode outside the first plane, line breaks, "3/12" and an own name are in the result, as another conversion reads them."""
    done = convert(tagged, target)
    back = convert(done.path, "flac").source
    assert {name: back.tags.get(name) for name in audio.TAGS} == {name: (text,) for name, text in audio.TAGS.items()}
    assert back.has_cover is OUTPUTS[target].cover
    assert done.result["cover"] is OUTPUTS[target].cover
    titles = [title for _, _, title in audio.CHAPTERS] if OUTPUTS[target].chapters else []
    assert [chapter.title for chapter in back.chapters] == titles


@pytest.mark.parametrize("target", ["mp3", "ogg", "opus", "flac", "m4a", "wv", "aiff"])
def test_a_large_cover_comes_through_byte_by_byte(convert: Convert, tmp_path: Path, target: str) -> None:
    """A cover of more than 64 KiB, which spans pages in Ogg, is the same picture afterwards."""
    import os

    picture = audio.png(16, 16)[:-12] + os.urandom(300_000) + audio.png()[-12:]
    source = audio.tagged_mp3(tmp_path / "a.mp3", cover=picture)
    done = convert(source, target)
    second = convert(done.path, "flac")
    from mutagen.flac import FLAC

    assert FLAC(second.path).pictures[0].data == picture


def test_independent_readers_see_the_cover_in_ogg(tagged: Path, convert: Convert) -> None:
    """ffmpeg, which did not write the picture block as such, finds a picture in the file."""
    import subprocess

    done = convert(tagged, "ogg")
    said = subprocess.run([audio.ffmpeg(), "-hide_banner", "-i", done.path], capture_output=True, text=True).stderr
    assert "Video: png" in said


def test_chapters_move_with_the_part_that_is_cut_out(tagged: Path, convert: Convert) -> None:
    """From 0.5 s on, the first chapter begins at 0 and the second at 0.3 s."""
    done = convert(tagged, "m4a", {"startSeconds": 0.5, "endSeconds": 1.2})
    chapters = convert(done.path, "flac").source.chapters
    assert [(round(chapter.start_seconds, 2), chapter.title) for chapter in chapters] == [(0.0, "Début"), (0.3, "Zwei")]


def read_by_mutagen(path: Path, target: str) -> dict[str, list[str]]:
    """Artist, genre, title and comment as mutagen, not we, reads them."""
    from mutagen import flac, id3, mp4, oggopus, oggvorbis, wave

    if target in ("mp3", "wav"):
        frames = id3.ID3(path) if target == "mp3" else wave.WAVE(path).tags
        return {
            "artist": frames["TPE1"].text, "genre": frames["TCON"].text, "title": frames["TIT2"].text,
            "comment": frames.getall("COMM")[0].text,
        }  # fmt: skip
    if target == "m4a":
        atoms = mp4.MP4(path)
        keys = {"artist": "©ART", "genre": "©gen", "title": "©nam", "comment": "©cmt"}
        return {name: list(atoms[key]) for name, key in keys.items()}
    comments = {"ogg": oggvorbis.OggVorbis, "opus": oggopus.OggOpus, "flac": flac.FLAC}[target](path)
    return {name: comments[name] for name in ("artist", "genre", "title", "comment")}


@pytest.mark.parametrize("target", ["mp3", "wav", "m4a", "ogg", "opus", "flac"])
def test_each_of_several_values_is_there_for_independent_readers(convert: Convert, tmp_path: Path, target: str) -> None:
    """Two artists and two genres are two values in every family of tags, read by mutagen, and on the way back."""
    from mutagen import id3

    source = audio.tagged_mp3(tmp_path / "a.mp3")
    tags = id3.ID3(source)
    tags.add(id3.TPE1(encoding=3, text=["Ana Müller", "東京 Band"]))
    tags.add(id3.TCON(encoding=3, text=["Jazz", "Bop"]))
    tags.save(source)
    done = convert(source, target)
    assert read_by_mutagen(done.path, target) == {
        "artist": ["Ana Müller", "東京 Band"], "genre": ["Jazz", "Bop"], "title": [audio.TAGS["title"]],
        "comment": [audio.TAGS["comment"]],
    }  # fmt: skip
    assert read_by_mutagen(convert(done.path, "mp3").path, "mp3")["artist"] == ["Ana Müller", "東京 Band"]


@pytest.mark.parametrize("target", ["mp3", "m4a", "ogg", "flac", "webm"])
def test_ffmpeg_sees_the_chapters_in_their_order(tagged: Path, convert: Convert, target: str) -> None:
    """Another program lists the three chapters one after another, with their titles."""
    dumped = audio.run("-i", convert(tagged, target).path, "-f", "ffmetadata", "-").decode()
    chapters = dumped.partition("[CHAPTER]")[2]
    titles = [line.partition("=")[2] for line in chapters.splitlines() if line.lower().startswith("title=")]
    assert titles == [title for _, _, title in audio.CHAPTERS]


def test_tags_of_many_values_and_odd_names_do_no_harm(convert: Convert, tmp_path: Path) -> None:
    """Two artists, a name with '=' and line breaks, an empty value, a long text: what can be kept is, and nothing breaks."""
    from mutagen.flac import FLAC

    source = audio.make(tmp_path / "a.flac", 1.0)
    tags = FLAC(source)
    tags["artist"] = ["One", "Two"]
    tags["odd name [1]"] = "x"
    tags["empty"] = ""
    tags["lyrics"] = "la\n" * 20_000
    tags.save()
    for target in ("mp3", "m4a", "ogg", "wav"):
        done = convert(source, target)
        back = convert(done.path, "flac").source.tags
        assert back["artist"] in (("One", "Two"), ("One; Two",)), target
        assert back["lyrics"][0].count("la") > 19_000, target


def test_a_cover_that_the_format_cannot_hold_is_left_out_and_told(convert: Convert, tmp_path: Path) -> None:
    """MP4 takes JPEG and PNG; a GIF does not make the conversion fail."""
    source = audio.tagged_mp3(tmp_path / "a.mp3", cover=b"GIF89a" + bytes(200))
    result = convert(source, "m4a").result
    assert result["cover"] is False
    assert "cover_lost" in {notice["code"] for notice in result["warnings"]}


@pytest.mark.parametrize("target", TAGGED)
def test_odd_tag_names_do_not_make_a_conversion_fail(convert: Convert, tmp_path: Path, target: str) -> None:
    """Names outside ASCII, with colons, or of one letter are kept or named in a warning; the title is there in any case."""
    from mutagen import id3

    source = audio.make(tmp_path / "a.mp3", 0.5)
    tags = id3.ID3()
    tags.add(id3.TIT2(encoding=3, text=["x"]))
    for name in ("ключ", "a", "a:b:c", "=", "  ", "tab\tname", "x" * 300, "APIC", "id3", "[STREAM]", "CHAPTER001"):
        tags.add(id3.TXXX(encoding=3, desc=name, text=["value"]))
    tags.save(source)
    done = convert(source, target)
    assert convert(done.path, "flac").source.tags["title"] == ("x",)
