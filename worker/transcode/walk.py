"""Walks a result's audio from its first byte to its last without decoding it: every frame, page or sample is accounted for.

Decoding a result costs a second ffmpeg: 70 ms to start and up to half of the conversion's own time. A walk costs a few milliseconds per
minute of audio and sees what can go wrong when a sound encoder writes a file: missing, doubled or torn frames, wrong sizes in headers, a
flipped bit in an Ogg page. For PCM it sees all there is. Runs only in a confined process. Memory is constant, whatever the file's size.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class Broken(ValueError):
    """The file's structure is not sound; the text says where."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found: samples per channel that a player will play, at ``rate`` in Hz, in ``frames`` frames, pages or samples.

    ``payload`` is what the audio takes, in bytes, without tags; ``channels`` only where no other reader says it.
    """

    samples: int
    rate: int
    frames: int
    payload: int
    channels: int = 0


def walk(path: str, container: str) -> Walked | None:
    """Walk the whole file; None for a container that this module does not know. Raises :class:`Broken`."""
    walker = _WALKERS.get(container)
    if walker is None:
        return None
    with open(path, "rb", buffering=1 << 20) as handle:
        try:
            return walker(handle, os.path.getsize(path))
        except (struct.error, IndexError, KeyError, ZeroDivisionError) as error:
            raise Broken("it ends within a header") from error


def _id3_length(handle: BinaryIO) -> int:
    handle.seek(0)
    head = handle.read(10)
    if head[:3] != b"ID3":
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return size + (20 if head[5] & 0x10 else 10)


# ------------------------------------------------------------------------------------------------ bare frames

_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_LAYER3 = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_LAYER2 = ((0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384), _LAYER3[1])


def _mpeg_sizes(layer: int) -> dict[int, int]:
    """Frame length in bytes by the second and third byte of a frame's header, less what does not matter."""
    sizes = {}
    for version, rates in _MPEG_RATES.items():
        for code, kbps in enumerate((_LAYER3 if layer == 1 else _LAYER2)[version != 3]):
            if not kbps:
                continue
            for index, rate in enumerate(rates):
                for padding in (0, 1):
                    factor = 72_000 if layer == 1 and version != 3 else 144_000
                    sizes[(version << 3 | layer << 1) << 8 | code << 4 | index << 2 | padding << 1] = (
                        factor * kbps // rate + padding
                    )
    return sizes


def _walk_mpeg(handle: BinaryIO, size: int, layer: int) -> Walked:
    sizes = _mpeg_sizes(layer)
    at = begin = _id3_length(handle)
    handle.seek(at)
    read = handle.read
    frames = rate = trimmed = skipped = channels = 0
    per_frame = 1152
    while at < size:
        head = read(4)
        if head[:3] == b"TAG" and size - at == 128:
            break
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
            raise Broken(f"there is no frame at byte {at}")
        length = sizes.get((head[1] & 0x1E) << 8 | head[2] & 0xFE)
        if length is None:
            raise Broken(f"there is no frame at byte {at}")
        if at + length > size:
            raise Broken(f"the last frame lacks {at + length - size} bytes")
        body = read(length - 4)
        if not frames and not skipped:
            version = head[1] >> 3 & 3
            channels = 1 if head[3] >> 6 == 3 else 2
            rate = _MPEG_RATES[version][head[2] >> 2 & 3]
            if layer == 1 and version != 3:
                per_frame = 576
            spot = max(body[:64].find(b"Xing"), body[:64].find(b"Info"))
            if spot >= 0:
                skipped = 1
                flags = int.from_bytes(body[spot + 4 : spot + 8], "big")
                lame = spot + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
                if len(body) > lame + 24 and body[lame : lame + 4] in (b"LAME", b"Lavf", b"Lavc"):
                    packed = int.from_bytes(body[lame + 21 : lame + 24], "big")
                    trimmed = (packed >> 12) + (packed & 0xFFF)
                at += length
                continue
        frames += 1
        at += length
    return Walked(max(0, frames * per_frame - trimmed), rate, frames, at - begin, channels)


