"""What can be converted into what, with which options, and what comes out: one table and pure functions over it.

Both tiers read this module. It starts no program, opens no file and imports neither ffmpeg's wrappers nor Flask, so it
loads in milliseconds. Wire names (``bitrateKbps``, ``sampleRateHz``, …) carry their units.

* :data:`OUTPUTS` is the table of target formats, :data:`INPUTS` the extensions that may be uploaded.
* :func:`parse_options` turns what a client sent into :class:`Options`, or raises :class:`OptionError`, which says
  what is allowed.
* :func:`plan` foretells the exact output for a :class:`Probe` (what a file is) and :class:`Options`.
* :data:`FAILURES` has one sentence for every way in which a conversion can fail for good.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

# ---------------------------------------------------------------------------------------------- inputs

INPUTS: frozenset[str] = frozenset(
    [
        "mp3",
        "mp2",
        "mp1",
        "mpa",
        "mpga",
        "wav",
        "wave",
        "rf64",
        "w64",
        "bwf",
        "flac",
        "ogg",
        "oga",
        "ogx",
        "opus",
        "spx",
        "aac",
        "adts",
        "m4a",
        "m4b",
        "m4r",
        "mp4",
        "m4v",
        "mov",
        "3gp",
        "3g2",
        "alac",
        "aiff",
        "aif",
        "aifc",
        "caf",
        "wma",
        "asf",
        "wmv",
        "amr",
        "awb",
        "ac3",
        "eac3",
        "ec3",
        "mkv",
        "mka",
        "webm",
        "weba",
        "au",
        "snd",
        "ape",
        "wv",
        "tta",
        "tak",
        "shn",
        "mpc",
        "dts",
        "thd",
        "mlp",
        "gsm",
        "voc",
        "avi",
        "mpg",
        "mpeg",
        "ts",
        "flv",
        "dsf",
    ]
)
"""Lower-case extensions that may be uploaded. The extension only admits a file; what it really is, its bytes decide."""

# -------------------------------------------------------------------------------------------- failures

FAILURES: Mapping[str, str] = MappingProxyType(
    {
        "empty_file": "The file is empty: upload it again.",
        "not_audio": "This is not an audio or video file that we know: check that you chose the right file.",
        "no_audio_stream": "The file has no sound track: choose one that has audio in it.",
        "unsupported_codec": "The audio inside the file uses a codec that we cannot decode: export it in another format and try again.",
        "encrypted": "The file is protected against copying (DRM), so it cannot be converted: use an unprotected copy.",
        "damaged_input": "The file is damaged or cut short, and too little of it can be read: upload a complete copy.",
        "too_long": "The recording is longer than we convert: cut it into parts and upload those.",
        "too_large": "The result would be larger than we store: choose a compressed format, a lower rate, or a part of the recording.",
        "timed_out": "The conversion took longer than it may: try a shorter part or another format.",
        "out_of_memory": "The file needs more memory to read than a conversion may use: export it in another format and try again.",
        "too_quiet": "The recording is silent or too short to measure its loudness: convert it without loudnessLufs.",
        "bad_options": "The options do not fit this recording: the message says what is allowed.",
        "unavailable_format": "The converter at hand cannot write this format: choose one that GET /api/formats lists.",
        "verification_failed": "The result did not pass its checks and was thrown away: the message says what differed.",
        "conversion_failed": "The conversion failed although the file looked sound: try another format, and tell us if it stays so.",
        # The service's own trouble, not the file's.
        "original_missing": "The original is no longer in the store: upload the file again.",
        "original_corrupt": "The stored original is damaged: upload the file again.",
        "store_unavailable": "The file store did not answer for minutes: ask for the conversion again later.",
        "worker_disk_full": "The worker's disk was full: ask for the conversion again later.",
        "worker_trouble": "The worker had trouble with its own disk: ask for the conversion again.",
        "worker_lost": "The conversion was started several times and its worker died each time: the file may be harmful to it.",
        "message_lost": "No worker took the conversion up, however often it was announced: ask for it again.",
    }
)
"""Failure code → one sentence that a person can act on."""

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "upsampled": "A higher sample rate was asked for than the recording has: the file grows, the sound does not.",
        "resampled": "The format does not have the recording's sample rate: the next one that it has is used.",
        "upmixed": "More channels were asked for than the recording has.",
        "downmixed": "The format holds fewer channels than the recording has: they are mixed down.",
        "deeper_than_source": "More bits were asked for than the recording has.",
        "bit_depth_reduced": "The format holds fewer bits than the recording has, or no floating point.",
        "lossy_to_lossy": "A lossy recording is encoded again with loss.",
        "may_limit": "The loudness asked for is high: a limiter may hold the peaks.",
        "loudness_missed": "The result's measured loudness is more than half a LU from the one asked for.",
        "peaks_over_full_scale": "The result's true peaks are above 0 dBTP, which some players clip.",
        "bitrate_differs": "The result's average bit rate is more than a quarter from the one asked for.",
        "tags_lost": "The format cannot hold tags.",
        "cover_lost": "The format cannot hold a cover picture, or not one of this kind.",
        "chapters_lost": "The format cannot hold chapters.",
        "tags_unreadable": "The recording's tags are damaged and were left out.",
        "truncated_input": "The recording is shorter than its header promises.",
        "damaged_input": "Parts of the recording are damaged.",
    }
)
"""Warning code → what it means. A plan and a result carry warnings as objects with ``code`` and ``message``."""

# --------------------------------------------------------------------------------------------- formats

LOSSLESS_CODECS: frozenset[str] = frozenset(
    [
        "flac",
        "alac",
        "ape",
        "wavpack",
        "tta",
        "tak",
        "als",
        "mp4als",
        "wmalossless",
        "truehd",
        "mlp",
        "shorten",
        "dsd_lsbf",
        "dsd_msbf",
        "dsd_lsbf_planar",
        "dsd_msbf_planar",
    ]
)
FRAME_SAMPLES: Mapping[str, int] = MappingProxyType(
    {
        "mp3": 1152,
        "mp2": 1152,
        "aac": 1024,
        "vorbis": 2048,
        "opus": 960,
        "ac3": 1536,
        "eac3": 1536,
        "wmav2": 2048,
        "amr_nb": 160,
    }
)
"""Samples in the longest frame of a lossy codec, at its own rate: the grain of its durations."""

_ANY_RATE = range(1_000, 384_001)
_MPEG1_RATES = (32_000, 44_100, 48_000)
_MPEG2_RATES = (16_000, 22_050, 24_000)
_MPEG25_RATES = (8_000, 11_025, 12_000)
_AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
_MP3_STEPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP2_STEPS = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LSF_STEPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_AC3_STEPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def is_lossless(codec: str) -> bool:
    """Whether decoding ``codec`` gives back the very samples that went in."""
    return codec.startswith("pcm_") or codec in LOSSLESS_CODECS


def _mp3_bitrates(rate: int, channels: int) -> Sequence[int]:
    if rate in _MPEG25_RATES:
        return tuple(step for step in _LSF_STEPS if step <= 64)
    return _LSF_STEPS if rate in _MPEG2_RATES else _MP3_STEPS


def _mp2_bitrates(rate: int, channels: int) -> Sequence[int]:
    if rate in _MPEG2_RATES:
        return _LSF_STEPS
    # The standard leaves some rates to mono or to stereo only, and strict decoders refuse the others.
    return tuple(step for step in _MP2_STEPS if (step <= 192 if channels == 1 else step not in (32, 48, 56, 80)))


# libvorbis has one set of managed-rate templates per span of sample rates, and none above 50 kHz.
_VORBIS_SPANS = (
    (9_000, (8, 40), (12, 80)),
    (15_000, (12, 48), (16, 96)),
    (19_000, (16, 96), (24, 192)),
    (26_000, (16, 80), (32, 160)),
    (40_000, (32, 160), (40, 320)),
    (50_000, (32, 240), (48, 500)),
)


def _vorbis_bitrates(rate: int, channels: int) -> Sequence[int]:
    for below, mono, stereo in _VORBIS_SPANS:
        if rate < below:
            if channels == 2:
                return range(stereo[0], stereo[1] + 1)
            return range(mono[0] * channels, min(960, mono[1] * channels) + 1)
    return ()


def _opus_bitrates(rate: int, channels: int) -> Sequence[int]:
    return range(6 * channels, (255 if channels <= 2 else 256) * channels + 1)


def _aac_bitrates(rate: int, channels: int) -> Sequence[int]:
    # A frame of 1024 samples holds at most 6144 bits per channel; ffmpeg would clamp above that.
    return range(16 * channels, min(320 * channels, 6144 * rate * channels // 1024 // 1000) + 1)


def _ac3_bitrates(rate: int, channels: int) -> Sequence[int]:
    return tuple(step for step in _AC3_STEPS if step >= 32 * channels)


def _eac3_bitrates(rate: int, channels: int) -> Sequence[int]:
    return range(32 * channels, 1025)


def _wma_bitrates(rate: int, channels: int) -> Sequence[int]:
    return range(24 * channels, 160 * channels + 1)


def _amr_bitrates(rate: int, channels: int) -> Sequence[int]:
    return ()


BitrateRule = Callable[[int, int], Sequence[int]]
TagKind = Literal["id3", "vorbis", "flac", "mp4", "riff", "matroska", "ape", "asf", "ffmpeg", "none"]


@dataclass(frozen=True, slots=True)
class Depth:
    """How one bit depth is written: the encoder for it and the sample format that the encoder takes."""

    encoder: str
    sample_format: str


@dataclass(frozen=True, slots=True)
class Format:
    """One target format: what a user may ask of it and how it is written. Rates in Hz, bit rates in kbit/s."""

    name: str
    title: str
    extension: str
    mime: str
    container: str
    """The name by which the result says what wraps the audio."""
    muxer: str
    """ffmpeg's name for the writer of that container."""
    codec: str
    encoders: tuple[str, ...]
    """ffmpeg's encoders for the codec, best first; the first that is there is used. Empty where ``depths`` names them."""
    rates: Sequence[int]
    max_channels: int
    bitrates: BitrateRule | None = None
    default_kbps_per_channel: int = 0
    quality: tuple[float, float] | None = None
    quality_best: Literal["low", "high"] = "high"
    default_quality: float | None = None
    depths: Mapping[int, Depth] = field(default_factory=dict)
    float_encoder: str | None = None
    """The encoder that keeps 32-bit floating point samples as they are."""
    copies: frozenset[str] = frozenset()
    """Codecs of an input that fit this container untouched."""
    sample_format: str = ""
    tags: TagKind = "none"
    cover: bool = False
    chapters: bool = False
    channel_choices: tuple[int, ...] = (1, 2)

    @property
    def lossless(self) -> bool:
        return is_lossless(self.codec)

    def all_encoders(self) -> tuple[str, ...]:
        """Every encoder of which at least one must be there for this format to be written."""
        return self.encoders or tuple(dict.fromkeys(depth.encoder for depth in self.depths.values()))

    def available(self, encoders: Collection[str]) -> bool:
        """Whether an ffmpeg with ``encoders`` can write this format with all that the table promises for it."""
        if self.encoders:
            return any(name in encoders for name in self.encoders)
        return all(depth.encoder in encoders for depth in self.depths.values())


