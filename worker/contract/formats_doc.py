"""Writes docs/formats.md from the table in the code: ``python -m worker.contract.formats_doc > docs/formats.md``."""

import sys
from collections.abc import Mapping
from typing import Any

from worker.contract.formats import FAILURES, INPUTS, NOTICES, OUTPUTS, catalogue

_HEAD = """# Formats and options

<!-- Written by `python -m worker.contract.formats_doc` from worker/contract/formats.py; a test compares. Do not edit by hand. -->

`GET /api/formats` answers the same as JSON, less what the workers' ffmpeg cannot write. What a file really is, its bytes decide: the
extension only admits it.
"""
_OPTIONS = """## Options

They go as text parts into the upload form or as values into PUT's JSON. An unknown option, a value out of range or a combination that
cannot be is refused with 400 and the allowed values; nothing is clamped or ignored in silence.

| option | unit | meaning |
|---|---|---|
| `bitrateKbps` | kbit/s | bit rate; not together with `quality` |
| `quality` | the codec's scale | variable bit rate; mp3: 0 (best) to 9, ogg: -1 to 10 (best) |
| `sampleRateHz` | Hz | sample rate; by default the input's, or the next that the format has |
| `channels` | | 1, 2 and, where the format has them, 6 (5.1) and 8 (7.1) |
| `bitDepth` | bit | of lossless formats; by default that of a lossless input, and 16 for a lossy one |
| `startSeconds`, `endSeconds` | s | the part to convert, to the sample |
| `fadeInSeconds`, `fadeOutSeconds` | s | fades at the beginning and the end of that part |
| `loudnessLufs` | LUFS | EBU R128, -50 to -5, measured over what is asked for; where peaks would pass -1 dBTP a limiter holds them; the result is measured too and written again until it is within 0.5 LU, or a warning says what it has |
| `keepMetadata` | true, false | tags and chapters; default true |
| `keepCover` | true, false | the front cover; default true |
"""
_CHECKS = """## What is checked before a result is reported

The result is read anew and compared with what was asked: codec, sample rate, channels, bit depth, length (50 ms for lossless formats, one
frame for lossy ones; three where the container has no place for the encoder's delay: aac, mp2, ac3, eac3, wma), tags, cover and chapters.

All of its audio is walked along, every frame, page and sample table from the first byte to the last, with checksums where there are any
(`verified: walked`). It is also decoded to its end (`verified: decoded`) when it is shorter than 110 seconds, when it was copied, when no
walk is known for the container, and whenever that costs at most 7.5 per cent of the conversion's own CPU time; that is so for m4a and aac
from about ten minutes on, for mp3 and ogg from about a quarter of an hour on. Decoding FLAC, Opus, MP2 or AC-3 would cost 15 to 50 per cent, so long ones are walked only. In WAV
and AIFF a walk sees all there is.

A truncated or damaged input gives a result with a warning when at least half of what its header promises, or of the part asked for, could
be read, else it fails. Where a file only lets one guess its length (AAC streams, MP3 without an index) it is counted, and nothing is held
against the guess.
"""


def page() -> str:
    """The whole page."""
    described = catalogue(None)["outputs"]
    lines = [
        _HEAD,
        "## What comes in",
        "",
        ", ".join(f"`{name}`" for name in sorted(INPUTS)),
        "",
        "## What comes out",
        "",
    ]
    lines += [
        "| `newFormat` | what it is | file, MIME type | codec | carries | rates | channels | bit rate (kbit/s) | quality | bits |",
        "|" + "---|" * 10,
    ]
    lines += [_row(name, entry) for name, entry in described.items()]
    lines += ["", _OPTIONS, _CHECKS, "## Failures", "", "| code | what a person can do |", "|---|---|"]
    lines += [f"| `{code}` | {sentence} |" for code, sentence in FAILURES.items()]
    lines += ["", "## Warnings in a plan or a result", "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {sentence} |" for code, sentence in NOTICES.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, entry: Mapping[str, Any]) -> str:
    options = entry["options"]
    carries = ", ".join(what for what, does in entry["carries"].items() if does) or "nothing"
    bitrate = _span(options.get("bitrateKbps"))
    defaults = (options.get("bitrateKbps") or {}).get("default")
    if defaults and "2" in defaults:
        bitrate += f"; stereo {defaults['2']}"
    quality = _span(options.get("quality"))
    if options.get("quality", {}).get("default") is not None:
        quality += f"; {options['quality']['default']:g}"
    cells = [
        f"`{name}`", entry["title"], f".{entry['extension']}, {entry['mimeType']}", entry["codec"], carries, _span(options["sampleRateHz"]),
        f"1–{OUTPUTS[name].max_channels}", bitrate, quality, _span(options.get("bitDepth")),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _span(option: Mapping[str, Any] | None) -> str:
    if option is None:
        return "–"
    if "values" in option:
        return ", ".join(str(value) for value in option["values"])
    return f"{option['minimum']} to {option['maximum']}"


if __name__ == "__main__":
    sys.stdout.write(page())