_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def _walk_adts(handle: BinaryIO, size: int) -> Walked:
    at = begin = _id3_length(handle)
    handle.seek(at)
    read = handle.read
    frames = rate = channels = 0
    while at < size:
        head = read(7)
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            raise Broken(f"there is no frame at byte {at}")
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if length < 8 or at + length > size:
            raise Broken(f"the frame at byte {at} is torn")
        if not frames:
            rate = _ADTS_RATES[head[2] >> 2 & 15]
            channels = (0, 1, 2, 3, 4, 5, 6, 8)[(head[2] & 1) << 2 | head[3] >> 6]
        read(length - 7)
        frames += (head[6] & 3) + 1
        at += length
    return Walked(frames * 1024, rate, frames, at - begin, channels)


_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48_000, 44_100, 32_000)


def _walk_ac3(handle: BinaryIO, size: int) -> Walked:
    at = frames = rate = channels = 0
    while at < size:
        head = handle.read(8)
        if len(head) < 8 or head[:2] != b"\x0b\x77" or head[4] >> 6 == 3 or head[5] >> 3 > 10:
            raise Broken(f"there is no frame at byte {at}")
        rate = _AC3_RATES[head[4] >> 6]
        code = head[4] & 63
        kbps = _AC3_KBPS[code >> 1]
        words = kbps * 96_000 // rate + (code & 1 if rate == 44_100 else 0)
        length = words * 2
        if at + length > size:
            raise Broken(f"the frame at byte {at} is torn")
        handle.read(length - 8)
        if not frames:
            channels = _ac3_channels(int.from_bytes(head[6:8], "big"))
        frames += 1
        at += length
    return Walked(frames * 1536, rate, frames, at, channels)


def _ac3_channels(bits: int) -> int:
    """Channels from the mode and the low-frequency flag, which stand among optional fields of two bits."""
    mode = bits >> 13
    spot = 12 - 2 * (bool(mode & 1) and mode != 1) - 2 * bool(mode & 4) - 2 * (mode == 2)
    return (2, 1, 2, 3, 3, 4, 4, 5)[mode] + (bits >> spot & 1)


# ------------------------------------------------------------------------------------------------------- Ogg


def ogg_checksum(page: bytes) -> int:
    """Ogg's checksum: zlib's polynomial with the bits the other way round, so zlib does the work on reversed bytes."""
    register = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{register:032b}"[::-1], 2)


def _walk_ogg(handle: BinaryIO, size: int) -> Walked:
    at = pages = granule = rate = skip = serial = headers = 0
    ended = False
    while at < size:
        head = handle.read(27)
        if len(head) < 27 or head[:4] != b"OggS" or ended:
            raise Broken(f"there is no page at byte {at}")
        flags, position, number, sequence, checksum, count = struct.unpack("<xBqIIIB", head[4:])
        table = handle.read(count)
        body = handle.read(sum(table))
        if len(table) < count or len(body) < sum(table):
            raise Broken(f"the page at byte {at} is torn")
        if ogg_checksum(head[:22] + b"\0\0\0\0" + head[26:] + table + body) != checksum:
            raise Broken(f"the page at byte {at} does not match its checksum")
        if not pages:
            serial = number
            if body.startswith(b"OpusHead"):
                rate, skip = 48_000, int.from_bytes(body[10:12], "little")
            elif body.startswith(b"\x01vorbis"):
                rate = int.from_bytes(body[12:16], "little")
            else:
                raise Broken("it does not begin with a header")
        if number != serial or sequence != pages:
            raise Broken(f"page {pages} is missing")
        if position >= 0:
            granule = position
        ended = bool(flags & 4)
        pages += 1
        at += 27 + count + len(body)
        if not granule:
            headers = at
    if not ended:
        raise Broken("its last page is missing")
    return Walked(max(0, granule - skip), rate, pages, at - headers)