_WAV_DEPTHS = {
    8: Depth("pcm_u8", "u8"),
    16: Depth("pcm_s16le", "s16"),
    24: Depth("pcm_s24le", "s32"),
    32: Depth("pcm_s32le", "s32"),
}
_BIG_DEPTHS = {16: Depth("pcm_s16be", "s16"), 24: Depth("pcm_s24be", "s32"), 32: Depth("pcm_s32be", "s32")}
_CAF_DEPTHS = {16: Depth("pcm_s16le", "s16"), 24: Depth("pcm_s24le", "s32"), 32: Depth("pcm_s32le", "s32")}
_FLAC_DEPTHS = {16: Depth("flac", "s16"), 24: Depth("flac", "s32")}
_ALAC_DEPTHS = {16: Depth("alac", "s16p"), 24: Depth("alac", "s32p")}
_TTA_DEPTHS = {16: Depth("tta", "s16"), 24: Depth("tta", "s32")}
_WV_DEPTHS = {16: Depth("wavpack", "s16p"), 24: Depth("wavpack", "s32p"), 32: Depth("wavpack", "s32p")}
_SURROUND = (1, 2, 6, 8)

_TABLE = (
    Format(
        "mp3",
        "MP3",
        "mp3",
        "audio/mpeg",
        "mp3",
        "mp3",
        "mp3",
        ("libmp3lame",),
        (*_MPEG25_RATES, *_MPEG2_RATES, *_MPEG1_RATES),
        2,
        bitrates=_mp3_bitrates,
        default_kbps_per_channel=96,
        quality=(0, 9),
        quality_best="low",
        copies=frozenset({"mp3"}),
        sample_format="fltp",
        tags="id3",
        cover=True,
        chapters=True,
    ),
    Format(
        "ogg",
        "Ogg Vorbis",
        "ogg",
        "audio/ogg",
        "ogg",
        "ogg",
        "vorbis",
        ("libvorbis",),
        range(8_000, 192_001),
        8,
        bitrates=_vorbis_bitrates,
        quality=(-1, 10),
        default_quality=5,
        copies=frozenset({"vorbis"}),
        sample_format="fltp",
        tags="vorbis",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "opus",
        "Opus",
        "opus",
        "audio/ogg; codecs=opus",
        "ogg",
        "opus",
        "opus",
        ("libopus",),
        (8_000, 12_000, 16_000, 24_000, 48_000),
        8,
        bitrates=_opus_bitrates,
        default_kbps_per_channel=64,
        copies=frozenset({"opus"}),
        sample_format="s16",
        tags="vorbis",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "wav",
        "WAV (PCM)",
        "wav",
        "audio/wav",
        "wav",
        "wav",
        "pcm_s16le",
        (),
        _ANY_RATE,
        8,
        depths=_WAV_DEPTHS,
        float_encoder="pcm_f32le",
        copies=frozenset({"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}),
        tags="riff",
        cover=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "flac",
        "FLAC",
        "flac",
        "audio/flac",
        "flac",
        "flac",
        "flac",
        (),
        _ANY_RATE,
        8,
        depths=_FLAC_DEPTHS,
        copies=frozenset({"flac"}),
        tags="flac",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "m4a",
        "AAC in MP4",
        "m4a",
        "audio/mp4",
        "mp4",
        "ipod",
        "aac",
        ("aac",),
        _AAC_RATES,
        8,
        bitrates=_aac_bitrates,
        default_kbps_per_channel=80,
        copies=frozenset({"aac"}),
        sample_format="fltp",
        tags="mp4",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "m4b",
        "AAC audiobook in MP4",
        "m4b",
        "audio/mp4",
        "mp4",
        "ipod",
        "aac",
        ("aac",),
        _AAC_RATES,
        8,
        bitrates=_aac_bitrates,
        default_kbps_per_channel=48,
        copies=frozenset({"aac"}),
        sample_format="fltp",
        tags="mp4",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "alac",
        "Apple Lossless in MP4",
        "m4a",
        "audio/mp4",
        "mp4",
        "ipod",
        "alac",
        (),
        _ANY_RATE,
        8,
        depths=_ALAC_DEPTHS,
        copies=frozenset({"alac"}),
        tags="mp4",
        cover=True,
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "aiff",
        "AIFF (PCM)",
        "aiff",
        "audio/aiff",
        "aiff",
        "aiff",
        "pcm_s16be",
        (),
        _ANY_RATE,
        8,
        depths=_BIG_DEPTHS,
        copies=frozenset({"pcm_s16be", "pcm_s24be", "pcm_s32be"}),
        tags="id3",
        cover=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "aac",
        "AAC stream (ADTS)",
        "aac",
        "audio/aac",
        "adts",
        "adts",
        "aac",
        ("aac",),
        _AAC_RATES,
        8,
        bitrates=_aac_bitrates,
        default_kbps_per_channel=80,
        copies=frozenset({"aac"}),
        sample_format="fltp",
        tags="id3",
        cover=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "webm",
        "Opus in WebM",
        "webm",
        "audio/webm",
        "webm",
        "webm",
        "opus",
        ("libopus",),
        (8_000, 12_000, 16_000, 24_000, 48_000),
        8,
        bitrates=_opus_bitrates,
        default_kbps_per_channel=64,
        copies=frozenset({"opus", "vorbis"}),
        sample_format="s16",
        tags="matroska",
        chapters=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "mp2",
        "MPEG layer II",
        "mp2",
        "audio/mpeg",
        "mp2",
        "mp2",
        "mp2",
        ("mp2", "libtwolame"),
        (*_MPEG2_RATES, *_MPEG1_RATES),
        2,
        bitrates=_mp2_bitrates,
        default_kbps_per_channel=96,
        copies=frozenset({"mp2"}),
        sample_format="s16",
    ),
    Format(
        "ac3",
        "Dolby Digital",
        "ac3",
        "audio/ac3",
        "ac3",
        "ac3",
        "ac3",
        ("ac3",),
        _MPEG1_RATES,
        6,
        bitrates=_ac3_bitrates,
        default_kbps_per_channel=96,
        copies=frozenset({"ac3"}),
        sample_format="fltp",
        channel_choices=(1, 2, 6),
    ),
    Format(
        "eac3",
        "Dolby Digital Plus",
        "eac3",
        "audio/eac3",
        "eac3",
        "eac3",
        "eac3",
        ("eac3",),
        _MPEG1_RATES,
        6,
        bitrates=_eac3_bitrates,
        default_kbps_per_channel=96,
        copies=frozenset({"eac3"}),
        sample_format="fltp",
        channel_choices=(1, 2, 6),
    ),
    Format(
        "caf",
        "Core Audio (PCM)",
        "caf",
        "audio/x-caf",
        "caf",
        "caf",
        "pcm_s16le",
        (),
        _ANY_RATE,
        8,
        depths=_CAF_DEPTHS,
        float_encoder="pcm_f32le",
        copies=frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}),
        tags="ffmpeg",
        channel_choices=_SURROUND,
    ),
    Format(
        "wv",
        "WavPack",
        "wv",
        "audio/x-wavpack",
        "wv",
        "wv",
        "wavpack",
        (),
        _ANY_RATE,
        8,
        depths=_WV_DEPTHS,
        float_encoder="wavpack",
        copies=frozenset({"wavpack"}),
        tags="ape",
        cover=True,
        channel_choices=_SURROUND,
    ),
    Format(
        "tta",
        "True Audio",
        "tta",
        "audio/x-tta",
        "tta",
        "tta",
        "tta",
        (),
        _ANY_RATE,
        8,
        depths=_TTA_DEPTHS,
        copies=frozenset({"tta"}),
        tags="ape",
        channel_choices=_SURROUND,
    ),
    Format(
        "au",
        "Sun audio (PCM)",
        "au",
        "audio/basic",
        "au",
        "au",
        "pcm_s16be",
        (),
        _ANY_RATE,
        8,
        depths=_BIG_DEPTHS,
        copies=frozenset({"pcm_s16be", "pcm_s24be", "pcm_s32be"}),
        channel_choices=_SURROUND,
    ),
    Format(
        "wma",
        "Windows Media Audio",
        "wma",
        "audio/x-ms-wma",
        "asf",
        "asf",
        "wmav2",
        ("wmav2",),
        (22_050, 32_000, 44_100, 48_000),
        2,
        bitrates=_wma_bitrates,
        default_kbps_per_channel=80,
        copies=frozenset({"wmav2", "wmav1"}),
        sample_format="fltp",
        tags="asf",
        cover=True,
    ),
)

