"""Reads and writes audio files' headers and tags. Its functions run only in a confined process (:mod:`worker.transcode.forkserver`).

They take and return plain JSON values. mutagen does the parsing where it knows the container; what it does not know is left to ffmpeg.
"""

# mypy: disable-error-code="no-untyped-call"

import contextlib
import io
import os
import re
import struct
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

import mutagen
from mutagen import aiff, apev2, asf, flac, id3, mp3, mp4, oggopus, oggvorbis, trueaudio, wave, wavpack
from mutagen.asf._attrs import ASFByteArrayAttribute

from worker.transcode.walk import Broken, ogg_checksum, walk

COVER_FILE = "cover.bin"
MAX_COVER_BYTES = 16 * 1024 * 1024
MAX_TEXT = 100_000
MAX_TAGS = 512
MAX_CHAPTERS = 2_000

# ------------------------------------------------------------------------------------------------ tags' names

# One name per fact, that of Vorbis comments in lower case, and what ID3, MP4 and ASF call it.
_NAMES: tuple[tuple[str, str, str, str], ...] = (
    ("title", "TIT2", "©nam", "Title"),
    ("artist", "TPE1", "©ART", "Author"),
    ("album", "TALB", "©alb", "WM/AlbumTitle"),
    ("albumartist", "TPE2", "aART", "WM/AlbumArtist"),
    ("date", "TDRC", "©day", "WM/Year"),
    ("originaldate", "TDOR", "", "WM/OriginalReleaseYear"),
    ("genre", "TCON", "©gen", "WM/Genre"),
    ("tracknumber", "TRCK", "", "WM/TrackNumber"),
    ("discnumber", "TPOS", "", "WM/PartOfSet"),
    ("discsubtitle", "TSST", "", "WM/SetSubTitle"),
    ("subtitle", "TIT3", "", "WM/SubTitle"),
    ("composer", "TCOM", "©wrt", "WM/Composer"),
    ("conductor", "TPE3", "", "WM/Conductor"),
    ("remixer", "TPE4", "", "WM/ModifiedBy"),
    ("lyricist", "TEXT", "", "WM/Writer"),
    ("grouping", "TIT1", "©grp", "WM/ContentGroupDescription"),
    ("organization", "TPUB", "", "WM/Publisher"),
    ("copyright", "TCOP", "cprt", "Copyright"),
    ("encodedby", "TENC", "", "WM/EncodedBy"),
    ("bpm", "TBPM", "", "WM/BeatsPerMinute"),
    ("isrc", "TSRC", "", "WM/ISRC"),
    ("language", "TLAN", "", "WM/Language"),
    ("key", "TKEY", "", "WM/InitialKey"),
    ("mood", "TMOO", "", "WM/Mood"),
    ("media", "TMED", "", "WM/Media"),
    ("titlesort", "TSOT", "sonm", "WM/TitleSortOrder"),
    ("artistsort", "TSOP", "soar", "WM/ArtistSortOrder"),
    ("albumsort", "TSOA", "soal", "WM/AlbumSortOrder"),
    ("albumartistsort", "TSO2", "soaa", "WM/AlbumArtistSortOrder"),
    ("composersort", "TSOC", "soco", "WM/ComposerSortOrder"),
    ("comment", "", "©cmt", "Description"),
    ("lyrics", "", "©lyr", "WM/Lyrics"),
    ("description", "", "desc", ""),
)
_ID3 = {frame: name for name, frame, _, _ in _NAMES if frame}
_TO_ID3 = {name: frame for frame, name in _ID3.items()}
_MP4 = {atom: name for name, _, atom, _ in _NAMES if atom}
_TO_MP4 = {name: atom for atom, name in _MP4.items()}
_ASF = {key.lower(): name for name, _, _, key in _NAMES if key}
_TO_ASF = {name: key for name, _, _, key in _NAMES if key}
_RIFF = {
    "INAM": "title", "IART": "artist", "IPRD": "album", "ICRD": "date", "IGNR": "genre", "ICMT": "comment", "ITRK": "tracknumber",
    "IPRT": "tracknumber", "ICOP": "copyright", "ILNG": "language", "IENG": "encodedby",
}  # fmt: skip
_APE = {
    "album artist": "albumartist",
    "year": "date",
    "track": "tracknumber",
    "disc": "discnumber",
    "publisher": "organization",
}
_TO_APE = {
    "albumartist": "Album Artist",
    "date": "Year",
    "tracknumber": "Track",
    "discnumber": "Disc",
    "organization": "Publisher",
}
_ALIASES = {
    "album_artist": "albumartist", "album artist": "albumartist", "track": "tracknumber", "disc": "discnumber", "year": "date",
    "publisher": "organization", "label": "organization", "unsyncedlyrics": "lyrics", "tbpm": "bpm", "initialkey": "key",
    "encoded_by": "encodedby", "sort_name": "titlesort", "sort_artist": "artistsort", "sort_album": "albumsort",
    "sort_album_artist": "albumartistsort", "sort_composer": "composersort", "lyrics-xxx": "lyrics", "lyrics-eng": "lyrics",
}  # fmt: skip
# Facts about the old file's encoding, which would be lies in the new one.
_DROPPED = frozenset(
    """
    encoder encodersettings tsse tlen tflt itunsmpb itunnorm itunpgap itunes_cddb_ids major_brand minor_version compatible_brands
    handler_name vendor_id metadata_block_picture coverart coverartmime waveformatextensible_channel_mask creation_time
    encoding_tool duration bps number_of_frames number_of_bytes isvbr devicename software
    """.split()  # noqa: SIM905 - a list of words reads better as one
)
STANDARD_NAMES = frozenset(name for name, *_ in _NAMES)
"""Names that every container with tags can hold. Others may get lost where a container's own rules forbid them."""
_LOUDNESS_TAGS = ("replaygain_", "r128_")

