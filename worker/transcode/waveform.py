"""The picture of a recording: how loud it is from its beginning to its end, as few numbers.

ffmpeg computes them while it converts, in a second output of the same process: its WAV muxer can write the peaks of
blocks of samples and nothing else. Of a long recording only every so many frames are looked at, several hundred at
least: all of them would cost a conversion to PCM a seventh of its time, and a picture of that width does not miss them.
"""

import itertools
import re
import struct
from collections.abc import Sequence
from pathlib import Path

POINTS = 600
"""At most so many numbers, each from 0 (silence) to 32768 (full scale)."""
FILE = "peaks.wav"
ENCODER = "pcm_s16le"

_SHORT_SECONDS = 120.0
_BLOCKS = 4 * POINTS
_LOOKS = 240  # frames that are looked at in a recording that is just not short; in longer ones more
_MOST_PASSED_OVER = 24
_FRAME_SAMPLES = {"flac": 4096, "alac": 4096}
_WIDE = frozenset({"ape", "tak", "tta", "wavpack", "wmalossless"})
"""Codecs whose frames last half a second and more: one in four would be too few."""
_MOST_BYTES = 64 << 20
_HEADER = struct.Struct("<4sIIIIIII")  # levl, its size, version, format, points per value, block, channels, peaks
_DATA = 128  # where the peaks begin, from the head of their chunk on
_PART = re.compile(r"(atrim|asetpts)\b")
_LEVEL = re.compile(r"(volume|afade)\b")


def tap(chain: Sequence[str], codec: str, sample_rate_hz: int, seconds: float | None) -> list[str]:
    """ffmpeg's arguments for the second output.

    chain: the filters of the first; those that choose the part and its level are taken over, for that is what the result
    sounds like. codec: the input's; seconds: how long the result will be, where that is known.
    """
    steps = [step for step in chain if _PART.match(step)]
    samples = (seconds or 600.0) * sample_rate_hz
    every = 1
    if codec not in _WIDE and (seconds is None or seconds >= _SHORT_SECONDS):
        every = max(1, min(_MOST_PASSED_OVER, int(samples / _FRAME_SAMPLES.get(codec, 1152) / _LOOKS)))
        steps.append(rf"aselect=not(mod(n\,{every}))")
    steps += [step for step in chain if _LEVEL.match(step)]
    block = min(65_536, max(16, round(samples / every / _BLOCKS)))
    filters = ["-af", ",".join(steps)] if steps else []
    peaks = ["-write_peak", "only", "-peak_block_size", str(block), "-peak_format", "2", "-peak_ppv", "1"]
    return [
        *["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"],
        *[*filters, "-c:a", ENCODER, *peaks, "-f", "wav", f"file:{FILE}"],
    ]


def read(folder: Path) -> tuple[int, ...]:
    """The peaks that ffmpeg left in a folder, brought down to POINTS; none where there are none to be understood."""
    try:
        path = folder / FILE
        if path.stat().st_size > _MOST_BYTES:
            return ()
        data = path.read_bytes()
        at = data.index(b"levl", 0, 4096)
        _, _, _, form, per_value, _, channels, count = _HEADER.unpack_from(data, at)
        if (form, per_value) != (2, 1) or not channels:
            return ()
        values = memoryview(data)[at + _DATA : at + _DATA + 2 * channels * count]
        peaks = struct.unpack(f"<{len(values) // 2}H", values[: len(values) // 2 * 2])
    except (OSError, ValueError, struct.error):
        return ()
    blocks = len(peaks) // channels
    points = min(POINTS, blocks)
    edges = [index * blocks // points * channels for index in range(points + 1)] if points else []
    return tuple(max(peaks[low:high]) for low, high in itertools.pairwise(edges))