OUTPUTS: Mapping[str, Format] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Target formats by the name that a user writes in ``newFormat``."""

# --------------------------------------------------------------------------------------------- options


class OptionError(ValueError):
    """Options that cannot be honoured. ``errors`` maps the field, as on the wire, to sentences that say what is allowed."""

    def __init__(self, errors: Mapping[str, Sequence[str]]) -> None:
        self.errors: dict[str, list[str]] = {name: list(messages) for name, messages in errors.items()}
        super().__init__("; ".join(f"{name}: {' '.join(messages)}" for name, messages in self.errors.items()))


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asked for. ``None`` means not asked: the format's default, or what the input has."""

    bitrate_kbps: int | None = None
    quality: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    bit_depth: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    fade_in_seconds: float | None = None
    fade_out_seconds: float | None = None
    loudness_lufs: float | None = None
    keep_metadata: bool | None = None
    keep_cover: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Only what was asked, under wire names."""
        values = {_wire(item.name): getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Options":
        """The inverse of :meth:`to_json`: types and ranges that hold for every format. Raises :class:`OptionError`."""
        options, errors = _read_fields(raw)
        if errors:
            raise OptionError(errors)
        return options

    @property
    def wants_metadata(self) -> bool:
        return self.keep_metadata is not False

    @property
    def wants_cover(self) -> bool:
        return self.keep_cover is not False


MAX_SECONDS = 864_000.0
MAX_FADE_SECONDS = 3_600.0
LOUDNESS_RANGE = (-50.0, -5.0)

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "bitrate_kbps": "whole",
        "quality": "number",
        "sample_rate_hz": "whole",
        "channels": "whole",
        "bit_depth": "whole",
        "start_seconds": "number",
        "end_seconds": "number",
        "fade_in_seconds": "number",
        "fade_out_seconds": "number",
        "loudness_lufs": "number",
        "keep_metadata": "truth",
        "keep_cover": "truth",
    }
)
_LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "start_seconds": (0, MAX_SECONDS),
        "end_seconds": (0, MAX_SECONDS),
        "fade_in_seconds": (0, MAX_FADE_SECONDS),
        "fade_out_seconds": (0, MAX_FADE_SECONDS),
        "loudness_lufs": LOUDNESS_RANGE,
    }
)
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})", re.ASCII)
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def _wire(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_BY_WIRE: Mapping[str, str] = MappingProxyType({_wire(item.name): item.name for item in fields(Options)})
OPTION_NAMES: tuple[str, ...] = tuple(_BY_WIRE)
"""Every option, as on the wire."""


def _number_text(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"


def _whole(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    raise ValueError


def _number(value: object) -> float:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        number = float(value)
    else:
        raise ValueError
    if not math.isfinite(number):
        raise ValueError
    return number


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


_READERS: Mapping[str, tuple[Callable[[object], object], str]] = MappingProxyType(
    {
        "whole": (_whole, "a whole number"),
        "number": (_number, "a number"),
        "truth": (_truth, "true or false"),
    }
)


def _read_fields(raw: Mapping[str, object]) -> tuple[Options, dict[str, list[str]]]:
    values: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for wire, value in raw.items():
        name = _BY_WIRE.get(wire)
        if name is None:
            errors[str(wire)] = [f"There is no such option. Options are {', '.join(OPTION_NAMES)}."]
            continue
        reader, description = _READERS[_KINDS[name]]
        try:
            parsed = reader(value)
        except (ValueError, OverflowError):
            errors[wire] = [f"Must be {description}."]
            continue
        limits = _LIMITS.get(name)
        if limits and isinstance(parsed, float) and not limits[0] <= parsed <= limits[1]:
            errors[wire] = [f"Must be from {_number_text(limits[0])} to {_number_text(limits[1])}."]
            continue
        values[name] = parsed
    return Options(**values), errors


def parse_options(target: str, raw: Mapping[str, object]) -> Options:
    """Read what a client asked of ``target``: ``str`` values (multipart) or JSON values under wire names.

    Raises :class:`OptionError` for an unknown format or option, a wrong type, a value out of range or an illegal
    combination. What depends on the input (its rate, its length) is checked by :func:`plan`.
    """
    wanted = OUTPUTS.get(target)
    if wanted is None:
        raise OptionError({"newFormat": [f"There is no such format. Formats are {', '.join(OUTPUTS)}."]})
    options, errors = _read_fields(raw)
    for wire, sentences in errors.items():
        sentences += _allowed(wanted, _BY_WIRE.get(wire, ""))
    for name, message in _format_errors(wanted, options):
        errors.setdefault(_wire(name), []).append(message)
    if errors:
        raise OptionError(errors)
    return options


def _allowed(wanted: Format, name: str) -> list[str]:
    """What the format allows for an option whose value could not even be read."""
    if name == "bitrate_kbps":
        return _bitrate_errors(wanted, Options(bitrate_kbps=-1))
    absurd = {"quality": -99.0, "sample_rate_hz": -1, "channels": -1, "bit_depth": -1}
    if name in absurd:
        return [message for _, message in _format_errors(wanted, Options(**{name: absurd[name]}))]  # type: ignore[arg-type]
    if name in _LIMITS:
        low, high = _LIMITS[name]
        return [f"It must be from {_number_text(low)} to {_number_text(high)}."]
    return []


def _spell(values: Sequence[int], unit: str = "") -> str:
    if isinstance(values, range):
        return f"from {values[0]} to {values[-1]}{unit}"
    *head, last = [str(value) for value in values]
    return f"{', '.join(head)} or {last}{unit}" if head else f"{last}{unit}"


def _format_errors(wanted: Format, options: Options) -> list[tuple[str, str]]:
    """What is wrong with ``options`` for this format whatever the input is."""
    found: list[tuple[str, str]] = []
    if options.bitrate_kbps is not None:
        found += [("bitrate_kbps", message) for message in _bitrate_errors(wanted, options)]
    if options.quality is not None:
        if wanted.quality is None:
            found.append(("quality", f"{wanted.name} has no quality scale.{_instead(wanted)}"))
        elif not wanted.quality[0] <= options.quality <= wanted.quality[1]:
            low, high = wanted.quality
            best = low if wanted.quality_best == "low" else high
            found.append(("quality", f"For {wanted.name} it must be from {low:g} to {high:g}; {best:g} is the best."))
        elif options.bitrate_kbps is not None:
            found.append(("quality", "Ask for bitrateKbps or for quality, not for both."))
    if options.sample_rate_hz is not None and options.sample_rate_hz not in wanted.rates:
        found.append(("sample_rate_hz", f"For {wanted.name} it must be {_spell(wanted.rates, ' Hz')}."))
    if options.channels is not None and options.channels not in wanted.channel_choices:
        found.append(("channels", f"For {wanted.name} it must be {_spell(wanted.channel_choices)}."))
    if options.bit_depth is not None:
        if not wanted.depths:
            found.append(("bit_depth", f"{wanted.name} has no bit depth.{_instead(wanted)}"))
        elif options.bit_depth not in wanted.depths:
            found.append(("bit_depth", f"For {wanted.name} it must be {_spell(tuple(wanted.depths))} bits."))
    start, end = options.start_seconds or 0.0, options.end_seconds
    if end is not None and end <= start:
        found.append(
            (
                "end_seconds",
                "Must be greater than startSeconds." if options.start_seconds else "Must be greater than 0.",
            )
        )
    elif end is not None and (options.fade_in_seconds or 0) + (options.fade_out_seconds or 0) > end - start:
        found.append(
            (
                "fade_out_seconds",
                f"The fades together must not be longer than the {_number_text(end - start)} seconds asked for.",
            )
        )
    return found


def _instead(wanted: Format) -> str:
    offered = [
        name
        for name, there in (("bitrateKbps", wanted.bitrates), ("quality", wanted.quality), ("bitDepth", wanted.depths))
        if there
    ]
    return f" It takes {' and '.join(offered)}." if offered else ""


def _bitrate_errors(wanted: Format, options: Options) -> list[str]:
    if wanted.bitrates is None:
        return [f"{wanted.name} has no bit rate to choose.{_instead(wanted)}"]
    rates = [options.sample_rate_hz] if options.sample_rate_hz in wanted.rates else _sample_rates(wanted)
    counts = (
        [options.channels] if options.channels in wanted.channel_choices else list(range(1, wanted.max_channels + 1))
    )
    choices = [wanted.bitrates(rate, count) for rate in rates if rate for count in counts if count]
    if any(options.bitrate_kbps in choice for choice in choices):
        return []
    allowed = _union([choice for choice in choices if choice])
    if not allowed:
        return [
            f"{wanted.name} takes no bit rate at {options.sample_rate_hz} Hz.{' Ask for quality.' if wanted.quality else ''}"
        ]
    where = ""
    if options.sample_rate_hz in wanted.rates:
        where = f" at {options.sample_rate_hz} Hz"
    if options.channels in wanted.channel_choices:
        where += f" with {options.channels} channel{'s' if options.channels != 1 else ''}"
    return [f"For {wanted.name}{where} it must be {_spell(allowed)}."]


def _sample_rates(wanted: Format) -> list[int]:
    """Rates that stand for all the format's rates when its bit rates are asked for."""
    if isinstance(wanted.rates, range):
        return [
            rate for rate in (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000) if rate in wanted.rates
        ]
    return list(wanted.rates)