# ------------------------------------------------------------------------------------------------------ FLAC


def _coded_number(value: int) -> bytes:
    """A frame's number as FLAC writes it: like UTF-8, carried on to 36 bits."""
    if value < 0x80:
        return bytes([value])
    rest: list[int] = []
    room = 6
    while value >= 1 << room:
        rest.insert(0, 0x80 | value & 0x3F)
        value >>= 6
        room -= 1
    return bytes([(0xFF << (room + 1)) & 0xFF | value, *rest])


def _walk_flac(handle: BinaryIO, size: int) -> Walked:
    if handle.read(4) != b"fLaC":
        raise Broken("it does not begin with a header")
    total = rate = block = smallest = 0
    last = False
    while not last:
        head = handle.read(4)
        last, kind, length = bool(head[0] & 0x80), head[0] & 0x7F, int.from_bytes(head[1:4], "big")
        body = handle.read(length)
        if kind == 0:
            block, smallest = int.from_bytes(body[2:4], "big"), int.from_bytes(body[4:7], "big")
            packed = int.from_bytes(body[10:18], "big")
            rate, total = packed >> 44, packed & 0xFFFFFFFFF
    at = begin = handle.tell()
    if not total or not block:
        raise Broken("its header does not say how long it is")
    frames = -(-total // block)
    buffer, base = b"", at
    for number in range(frames):
        wanted = b"\xff\xf8"
        coded = _coded_number(number)
        place = at - base
        while True:
            place = buffer.find(wanted, place)
            if place >= 0 and place + 4 + len(coded) <= len(buffer):
                if (
                    buffer[place + 4 : place + 4 + len(coded)] == coded
                    and buffer[place + 2] >> 4
                    and buffer[place + 3] >> 4 <= 10
                ):
                    break
                place += 1
                continue
            more = handle.read(1 << 20)
            if not more:
                raise Broken(f"frame {number} of {frames} is missing")
            keep = place if place >= 0 else max(0, len(buffer) - 1)
            base += keep
            buffer = buffer[keep:] + more
            place = 0
        if not number and base + place != at:
            raise Broken("its first frame is missing")
        at = base + place + max(10, smallest)
    if at > size:
        raise Broken("its last frame is torn")
    return Walked(total, rate, frames, size - begin)


# ------------------------------------------------------------------------------------------------- PCM and MP4


def _walk_wav(handle: BinaryIO, size: int) -> Walked:
    head = handle.read(12)
    rate = block = 0
    long_data: int | None = None
    if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 not in (size, size + 1, size - 1):
        raise Broken("its header states another size")
    at = 12
    while at + 8 <= size:
        handle.seek(at)
        name, length = struct.unpack("<4sI", handle.read(8))
        if name == b"ds64":
            riff, long_data = struct.unpack("<QQ", handle.read(16))
            if head[:4] == b"RF64" and abs(riff + 8 - size) > 1:
                raise Broken("its header states another size")
        elif name == b"fmt ":
            _, _, rate, _, block = struct.unpack("<HHIIH", handle.read(14))
        elif name == b"data":
            if length == 0xFFFFFFFF and long_data is not None:
                length = long_data
            if not block or length % block or at + 8 + length > size:
                raise Broken("its samples are not all there")
            return Walked(length // block, rate, length // block, length)
        at += 8 + length + (length & 1)
    raise Broken("it has no samples")


def _walk_aiff(handle: BinaryIO, size: int) -> Walked:
    head = handle.read(12)
    if int.from_bytes(head[4:8], "big") + 8 not in (size, size + 1, size - 1):
        raise Broken("its header states another size")
    at, frames, rate, block = 12, 0, 0, 0
    samples: int | None = None
    while at + 8 <= size:
        handle.seek(at)
        name, length = struct.unpack(">4sI", handle.read(8))
        if name == b"COMM":
            channels, frames, bits, exponent, mantissa = struct.unpack(">HIHHQ", handle.read(18))
            block = channels * ((bits + 7) // 8)
            rate = int(mantissa * 2.0 ** (exponent - 16_383 - 63))
        elif name == b"SSND":
            if at + 8 + length > size:
                raise Broken("its samples are not all there")
            samples = length - 8
        at += 8 + length + (length & 1)
    if samples is None or samples != frames * block:
        raise Broken("its samples are not all there")
    return Walked(frames, rate, frames, samples)


def _atoms(handle: BinaryIO, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Begin and end of the body of each atom between two places, by name; the first of each name."""
    found: dict[bytes, tuple[int, int]] = {}
    at = start
    while at + 8 <= end:
        handle.seek(at)
        size, name = struct.unpack(">I4s", handle.read(8))
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", handle.read(8)), 16
        elif size == 0:
            size = end - at
        if size < header or at + size > end:
            raise Broken(f"the part at byte {at} is torn")
        found.setdefault(name, (at + header, at + size))
        at += size
    return found


def _walk_mp4(handle: BinaryIO, size: int) -> Walked:
    top = _atoms(handle, 0, size)
    if b"moov" not in top or b"mdat" not in top:
        raise Broken("it has no index or no samples")
    trak = _atoms(handle, *_atoms(handle, *top[b"moov"])[b"trak"])
    mdia = _atoms(handle, *trak[b"mdia"])
    table = _atoms(handle, *_atoms(handle, *mdia[b"minf"])[b"stbl"])
    handle.seek(mdia[b"mdhd"][0])
    head = handle.read(32)
    rate = int.from_bytes(head[20:24] if head[0] else head[12:16], "big")
    samples = _sum_durations(handle, table[b"stts"])
    frames, stored = _sum_sizes(handle, table[b"stsz"])
    room = top[b"mdat"][1] - top[b"mdat"][0]
    if stored > room:
        raise Broken(f"its samples lack {stored - room} bytes")
    priming = 0
    if b"edts" in trak:
        start, _ = _atoms(handle, *trak[b"edts"])[b"elst"]
        handle.seek(start)
        body = handle.read(28)
        if int.from_bytes(body[4:8], "big") == 1:
            priming = int.from_bytes(body[16:24] if body[0] else body[12:16], "big", signed=True)
    return Walked(samples - max(0, priming), rate, frames, stored)


def _sum_durations(handle: BinaryIO, place: tuple[int, int]) -> int:
    handle.seek(place[0] + 4)
    (count,) = struct.unpack(">I", handle.read(4))
    total = 0
    for _ in range(count):
        number, length = struct.unpack(">II", handle.read(8))
        total += number * length
    return total


def _sum_sizes(handle: BinaryIO, place: tuple[int, int]) -> tuple[int, int]:
    handle.seek(place[0] + 4)
    fixed, count = struct.unpack(">II", handle.read(8))
    if fixed:
        return count, fixed * count
    total, left = 0, count
    while left:
        part = min(left, 65_536)
        total += sum(struct.unpack(f">{part}I", handle.read(4 * part)))
        left -= part
    return count, total


_WALKERS: dict[str, Callable[[BinaryIO, int], Walked]] = {
    "mp3": lambda handle, size: _walk_mpeg(handle, size, 1),
    "mp2": lambda handle, size: _walk_mpeg(handle, size, 2),
    "adts": _walk_adts,
    "ac3": _walk_ac3,
    "ogg": _walk_ogg,
    "flac": _walk_flac,
    "wav": _walk_wav,
    "aiff": _walk_aiff,
    "mp4": _walk_mp4,
}
PCM_CONTAINERS = frozenset({"wav", "aiff"})
"""Containers in which a walk sees every sample, so that decoding would add nothing."""