Tags = dict[str, list[str]]


def clean_tags(pairs: Iterable[tuple[str, str]]) -> Tags:
    """Tags under our names: no control characters in names, no NUL in values, none of the old file's encoding facts."""
    tags: Tags = {}
    totals: dict[str, str] = {}
    for raw_name, raw_text in pairs:
        name = re.sub(r"[\x00-\x1f=\x7f]", "", str(raw_name)).strip().lower()[:200]
        name = _ALIASES.get(name, name)
        text = str(raw_text).replace("\x00", "").strip()[:MAX_TEXT]
        # A lone surrogate is no text and could not be written anywhere.
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not name or not text or name in _DROPPED or re.fullmatch(r"chapter\d{3}\w*", name):
            continue
        if name in ("tracktotal", "totaltracks", "disctotal", "totaldiscs"):
            totals["tracknumber" if "track" in name else "discnumber"] = text
            continue
        if len(tags) >= MAX_TAGS and name not in tags:
            continue
        values = tags.setdefault(name, [])
        if text not in values and len(values) < 64:
            values.append(text)
    for name, total in totals.items():
        if name in tags and "/" not in tags[name][0]:
            tags[name] = [f"{tags[name][0]}/{total}"]
    return tags


def without_loudness(tags: Tags) -> Tags:
    """Tags less those that state the old loudness."""
    return {name: values for name, values in tags.items() if not name.startswith(_LOUDNESS_TAGS)}


# ---------------------------------------------------------------------------------------------------- covers


def image_type(data: bytes) -> str | None:
    """MIME type of a picture by its first bytes, None if it is none that players show."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/bmp" if data.startswith(b"BM") else None


def image_size(data: bytes) -> tuple[int, int, int]:
    """Width, height and bits per pixel of a PNG or JPEG; zeros (meaning not stated) for anything else."""
    if data.startswith(b"\x89PNG") and len(data) >= 26:
        width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
        return width, height, depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    if data.startswith(b"\xff\xd8"):
        at = 2
        while at + 9 < len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker in (0xC0, 0xC1, 0xC2, 0xC3):
                depth, height, width, parts = struct.unpack(">BHHB", data[at + 4 : at + 10])
                return width, height, depth * parts
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return 0, 0, 0


def _best_cover(pictures: Iterable[tuple[int, bytes]]) -> bytes | None:
    """The front cover if there is one, else the first picture that is one."""
    usable = [(kind != 3, data) for kind, data in pictures if 0 < len(data) <= MAX_COVER_BYTES and image_type(data)]
    return min(usable, key=lambda item: item[0])[1] if usable else None


# -------------------------------------------------------------------------------------------------- reading


class _Unknown(Exception):
    """This reader does not know the file; ffmpeg may."""


class _Facts(dict[str, Any]):
    """What was found, under the names of ``Probe``'s fields, with ``tags``, ``chapters`` and ``cover`` (bytes)."""


def _id3_facts(tags: Any) -> _Facts:
    pairs: list[tuple[str, str]] = []
    pictures: list[tuple[int, bytes]] = []
    chapters: list[list[Any]] = []
    for frame in (tags or {}).values():
        kind = frame.FrameID
        if kind in _ID3:
            texts = frame.genres if kind == "TCON" else frame.text
            pairs += [(_ID3[kind], str(text)) for text in texts]
        elif kind == "TXXX":
            pairs += [(frame.desc, str(text)) for text in frame.text]
        elif kind == "COMM":
            if frame.desc.lower() in ("", "id3v1 comment", "comment", "description"):
                pairs += [("comment", str(text)) for text in frame.text]
            elif not frame.desc.lower().startswith("itun"):
                pairs += [(f"comment:{frame.desc}", str(text)) for text in frame.text]
        elif kind == "USLT":
            pairs.append(("lyrics", frame.text))
        elif kind == "TCMP":
            pairs += [("compilation", str(text)) for text in frame.text]
        elif kind == "APIC":
            pictures.append((int(frame.type), frame.data))
        elif kind == "CHAP":
            title = next(
                (str(sub.text[0]) for sub in frame.sub_frames.values() if sub.FrameID == "TIT2" and sub.text), ""
            )
            chapters.append([frame.start_time / 1000, frame.end_time / 1000, title])
        elif kind in ("WOAR", "WXXX", "WOAF", "WPUB"):
            pairs.append(("website", frame.url))
    return _Facts(
        tags=clean_tags(pairs), cover=_best_cover(pictures), chapters=sorted(chapters, key=lambda chapter: chapter[:2])
    )