def _union(choices: Sequence[Sequence[int]]) -> Sequence[int]:
    if not choices:
        return ()
    if all(isinstance(choice, range) for choice in choices):
        return range(min(choice[0] for choice in choices), max(choice[-1] for choice in choices) + 1)
    return tuple(sorted({value for choice in choices for value in choice}))


# ------------------------------------------------------------------------------------------- catalogue


def catalogue(encoders: Collection[str] | None) -> dict[str, Any]:
    """The body of ``GET /api/formats``: what can be read and what can be written with which options.

    ``encoders`` are those that the workers' ffmpeg really has; ``None`` means not known yet, and the whole table is
    given.
    """
    written = [entry for entry in OUTPUTS.values() if encoders is None or entry.available(encoders)]
    return {
        "inputs": sorted(INPUTS),
        "outputs": {entry.name: _describe(entry) for entry in written},
        "failures": dict(FAILURES),
        "warnings": dict(NOTICES),
    }


def _span(values: Sequence[int]) -> dict[str, Any]:
    if isinstance(values, range):
        return {"minimum": values[0], "maximum": values[-1]}
    return {"values": list(values)}


def _describe(entry: Format) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if entry.bitrates:
        per_rate = {rate: _bitrates_at(entry, rate) for rate in _sample_rates(entry)}
        options["bitrateKbps"] = {
            "type": "integer",
            **_span(_union([choice for choice in per_rate.values() if choice])),
            "default": {
                str(count): default_bitrate(entry, _usual_rate(entry), count) for count in entry.channel_choices
            }
            if entry.default_kbps_per_channel
            else None,
            "bySampleRateHz": {str(rate): _span(choice) if choice else None for rate, choice in per_rate.items()},
        }
    if entry.quality:
        options["quality"] = {
            "type": "number",
            "minimum": entry.quality[0],
            "maximum": entry.quality[1],
            "best": entry.quality[0] if entry.quality_best == "low" else entry.quality[1],
            "default": entry.default_quality,
        }
    options["sampleRateHz"] = {
        "type": "integer",
        **_span(entry.rates),
        "default": "that of the input, or the nearest that the format has",
    }
    options["channels"] = {
        "type": "integer",
        "values": list(entry.channel_choices),
        "default": f"those of the input, at most {entry.max_channels}",
    }
    if entry.depths:
        options["bitDepth"] = {
            "type": "integer",
            "values": list(entry.depths),
            "default": "that of a lossless input, 16 for a lossy one",
        }
    for name, limits in _LIMITS.items():
        options[_wire(name)] = {"type": "number", "minimum": limits[0], "maximum": limits[1], "default": None}
    for name in ("keepMetadata", "keepCover"):
        options[name] = {"type": "boolean", "default": True}
    return {
        "title": entry.title,
        "extension": entry.extension,
        "mimeType": entry.mime,
        "container": entry.container,
        "codec": entry.codec,
        "lossless": entry.lossless,
        "carries": {"tags": entry.tags != "none", "cover": entry.cover, "chapters": entry.chapters},
        "options": options,
    }


def _usual_rate(entry: Format) -> int:
    return 44_100 if 44_100 in entry.rates else 48_000


def _bitrates_at(entry: Format, rate: int) -> Sequence[int]:
    rule = entry.bitrates
    if rule is None:
        return ()
    return _union([choice for choice in (rule(rate, count) for count in range(1, entry.max_channels + 1)) if choice])


def default_bitrate(entry: Format, rate: int, channels: int) -> int | None:
    """The bit rate used when none is asked, in kbit/s, or None where the format's default is a quality or it has no bit rate."""
    if entry.bitrates is None or not entry.default_kbps_per_channel:
        return None
    allowed = entry.bitrates(rate, channels)
    aim = entry.default_kbps_per_channel * channels
    return min(allowed, key=lambda step: (abs(step - aim), step)) if allowed else None


# ----------------------------------------------------------------------------------------------- probe


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter: start and end in seconds from the beginning of the audio, and its title."""

    start_seconds: float
    end_seconds: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What an audio file is. ``duration_exact`` is False where the length is only an estimate from the bit rate."""

    container: str
    codec: str
    sample_rate_hz: int
    channels: int
    bit_depth: int | None = None
    float_samples: bool = False
    duration_seconds: float | None = None
    duration_exact: bool = False
    bitrate_kbps: int | None = None
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_cover: bool = False
    cover_bytes: int | None = None
    chapters: tuple[Chapter, ...] = ()

    @property
    def lossless(self) -> bool:
        return is_lossless(self.codec)

    def to_json(self) -> dict[str, Any]:
        """Wire names; what is not known is left out."""
        body: dict[str, Any] = {
            "container": self.container,
            "codec": self.codec,
            "sampleRateHz": self.sample_rate_hz,
            "channels": self.channels,
            "bitDepth": self.bit_depth,
            "floatSamples": self.float_samples,
            "durationSeconds": self.duration_seconds,
            "durationExact": self.duration_exact,
            "bitrateKbps": self.bitrate_kbps,
            "tags": {key: list(values) for key, values in self.tags.items()},
            "hasCover": self.has_cover,
            "coverBytes": self.cover_bytes,
            "chapters": [
                {"startSeconds": item.start_seconds, "endSeconds": item.end_seconds, "title": item.title}
                for item in self.chapters
            ],
        }
        return {name: value for name, value in body.items() if value is not None}