def _vorbis_facts(tags: Any, pictures: Iterable[Any] = ()) -> _Facts:
    pairs: list[tuple[str, str]] = list(tags or [])
    found = [(int(picture.type), picture.data) for picture in pictures]
    lowered = {name.lower() for name, _ in pairs}
    for name, text in pairs:
        if name.lower() == "metadata_block_picture" and len(text) < MAX_COVER_BYTES * 3 // 2:
            with contextlib.suppress(Exception):
                picture = flac.Picture(b64decode(text))
                found.append((int(picture.type), picture.data))
    # ffmpeg writes a comment as DESCRIPTION in Vorbis comments; read it back as what it was.
    renamed = [
        ("comment" if name.lower() == "description" and "comment" not in lowered else name, text)
        for name, text in pairs
    ]
    return _Facts(tags=clean_tags(renamed), cover=_best_cover(found), chapters=_vorbis_chapters(pairs))


def _vorbis_chapters(pairs: Iterable[tuple[str, str]]) -> list[list[Any]]:
    starts: dict[str, float] = {}
    titles: dict[str, str] = {}
    for name, text in pairs:
        match = re.fullmatch(r"chapter(\d{3})(name)?", name.lower())
        if match and match[2]:
            titles[match[1]] = text
        elif match and (time := re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", text.strip())):
            starts[match[1]] = int(time[1]) * 3600 + int(time[2]) * 60 + float(time[3])
    ordered = sorted(starts.items(), key=lambda item: item[1])
    return [[start, None, titles.get(number, "")] for number, start in ordered]


def _mp4_facts(tags: Any, chapters: Any) -> _Facts:
    pairs: list[tuple[str, str]] = []
    pictures: list[tuple[int, bytes]] = []
    for key, value in (tags or {}).items():
        if key == "covr":
            pictures += [(3, bytes(picture)) for picture in value]
        elif key in ("trkn", "disk"):
            number, total = value[0]
            pairs.append(
                ("tracknumber" if key == "trkn" else "discnumber", f"{number}/{total}" if total else str(number))
            )
        elif key in ("tmpo", "cpil", "pgap"):
            first = value[0] if isinstance(value, list) else value
            if first and key != "pgap":
                pairs.append(("bpm" if key == "tmpo" else "compilation", str(int(first))))
        elif key in _MP4:
            pairs += [(_MP4[key], str(text)) for text in value]
        elif key.startswith("----:"):
            name = key.split(":", 2)[2]
            pairs += [(name, bytes(text).decode("utf-8", "replace")) for text in value]
    found = [[float(item.start), None, item.title] for item in chapters or ()]
    return _Facts(tags=clean_tags(pairs), cover=_best_cover(pictures), chapters=found)


def _ape_facts(tags: Any) -> _Facts:
    pairs: list[tuple[str, str]] = []
    pictures: list[tuple[int, bytes]] = []
    for key, value in (tags or {}).items():
        name = key.lower()
        if name.startswith("cover art"):
            head, _, data = bytes(value.value).partition(b"\0")
            pictures.append((3 if "front" in name else 0, data or head))
        elif value.kind == apev2.TEXT:
            pairs += [(_APE.get(name, name), text) for text in value]
    return _Facts(tags=clean_tags(pairs), cover=_best_cover(pictures), chapters=[])


def _asf_facts(tags: Any) -> _Facts:
    pairs: list[tuple[str, str]] = []
    pictures: list[tuple[int, bytes]] = []
    for key, value in tags or []:
        name = key.lower()
        if name == "wm/picture":
            with contextlib.suppress(Exception):
                pictures.append(_asf_picture(bytes(value)))
        elif name in _ASF or not name.startswith(("wm/", "wmfs")):
            pairs.append((_ASF.get(name, name), str(value)))
    return _Facts(tags=clean_tags(pairs), cover=_best_cover(pictures), chapters=[])


def _asf_picture(data: bytes) -> tuple[int, bytes]:
    kind, size = struct.unpack("<BI", data[:5])
    return kind, data[len(data) - size :]


def _guarded(read: Callable[[], _Facts]) -> _Facts:
    """Tags that cannot be read must not stop the audio: then there are none, and it is said."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - whatever a hostile tag makes mutagen raise
        return _Facts(tags={}, cover=None, chapters=[], unreadable=True)


def _read_mp3(path: str) -> _Facts:
    audio = mp3.MP3(path)
    info: Any = audio.info
    if info.layer != 3 or info.sketchy:
        raise _Unknown
    exact = info.bitrate_mode != mp3.BitrateMode.UNKNOWN
    return _Facts(
        _guarded(lambda: _id3_facts(audio.tags)), container="mp3", codec="mp3", sample_rate_hz=info.sample_rate, channels=info.channels,
        duration_seconds=info.length, duration_exact=exact, bitrate_kbps=round(info.bitrate / 1000), demuxer="mp3",
    )  # fmt: skip


def _read_flac(path: str) -> _Facts:
    audio = flac.FLAC(path)
    info = audio.info
    seconds = info.total_samples / info.sample_rate if info.total_samples else None
    return _Facts(
        _guarded(lambda: _vorbis_facts(audio.tags, audio.pictures)), container="flac", codec="flac", sample_rate_hz=info.sample_rate,
        channels=info.channels, bit_depth=info.bits_per_sample, duration_seconds=seconds, duration_exact=bool(seconds),
        bitrate_kbps=round(info.bitrate / 1000), demuxer="flac",
    )  # fmt: skip


def _read_ogg(path: str) -> _Facts:
    with open(path, "rb") as handle:
        first = handle.read(4096)
    if b"\x01vorbis" in first[:64]:
        audio: Any = oggvorbis.OggVorbis(path)
        codec, rate, channels = "vorbis", audio.info.sample_rate, audio.info.channels
    elif b"OpusHead" in first[:64]:
        audio = oggopus.OggOpus(path)
        codec, rate, channels = "opus", 48_000, audio.info.channels
    else:
        raise _Unknown
    if not 0 < audio.info.length < 1e7:
        raise _Unknown
    kbps = round(os.path.getsize(path) * 8 / audio.info.length / 1000)
    return _Facts(
        _guarded(lambda: _vorbis_facts(audio.tags)), container="ogg", codec=codec, sample_rate_hz=rate, channels=channels,
        duration_seconds=audio.info.length, duration_exact=True, bitrate_kbps=kbps, demuxer="ogg", unfinished=_lacks_end(path),
    )  # fmt: skip


def _lacks_end(path: str) -> bool:
    """Whether an Ogg file's last page is torn or is not marked as the last: then the file was cut short."""
    size = os.path.getsize(path)
    with open(path, "rb") as handle:
        handle.seek(max(0, size - 131_072))
        tail = handle.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return True
    table = tail[at + 27 : at + 27 + tail[at + 26]]
    return not tail[at + 5] & 4 or at + 27 + tail[at + 26] + sum(table) > len(tail)


_MP4_CODECS = {"alac": "alac", "mp4a.40.2": "aac"}


def _says_mono(path: str) -> bool:
    """Whether an MP4 file's decoder description names one channel.

    mutagen says two then, as the sample table of every AAC track does, because a coder of stereo parameters might hide in
    it. If one does, ffmpeg will hear two channels, and what it hears counts.
    """
    with open(path, "rb") as handle:
        for name, at, size in _atoms(handle, 0, os.path.getsize(path)):
            if name == b"moov":
                handle.seek(at)
                body = handle.read(min(size, 4_000_000))
                # Version and flags; then descriptors, each a tag and a length of one to four bytes, down to the one of the decoder.
                found = re.search(
                    rb"esds.{4}\x03[\x80-\xff]{0,3}..{3}\x04[\x80-\xff]{0,3}..{13}\x05[\x80-\xff]{0,3}.(.)(.)",
                    body,
                    re.DOTALL,
                )
                if not found:
                    return False
                bits = found[1][0] << 8 | found[2][0]
                return bits >> 11 == 2 and bits >> 7 & 15 != 15 and bits >> 3 & 15 == 1
    return False


def _read_mp4(path: str) -> _Facts:
    audio = mp4.MP4(path)
    info: Any = audio.info
    codec = _MP4_CODECS.get(info.codec)
    if codec is None or not info.length or not info.sample_rate:
        raise _Unknown
    return _Facts(
        _guarded(lambda: _mp4_facts(audio.tags, audio.chapters)), container="mp4", codec=codec, sample_rate_hz=info.sample_rate,
        channels=1 if codec == "aac" and info.channels == 2 and _says_mono(path) else info.channels,
        bit_depth=info.bits_per_sample if codec == "alac" else None, duration_seconds=info.length,
        duration_exact=codec == "alac", bitrate_kbps=round(info.bitrate / 1000), demuxer="mov",
    )  # fmt: skip


def _chunks(
    handle: BinaryIO, order: str, start: int, end: int, sizes: Mapping[bytes, int]
) -> Iterable[tuple[bytes, int, int]]:
    """Name, offset and size of each chunk of a RIFF or AIFF file."""
    at = start
    for _ in range(10_000):
        handle.seek(at)
        head = handle.read(8)
        if len(head) < 8 or at >= end:
            return
        name, size = head[:4], struct.unpack(f"{order}I", head[4:])[0]
        size = sizes.get(name, size) if size == 0xFFFFFFFF else size
        yield name, at + 8, size
        at += 8 + size + (size & 1)


_PCM = {
    (1, 8): "pcm_u8",
    (1, 16): "pcm_s16le",
    (1, 24): "pcm_s24le",
    (1, 32): "pcm_s32le",
    (3, 32): "pcm_f32le",
    (3, 64): "pcm_f64le",
}


def _read_wav(path: str) -> _Facts:
    size = os.path.getsize(path)
    facts = _Facts(container="wav", demuxer="wav", tags={}, cover=None, chapters=[])
    pairs: list[tuple[str, str]] = []
    block = 0
    long_sizes: dict[bytes, int] = {}
    with open(path, "rb") as handle:
        for name, at, length in _chunks(handle, "<", 12, size, long_sizes):
            handle.seek(at)
            if name == b"ds64":
                (long_sizes[b"data"],) = struct.unpack("<8xQ", handle.read(16))
            elif name == b"fmt ":
                body = handle.read(min(length, 64))
                tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", body[:16])
                if tag == 0xFFFE and len(body) >= 26:
                    (tag,) = struct.unpack("<H", body[24:26])
                codec = _PCM.get((tag, bits))
                if codec is None or not channels or not rate or block != channels * bits // 8:
                    raise _Unknown
                facts.update(
                    codec=codec, sample_rate_hz=rate, channels=channels, bit_depth=bits, float_samples=tag == 3
                )
            elif name == b"data":
                if not block:
                    raise _Unknown
                there = min(length, size - at) if length not in (0, 0xFFFFFFFF) else size - at
                facts["duration_seconds"] = (
                    (length if length not in (0, 0xFFFFFFFF) else there) // block / facts["sample_rate_hz"]
                )
                facts["duration_exact"] = True
                facts["bitrate_kbps"] = round(facts["sample_rate_hz"] * block * 8 / 1000)
            elif name == b"LIST" and handle.read(4) == b"INFO" and length < 1_000_000:
                pairs += [
                    (_RIFF[key.decode("latin-1")], _riff_text(handle, spot, amount))
                    for key, spot, amount in _chunks(handle, "<", at + 4, at + length, {})
                    if key.decode("latin-1") in _RIFF
                ]
            elif name in (b"id3 ", b"ID3 ") and length < MAX_COVER_BYTES + 1_000_000:
                blob = handle.read(length)
                facts.update(_guarded(lambda blob=blob: _id3_facts(id3.ID3(io.BytesIO(blob)))))  # type: ignore[misc]
    if "codec" not in facts or "duration_seconds" not in facts:
        raise _Unknown
    # What the ID3 chunk says goes before the older INFO list, which has no room for most of it.
    facts["tags"] = {**clean_tags(pairs), **facts["tags"]}
    return facts


def _riff_text(handle: BinaryIO, at: int, length: int) -> str:
    handle.seek(at)
    data = handle.read(min(length, MAX_TEXT)).split(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _read_aiff(path: str) -> _Facts:
    audio = aiff.AIFF(path)
    info: Any = audio.info
    bits = info.bits_per_sample
    if bits not in (16, 24, 32):
        raise _Unknown
    return _Facts(
        _guarded(lambda: _id3_facts(audio.tags)), container="aiff", codec=f"pcm_s{bits}be", sample_rate_hz=info.sample_rate,
        channels=info.channels, bit_depth=bits, duration_seconds=info.length, duration_exact=True,
        bitrate_kbps=round(info.bitrate / 1000), demuxer="aiff",
    )  # fmt: skip


def _reader_for(head: bytes) -> Callable[[str], _Facts]:
    if head.startswith(b"fLaC"):
        return _read_flac
    if head.startswith(b"OggS"):
        return _read_ogg
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _read_wav
    if head[:4] == b"FORM" and head[8:12] == b"AIFF":
        return _read_aiff
    if head[4:8] == b"ftyp":
        return _read_mp4
    if head.startswith(b"ID3") or (len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return _read_mp3
    raise _Unknown


def inspect(path: str, cover_file: str | None = COVER_FILE) -> dict[str, Any]:
    """What the file is, from its headers: the fields of ``Probe`` with ``demuxer``, or ``{"known": False}`` where ffmpeg must look.

    Tags are read even then, where mutagen can. The cover is written to ``cover_file``.
    """
    with open(path, "rb") as handle:
        head = handle.read(16)
    familiar = False
    try:
        read = _reader_for(head)
        familiar = True
        facts = read(path)
        facts["known"] = True
    except Exception:  # noqa: BLE001 - mutagen raises all sorts on damaged files; ffmpeg decides then
        facts = _guarded(lambda: _foreign_tags(path))
        facts["known"] = False
        facts["encrypted"] = _is_encrypted(path, head)
    facts["familiar"] = familiar
    cover = facts.pop("cover", None)
    if cover and cover_file:
        with open(cover_file, "wb") as out:
            out.write(cover)
    if cover:
        width, height, depth = image_size(cover)
        facts["cover"] = {
            "bytes": len(cover),
            "mime": image_type(cover),
            "width": width,
            "height": height,
            "depth": depth,
        }
    return dict(facts)


def _foreign_tags(path: str) -> _Facts:
    """Tags of a file whose audio ffmpeg must look at."""
    with open(path, "rb") as handle:
        if handle.read(3) == b"ID3":
            return _id3_facts(id3.ID3(path))
    audio = mutagen.File(path)
    if audio is None or not audio.tags:
        try:
            return _ape_facts(apev2.APEv2(path))
        except apev2.APENoHeaderError:
            return _Facts(tags={}, cover=None, chapters=[])
    if isinstance(audio.tags, id3.ID3):
        return _id3_facts(audio.tags)
    if isinstance(audio.tags, mp4.MP4Tags):
        return _mp4_facts(audio.tags, getattr(audio, "chapters", None))
    if isinstance(audio.tags, apev2.APEv2):
        return _ape_facts(audio.tags)
    if isinstance(audio.tags, asf.ASFTags):
        return _asf_facts(audio.tags)
    return _vorbis_facts(audio.tags, getattr(audio, "pictures", ()))


def _is_encrypted(path: str, head: bytes) -> bool:
    """Whether an MP4 file's header names one of the protected sample formats."""
    if head[4:8] != b"ftyp":
        return False
    with open(path, "rb") as handle:
        for name, at, size in _atoms(handle, 0, os.path.getsize(path)):
            if name == b"moov":
                handle.seek(at)
                body = handle.read(min(size, 4_000_000))
                return any(mark in body for mark in (b"drms", b"enca", b"aavd"))
    return False


def _atoms(handle: BinaryIO, start: int, end: int) -> Iterable[tuple[bytes, int, int]]:
    """Name, offset and size of the body of each MP4 atom."""
    at = start
    for _ in range(100_000):
        handle.seek(at)
        head = handle.read(16)
        if len(head) < 8 or at >= end:
            return
        size, name, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = end - at
        if size < header:
            return
        yield name, at + header, size - header
        at += size


# -------------------------------------------------------------------------------------------------- writing


def _pair(text: str) -> tuple[int, int]:
    numbers = [int(part) if part.strip().isdigit() else 0 for part in text.split("/", 1)]
    first, second = (*numbers, 0)[:2]
    return min(first, 65_535), min(second, 65_535)


_TITLE_FRAME = 12  # bytes that a chapter's title takes beside its text


def _write_id3(tags: Any, values: Tags, cover: bytes | None, chapters: list[list[Any]]) -> None:
    frames = {name: getattr(id3, name) for name in (*_ID3, "TCMP")}
    for name, texts in values.items():
        if name in _TO_ID3:
            tags.add(frames[_TO_ID3[name]](encoding=3, text=texts))
        elif name == "comment":
            tags.add(id3.COMM(encoding=3, lang="XXX", desc="", text=texts))
        elif name.startswith("comment:"):
            tags.add(id3.COMM(encoding=3, lang="XXX", desc=name.partition(":")[2], text=texts))
        elif name == "lyrics":
            tags.add(id3.USLT(encoding=3, lang="XXX", desc="", text="\n\n".join(texts)))
        elif name == "compilation":
            tags.add(id3.TCMP(encoding=3, text=texts))
        else:
            tags.add(id3.TXXX(encoding=3, desc=name, text=texts))
    if cover:
        tags.add(id3.APIC(encoding=0, mime=image_type(cover), type=3, desc="", data=cover))
    names = []
    # mutagen writes the shorter frames first, and readers take chapters in the order in which they stand: of one length they stay in order.
    longest = min(1_000, max((len(str(title).encode()) for _, _, title in chapters), default=0))
    for number, (start, end, title) in enumerate(chapters):
        names.append(f"chp{number:04d}" + "_" * (longest - len(str(title).encode()) + (0 if title else _TITLE_FRAME)))
        tags.add(
            id3.CHAP(
                element_id=names[-1], start_time=round(start * 1000), end_time=round(end * 1000), start_offset=0xFFFFFFFF,
                end_offset=0xFFFFFFFF, sub_frames=[id3.TIT2(encoding=3, text=[title])] if title else [],
            )
        )  # fmt: skip
    if names:
        tags.add(
            id3.CTOC(
                element_id="toc",
                flags=id3.CTOCFlags.TOP_LEVEL | id3.CTOCFlags.ORDERED,
                child_element_ids=names,
                sub_frames=[],
            )
        )


def _write_vorbis(tags: Any, values: Tags, chapters: list[list[Any]]) -> None:
    for name, texts in values.items():
        if name in ("tracknumber", "discnumber") and "/" in texts[0]:
            number, _, total = texts[0].partition("/")
            tags[name.upper()] = [number]
            tags["TRACKTOTAL" if name == "tracknumber" else "DISCTOTAL"] = [total]
        elif vorbis_name(name):
            tags[vorbis_name(name).upper()] = texts
    for key, text in chapter_comments(chapters):
        tags[key] = [text]


def vorbis_name(name: str) -> str:
    """The name as Vorbis comments allow it: printable ASCII without '='; empty if nothing is left."""
    return re.sub(r"[^\x20-\x3c\x3e-\x7d]", "", name)


_PACK = "\x1e"
_COMMENT, _STAND_IN = "COMMENT", "XOMMENT"


def packed_comment(name: str, values: list[str]) -> tuple[str, str]:
    """One comment for several values, which :func:`unpack_comments` takes apart in the file.

    ffmpeg writes one value for each name, and COMMENT as DESCRIPTION, which other programs do not show. Between two values
    as many bytes are left as the second one's own length and name will take: so the packet keeps its size, and nothing in
    the file has to move.
    """
    key = (
        _STAND_IN
        if name.upper() == _COMMENT
        else {"album_artist": "ALBUMARTIST", "track": "TRACKNUMBER", "disc": "DISCNUMBER"}.get(name, name)
    )
    gap = _PACK * (len(key) + 5)
    return key, gap.join(text.replace(_PACK, " ") for text in values)


def unpack_comments(path: str) -> None:
    """Give every value in an Ogg file's comments its own entry, in place."""
    with open(path, "r+b") as handle:
        pages = list(_first_pages(handle, 2))
        packet = bytearray(b"".join(body for _, _, body in pages[1:]))
        start = {b"\x03vor": 7, b"Opus": 8}.get(bytes(packet[:4]))
        if start is None:
            return
        vendor = int.from_bytes(packet[start : start + 4], "little")
        count_at = at = start + 4 + vendor
        count = found = int.from_bytes(packet[at : at + 4], "little")
        at += 4
        for _ in range(count):
            length = int.from_bytes(packet[at : at + 4], "little")
            entry = bytes(packet[at + 4 : at + 4 + length])
            name, _, text = entry.partition(b"=")
            gap = _PACK.encode() * (len(name) + 5)
            name = _COMMENT.encode() if name == _STAND_IN.encode() else name
            values = text.split(gap)
            entries = [name + b"=" + value for value in values]
            packet[at : at + 4 + length] = b"".join(len(each).to_bytes(4, "little") + each for each in entries)
            found += len(entries) - 1
            at += 4 + length
        packet[count_at : count_at + 4] = found.to_bytes(4, "little")
        at = 0
        for place, head, body in pages[1:]:
            fresh = bytes(packet[at : at + len(body)])
            at += len(body)
            checksum = ogg_checksum(head[:22] + bytes(4) + head[26:] + fresh)
            handle.seek(place)
            handle.write(head[:22] + checksum.to_bytes(4, "little") + head[26:] + fresh)


def _first_pages(handle: BinaryIO, packets: int) -> Iterable[tuple[int, bytes, bytes]]:
    """Place, header and body of the pages until so many packets are complete."""
    at = complete = 0
    while complete < packets:
        handle.seek(at)
        head = handle.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        head += handle.read(head[26])
        body = handle.read(sum(head[27:]))
        complete += sum(size < 255 for size in head[27:])
        yield at, head, body
        at += len(head) + len(body)


def chapter_comments(chapters: Iterable[Iterable[Any]]) -> list[tuple[str, str]]:
    """Chapters as Vorbis comments write them."""
    comments: list[tuple[str, str]] = []
    for number, (start, _, title) in enumerate(chapters):
        minutes, seconds = divmod(float(start), 60)
        comments.append((f"CHAPTER{number:03d}", f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{seconds:06.3f}"))
        comments.append((f"CHAPTER{number:03d}NAME", str(title)))
    return comments[: 2 * 1000]


def _write_mp4(tags: Any, values: Tags, cover: bytes | None) -> None:
    for name, texts in values.items():
        if name in ("tracknumber", "discnumber"):
            tags["trkn" if name == "tracknumber" else "disk"] = [_pair(texts[0])]
        elif name == "bpm" and re.fullmatch(r"\d{1,5}(\.\d+)?", texts[0]):
            tags["tmpo"] = [min(65_535, round(float(texts[0])))]
        elif name == "compilation":
            tags["cpil"] = texts[0] not in ("0", "false")
        elif name in _TO_MP4:
            tags[_TO_MP4[name]] = texts
        elif ":" not in name and name.isascii():
            tags[f"----:com.apple.iTunes:{name}"] = [mp4.MP4FreeForm(text.encode()) for text in texts]
    kind = image_type(cover) if cover else None
    if cover and kind in ("image/jpeg", "image/png"):
        form = mp4.MP4Cover.FORMAT_JPEG if kind == "image/jpeg" else mp4.MP4Cover.FORMAT_PNG
        tags["covr"] = [mp4.MP4Cover(cover, imageformat=form)]


def _write_ape(tags: Any, values: Tags, cover: bytes | None) -> None:
    for name, texts in values.items():
        key = _TO_APE.get(name, name.title() if name.isalpha() else name)
        with contextlib.suppress(KeyError, ValueError):
            tags[re.sub(r"[^\x20-\x7e]", "", key)] = texts
    if cover:
        extension = {"image/jpeg": "jpg", "image/png": "png"}.get(image_type(cover) or "", "img")
        tags["Cover Art (Front)"] = apev2.APEValue(f"cover.{extension}".encode() + b"\0" + cover, apev2.BINARY)


def _write_asf(tags: Any, values: Tags, cover: bytes | None) -> None:
    for name, texts in values.items():
        tags[_TO_ASF.get(name, name)] = texts
    if cover:
        head = struct.pack("<BI", 3, len(cover)) + f"{image_type(cover)}\0\0".encode("utf-16-le")
        tags["WM/Picture"] = [ASFByteArrayAttribute(head + cover)]


def write_tags(path: str, kind: str, tags: Tags, cover_file: str | None, chapters: list[list[Any]]) -> None:
    """Put tags, cover and chapters into a result, in place. ``kind`` is the table's ``tags`` of the format."""
    cover = None
    if cover_file:
        with open(cover_file, "rb") as handle:
            cover = handle.read(MAX_COVER_BYTES + 1)
    if kind == "flac":
        audio: Any = flac.FLAC(path)
        if audio.tags is None:
            audio.add_tags()
        _write_vorbis(audio.tags, tags, chapters)
        if cover:
            audio.add_picture(_flac_picture(cover))
        audio.save()
    elif kind == "mp4":
        audio = mp4.MP4(path)
        if audio.tags is None:
            audio.add_tags()
        _write_mp4(audio.tags, tags, cover)
        audio.save()
    elif kind == "ape":
        audio = wavpack.WavPack(path) if path.endswith(".wv") else trueaudio.TrueAudio(path)
        values = apev2.APEv2()
        _write_ape(values, tags, cover)
        values.save(path)
    elif kind == "asf":
        audio = asf.ASF(path)
        if audio.tags is None:
            audio.add_tags()
        _write_asf(audio.tags, tags, cover)
        audio.save()
    elif kind == "riff":
        audio = wave.WAVE(path)
        if audio.tags is None:
            audio.add_tags()
        _write_id3(audio.tags, tags, cover, [])
        audio.save(v2_version=4)
    elif kind == "id3" and path.endswith(".aiff"):
        audio = aiff.AIFF(path)
        if audio.tags is None:
            audio.add_tags()
        _write_id3(audio.tags, tags, cover, [])
        audio.save(v2_version=4)
    elif kind == "id3":
        frames = id3.ID3()
        _write_id3(frames, tags, cover, chapters)
        frames.save(path, v1=0, v2_version=4)


def _flac_picture(cover: bytes) -> flac.Picture:
    picture = flac.Picture()
    picture.type, picture.mime, picture.data = 3, image_type(cover) or "", cover
    picture.width, picture.height, picture.depth = image_size(cover)
    return picture


def finish(
    path: str, kind: str, container: str, tags: Tags, cover_file: str | None, chapters: list[list[Any]]
) -> dict[str, Any]:
    """Write tags, cover and chapters into the result, then read all of it anew.

    What :func:`inspect` says of it now, with ``walk``: what :func:`walk.walk` found, or ``{"broken": where}``.
    """
    if kind not in ("vorbis", "matroska", "ffmpeg", "none") and (tags or cover_file or chapters):
        write_tags(path, kind, tags, cover_file, chapters)
    if kind == "vorbis" and tags:
        unpack_comments(path)
    facts = inspect(path, None)
    try:
        walked = walk(path, container)
        facts["walk"] = asdict(walked) if walked else None
    except Broken as error:
        facts["walk"] = {"broken": str(error)}
    return facts


# ------------------------------------------------------------------------------------------------ self-test


def self_test(outside: str) -> dict[str, bool]:
    """Try what the locks must forbid; True for each protection that held."""
    import resource
    import socket

    def refused(attempt: Callable[[], Any]) -> bool:
        try:
            attempt()
        except OSError:
            return True
        return False

    return {
        "files": refused(lambda: open(outside, "rb").read()) and refused(lambda: os.listdir("/")),
        "network": refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        and refused(lambda: socket.socket(socket.AF_UNIX)),
        "processes": refused(lambda: os.kill(os.getppid(), 0)),
        "limits": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        and resource.getrlimit(resource.RLIMIT_FSIZE)[1] == 4096,
        "environment": not set(os.environ) - {"LC_ALL", "PATH", "HOME", "TMPDIR", "LC_CTYPE"},
    }