_CODEC_NAME = re.compile(r"[a-z0-9][a-z0-9_.,-]{0,63}", re.ASCII)
_MAX_TAGS, _MAX_CHAPTERS, _MAX_TEXT = 512, 2_000, 100_000


class _ProbeReader:
    """Reads one field after another and collects what is wrong, so that a client sees every mistake at once."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self.raw = raw
        self.errors: dict[str, list[str]] = {}

    def fail(self, name: str, message: str) -> None:
        self.errors.setdefault(f"probe.{name}", []).append(message)

    def name(self, name: str) -> str:
        value = self.raw.get(name)
        if isinstance(value, str) and _CODEC_NAME.fullmatch(value):
            return value
        self.fail(name, "Must be a name in lower case, such as mp3.")
        return "unknown"

    def whole(self, name: str, low: int, high: int, *, required: bool = False) -> int | None:
        value = self.raw.get(name)
        if value is None and not required:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(name, f"Must be a whole number from {low} to {high}.")
            return low if required else None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.raw.get(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not low <= value <= high
        ):
            self.fail(name, f"Must be a number from {_number_text(low)} to {_number_text(high)}.")
            return None
        return float(value)

    def truth(self, name: str) -> bool:
        value = self.raw.get(name, False)
        if not isinstance(value, bool):
            self.fail(name, "Must be true or false.")
            return False
        return value

    def tags(self) -> dict[str, tuple[str, ...]]:
        value = self.raw.get("tags", {})
        read: dict[str, tuple[str, ...]] = {}
        if not isinstance(value, Mapping) or len(value) > _MAX_TAGS:
            self.fail("tags", f"Must be an object with at most {_MAX_TAGS} names.")
            return read
        for key, entry in value.items():
            texts = [entry] if isinstance(entry, str) else entry
            if (
                not isinstance(key, str)
                or not isinstance(texts, list | tuple)
                or not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts)
            ):
                self.fail("tags", "Each tag must be a text or a list of texts.")
                continue
            read[key] = tuple(texts)
        return read

    def chapters(self) -> tuple[Chapter, ...]:
        value = self.raw.get("chapters", [])
        read: list[Chapter] = []
        if not isinstance(value, list | tuple) or len(value) > _MAX_CHAPTERS:
            self.fail("chapters", f"Must be a list of at most {_MAX_CHAPTERS} chapters.")
            return ()
        for entry in value:
            inner = _ProbeReader(entry if isinstance(entry, Mapping) else {})
            start, end = inner.number("startSeconds", 0, MAX_SECONDS), inner.number("endSeconds", 0, MAX_SECONDS)
            title = inner.raw.get("title", "")
            if start is None or end is None or end < start or not isinstance(title, str) or len(title) > _MAX_TEXT:
                self.fail("chapters", "Each chapter needs startSeconds, a later endSeconds and may have a title.")
                continue
            read.append(Chapter(start, end, title))
        return tuple(read)


def probe_from_json(raw: object) -> Probe:
    """The inverse of :meth:`Probe.to_json`, for data from outside. Raises :class:`OptionError` with fields named ``probe.…``."""
    if not isinstance(raw, Mapping):
        raise OptionError({"probe": ["Must be an object with container, codec, sampleRateHz and channels."]})
    reader = _ProbeReader(raw)
    probe = Probe(
        container=reader.name("container"),
        codec=reader.name("codec"),
        sample_rate_hz=reader.whole("sampleRateHz", 1, 10_000_000, required=True) or 1,
        channels=reader.whole("channels", 1, 1_024, required=True) or 1,
        bit_depth=reader.whole("bitDepth", 1, 64),
        float_samples=reader.truth("floatSamples"),
        duration_seconds=reader.number("durationSeconds", 0, 1e9),
        duration_exact=reader.truth("durationExact"),
        bitrate_kbps=reader.whole("bitrateKbps", 0, 10_000_000),
        tags=reader.tags(),
        has_cover=reader.truth("hasCover"),
        cover_bytes=reader.whole("coverBytes", 0, 2**40),
        chapters=reader.chapters(),
    )
    if reader.errors:
        raise OptionError(reader.errors)
    return probe


# ------------------------------------------------------------------------------------------------ plan


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know about a result that is otherwise fine."""

    code: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Plan:
    """The exact output that will come out of one input, target and options."""

    target: str
    codec: str
    container: str
    extension: str
    mime: str
    copied: bool
    sample_rate_hz: int
    channels: int
    bit_depth: int | None = None
    float_samples: bool = False
    encoder: str | None = None
    """The encoder where the bit depth decides it; None where any of the format's encoders will do, or for a copy."""
    sample_format: str = ""
    bitrate_kbps: int | None = None
    quality: float | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    duration_seconds: float | None = None
    keeps_tags: bool = True
    keeps_cover: bool = False
    keeps_chapters: bool = False
    estimated_bytes: int | None = None
    source_channels: int = 0
    """Channels of the input: where they differ from ``channels``, they are mixed before anything else is done."""
    warnings: tuple[Notice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Wire names; what does not apply is left out."""
        body: dict[str, Any] = {
            "newFormat": self.target,
            "codec": self.codec,
            "container": self.container,
            "extension": self.extension,
            "mimeType": self.mime,
            "copied": self.copied,
            "sampleRateHz": self.sample_rate_hz,
            "channels": self.channels,
            "bitDepth": self.bit_depth,
            "floatSamples": True if self.float_samples else None,
            "bitrateKbps": self.bitrate_kbps,
            "quality": self.quality,
            "durationSeconds": None if self.duration_seconds is None else round(self.duration_seconds, 6),
            "keepsTags": self.keeps_tags,
            "keepsCover": self.keeps_cover,
            "keepsChapters": self.keeps_chapters,
            "estimatedBytes": self.estimated_bytes,
            "warnings": [item.to_json() for item in self.warnings],
        }
        return {name: value for name, value in body.items() if value is not None}


def plan(probe: Probe, target: str, options: Options) -> Plan:
    """Foretell what converting ``probe`` to ``target`` with ``options`` gives.

    Raises :class:`OptionError` for an unknown format and for options that this input does not allow (a part that lies
    behind its end, a bit rate that its sample rate does not take). Nothing is clamped in silence: what the format
    forces on a default is a warning.
    """
    wanted = OUTPUTS.get(target)
    if wanted is None:
        raise OptionError({"newFormat": [f"There is no such format. Formats are {', '.join(OUTPUTS)}."]})
    errors: dict[str, list[str]] = {}
    for name, message in _format_errors(wanted, options):
        errors.setdefault(_wire(name), []).append(message)
    warnings: list[Notice] = []
    start, end, duration = _cut(probe, options, errors)
    copied = _copies(probe, wanted, options)
    if copied:
        output = _copied_output(probe, wanted)
    else:
        rate = _output_rate(probe, wanted, options, warnings)
        channels = _output_channels(probe, wanted, options, warnings)
        output = _encoded_output(probe, wanted, options, rate, channels, errors, warnings)
    if errors:
        raise OptionError(errors)
    if not copied:
        _quality_warnings(probe, wanted, options, warnings)
    carried = _carried(probe, wanted, options, warnings)
    return Plan(
        target=wanted.name,
        container=wanted.container,
        extension=wanted.extension,
        mime=wanted.mime,
        copied=copied,
        start_seconds=start,
        end_seconds=end,
        duration_seconds=duration,
        source_channels=probe.channels,
        estimated_bytes=_estimate(probe, wanted, output, duration, keeps_cover=carried["keeps_cover"]),
        warnings=tuple(warnings),
        **output,
        **carried,
    )


def _cut(probe: Probe, options: Options, errors: dict[str, list[str]]) -> tuple[float, float | None, float | None]:
    """Start, end (None: to the end) and length of the part that is asked for, in seconds."""
    total = probe.duration_seconds
    start, end = options.start_seconds or 0.0, options.end_seconds
    slack = 0.0005 if probe.duration_exact else max(0.1, (total or 0) * 0.05)
    if total is None:
        return start, end, None if end is None else end - start
    if start and start >= total + (0 if probe.duration_exact else slack):
        errors.setdefault("startSeconds", []).append(
            f"Must be less than the {total:.3f} seconds that the recording has."
        )
    if end is not None and end > total + slack:
        errors.setdefault("endSeconds", []).append(
            f"Must not be more than the {total:.3f} seconds that the recording has."
        )
    duration = max(0.0, (total if end is None else min(end, total)) - start)
    fades = (options.fade_in_seconds or 0) + (options.fade_out_seconds or 0)
    if end is None and fades > duration + slack:
        errors.setdefault("fadeOutSeconds", []).append(
            f"The fades together must not be longer than the {duration:.3f} seconds there are."
        )
    return start, end, duration


def _copies(probe: Probe, wanted: Format, options: Options) -> bool:
    """Whether the input's stream can go into the target as it is: only when nothing asked would change a sample."""
    if probe.codec not in wanted.copies:
        return False
    if wanted.codec in ("aac", "alac") and probe.container not in ("mp4", "adts", "matroska", "caf", "mov"):
        return False
    # A float WavPack stream has no whole-number bit depth to hold a request against.
    touched = (options.bitrate_kbps, options.quality, options.loudness_lufs, options.end_seconds)
    return (
        all(value is None for value in touched)
        and not options.start_seconds
        and not options.fade_in_seconds
        and not options.fade_out_seconds
        and options.sample_rate_hz in (None, probe.sample_rate_hz)
        and options.channels in (None, probe.channels)
        and (options.bit_depth is None or (options.bit_depth == probe.bit_depth and not probe.float_samples))
        and probe.channels <= wanted.max_channels
    )


def _copied_output(probe: Probe, wanted: Format) -> dict[str, Any]:
    return {
        "codec": probe.codec,
        "sample_rate_hz": probe.sample_rate_hz,
        "channels": probe.channels,
        "bit_depth": probe.bit_depth if probe.lossless else None,
        "float_samples": probe.float_samples if probe.lossless else False,
        "bitrate_kbps": None if probe.lossless else probe.bitrate_kbps,
    }


def _output_rate(probe: Probe, wanted: Format, options: Options, warnings: list[Notice]) -> int:
    if options.sample_rate_hz is not None:
        if options.sample_rate_hz > probe.sample_rate_hz:
            warnings.append(
                Notice(
                    "upsampled",
                    f"{options.sample_rate_hz} Hz is more than the {probe.sample_rate_hz} Hz of the recording: larger, not better.",
                )
            )
        return options.sample_rate_hz
    if probe.sample_rate_hz in wanted.rates:
        return probe.sample_rate_hz
    rate = _nearest_rate(probe.sample_rate_hz, wanted)
    if not (wanted.codec == "opus" and rate == 48_000 and probe.sample_rate_hz < 48_000):
        # Opus always runs inside at its own rates, so that is no news to anybody below 48 kHz.
        warnings.append(
            Notice("resampled", f"{wanted.name} has no {probe.sample_rate_hz} Hz: the result has {rate} Hz.")
        )
    return rate


def _nearest_rate(rate: int, wanted: Format) -> int:
    if isinstance(wanted.rates, range):
        return wanted.rates[0] if rate < wanted.rates[0] else wanted.rates[-1]
    above = [choice for choice in wanted.rates if choice >= rate]
    return min(above) if above else max(wanted.rates)


def _output_channels(probe: Probe, wanted: Format, options: Options, warnings: list[Notice]) -> int:
    if options.channels is not None:
        if options.channels > probe.channels:
            warnings.append(
                Notice(
                    "upmixed",
                    f"{options.channels} channels from a recording with {probe.channels}: no new sound comes in.",
                )
            )
        return options.channels
    if probe.channels <= wanted.max_channels:
        return probe.channels
    warnings.append(
        Notice(
            "downmixed",
            f"{wanted.name} holds at most {wanted.max_channels} channels: {probe.channels} were mixed down.",
        )
    )
    return wanted.max_channels


def _encoded_output(
    probe: Probe,
    wanted: Format,
    options: Options,
    rate: int,
    channels: int,
    errors: dict[str, list[str]],
    warnings: list[Notice],
) -> dict[str, Any]:
    output: dict[str, Any] = {
        "codec": wanted.codec,
        "sample_rate_hz": rate,
        "channels": channels,
        "sample_format": wanted.sample_format,
    }
    if wanted.depths:
        output.update(_output_depth(probe, wanted, options, warnings))
    elif options.quality is not None:
        output["quality"] = options.quality
    elif options.bitrate_kbps is not None:
        allowed = wanted.bitrates(rate, channels) if wanted.bitrates else ()
        if options.bitrate_kbps not in allowed and "bitrateKbps" not in errors:
            message = f"At {rate} Hz with {channels} channels, as the result will have, {wanted.name} "
            message += f"must have {_spell(allowed)} kbit/s." if allowed else "takes no bit rate: ask for quality."
            errors["bitrateKbps"] = [message]
        output["bitrate_kbps"] = options.bitrate_kbps
    elif wanted.default_quality is not None:
        output["quality"] = wanted.default_quality
    else:
        output["bitrate_kbps"] = default_bitrate(wanted, rate, channels)
    return output


def _output_depth(probe: Probe, wanted: Format, options: Options, warnings: list[Notice]) -> dict[str, Any]:
    if options.bit_depth is None and probe.lossless and probe.float_samples and wanted.float_encoder:
        # Floating point goes through as it is: whole numbers of any depth would round it.
        name = wanted.float_encoder
        return {
            "codec": name,
            "encoder": name,
            "sample_format": "fltp" if name == "wavpack" else "flt",
            "bit_depth": 32,
            "float_samples": True,
        }
    source = probe.bit_depth if probe.lossless and probe.bit_depth else 16
    if options.bit_depth is not None:
        bits = options.bit_depth
        if not probe.lossless and bits > 16:
            warnings.append(Notice("deeper_than_source", f"{bits} bits from a lossy recording: larger, not better."))
        elif probe.lossless and bits > source and not probe.float_samples:
            warnings.append(
                Notice("deeper_than_source", f"{bits} bits from a {source}-bit recording: larger, not better.")
            )
    else:
        # Whole numbers of 32 bits hold a float's range of values only roughly, and 24 bits hold all that one can hear.
        aim = 24 if probe.float_samples and probe.lossless else source
        bits = min((depth for depth in wanted.depths if depth >= aim), default=max(wanted.depths))
        if probe.float_samples and probe.lossless:
            warnings.append(
                Notice("bit_depth_reduced", f"{wanted.name} has no floating point samples: the result has {bits} bits.")
            )
        elif bits < source:
            warnings.append(
                Notice("bit_depth_reduced", f"{wanted.name} holds at most {bits} bits: {source} were rounded.")
            )
    depth = wanted.depths[bits]
    return {
        "codec": depth.encoder if depth.encoder.startswith("pcm_") else wanted.codec,
        "encoder": depth.encoder,
        "sample_format": depth.sample_format,
        "bit_depth": bits,
    }


def _quality_warnings(probe: Probe, wanted: Format, options: Options, warnings: list[Notice]) -> None:
    if not probe.lossless and not wanted.lossless:
        warnings.append(
            Notice(
                "lossy_to_lossy",
                f"{probe.codec} to {wanted.codec} loses a little quality: convert from the original if you have it.",
            )
        )
    if options.loudness_lufs is not None and options.loudness_lufs > -14:
        warnings.append(
            Notice(
                "may_limit",
                f"{options.loudness_lufs:g} LUFS is loud: peaks that would clip are held at -1 dBTP by a limiter.",
            )
        )


def _carried(probe: Probe, wanted: Format, options: Options, warnings: list[Notice]) -> dict[str, Any]:
    tags = options.wants_metadata and wanted.tags != "none"
    cover = options.wants_cover and probe.has_cover and wanted.cover
    chapters = options.wants_metadata and bool(probe.chapters) and wanted.chapters
    if options.wants_metadata and probe.tags and not tags:
        warnings.append(Notice("tags_lost", f"{wanted.name} cannot hold tags: {len(probe.tags)} are left out."))
    if options.wants_cover and probe.has_cover and not cover:
        warnings.append(Notice("cover_lost", f"{wanted.name} cannot hold a cover picture: it is left out."))
    if options.wants_metadata and probe.chapters and not chapters:
        warnings.append(
            Notice("chapters_lost", f"{wanted.name} cannot hold chapters: {len(probe.chapters)} are left out.")
        )
    return {"keeps_tags": tags, "keeps_cover": cover, "keeps_chapters": chapters}


# What a second of audio takes at the ends of each quality scale, in kbit/s for 44.1 kHz stereo.
_QUALITY_KBPS: Mapping[str, tuple[float, float]] = MappingProxyType({"mp3": (245, 65), "ogg": (45, 500)})


def _estimate(
    probe: Probe, wanted: Format, output: Mapping[str, Any], duration: float | None, *, keeps_cover: bool
) -> int | None:
    """About how many bytes come out; None where the length is not known."""
    if duration is None:
        return None
    extra = 4_096 + ((probe.cover_bytes or 0) if keeps_cover else 0)
    rate, channels, bits = output["sample_rate_hz"], output["channels"], output.get("bit_depth")
    if wanted.depths:
        raw = rate * channels * (bits or 16) / 8
        # Lossless compression takes off about 40 per cent of music.
        return int(duration * (raw if wanted.codec.startswith("pcm_") else raw * 0.6)) + extra
    kbps = output.get("bitrate_kbps")
    if kbps is None and wanted.quality and output.get("quality") is not None:
        low, high = wanted.quality
        at_low, at_high = _QUALITY_KBPS[wanted.name]
        share = (output["quality"] - low) / (high - low)
        kbps = (at_low + (at_high - at_low) * share) * min(1.0, rate / 44_100) * channels / 2
    return int(duration * kbps * 125) + extra if kbps is not None else None
