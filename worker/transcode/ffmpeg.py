"""What this service knows about the ffmpeg program: where it is, what it can do, how it is asked and what its words mean.

Nothing here starts a conversion; see :class:`worker.transcode.Transcoder`. Works with ffmpeg 5.1 to 9.0 and needs no ffprobe.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.contract.formats import OUTPUTS, Options, Plan

# Containers of real audio and video only: no playlists, scripts, network descriptions, picture sequences or devices.
_DEMUXERS = """
aac ac3 aiff amr amrnb amrwb ape asf au avi caf dsf dts dtshd eac3 flac flv gsm loas matroska mlp mov mp3 mpc mpc8 mpeg mpegts ogg shn tak
truehd tta voc w64 wav wv
""".split()  # noqa: SIM905 - a list of words reads better as one
_DECODERS = """
aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha alac amrnb amrwb libopencore_amrnb libopencore_amrwb ape dca
dsd_lsbf dsd_lsbf_planar dsd_msbf dsd_msbf_planar eac3 flac gsm gsm_ms libgsm libgsm_ms mace3 mace6 mlp mp1 mp1float mp2 mp2float mp3
mp3float mpc7 mpc8 opus libopus pcm_alaw pcm_dvd pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be pcm_s16le pcm_s24be pcm_s24le
pcm_s32be pcm_s32le pcm_s64be pcm_s64le pcm_s8 pcm_u8 shorten speex libspeex tak truehd tta vorbis libvorbis wavpack wmalossless wmapro
wmav1 wmav2 wmavoice
""".split()  # noqa: SIM905
_NAME = re.compile(r"^ [A-Z.]{6} (\S+)", re.MULTILINE)


class FfmpegMissing(RuntimeError):
    """There is no ffmpeg that runs."""


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """One ffmpeg program and what it can do."""

    path: str
    version: str
    encoders: frozenset[str]
    decoders: frozenset[str]

    @classmethod
    def find(cls) -> "Ffmpeg":
        """``$FFMPEG``, else the system's, else the one in the imageio-ffmpeg wheel. Raises :class:`FfmpegMissing`."""
        asked = os.environ.get("FFMPEG")
        for candidate in [asked] if asked else [shutil.which("ffmpeg"), _bundled()]:
            if candidate:
                return cls.ask(candidate)
        raise FfmpegMissing("There is no ffmpeg: install it, install imageio-ffmpeg, or set FFMPEG to its path.")

    @classmethod
    def ask(cls, path: str) -> "Ffmpeg":
        """What the program at ``path`` says of itself. Raises :class:`FfmpegMissing` if it does not run."""
        real = str(Path(shutil.which(path) or path).resolve())
        try:
            version = _say(real, "-version").split(maxsplit=3)[2]
            encoders = frozenset(_NAME.findall(_say(real, "-encoders")))
            decoders = frozenset(_NAME.findall(_say(real, "-decoders")))
        except (OSError, subprocess.SubprocessError, IndexError) as error:
            raise FfmpegMissing(f"{path} does not run as ffmpeg: {error}") from error
        return cls(real, version, encoders, decoders)

    def reading(self, source: str, demuxer: str | None = None) -> list[str]:
        """Arguments that open ``source``, a bare file name in the working directory, and nothing else ever."""
        codecs = ",".join(name for name in _DECODERS if name in self.decoders)
        lists = ["-protocol_whitelist", "file", "-format_whitelist", ",".join(_DEMUXERS), "-codec_whitelist", codecs]
        # FLAC's frames carry checksums that ffmpeg looks at only when told to; without them damage is a click in the result.
        checks = ["-err_detect", "crccheck"] if demuxer == "flac" else []
        return [*lists, *checks, *(["-f", demuxer] if demuxer else []), "-i", f"file:{source}"]

    def start(self, verbosity: str = "verbose") -> list[str]:
        """The first arguments of every call."""
        return [self.path, "-hide_banner", "-nostdin", "-y", "-nostats", "-loglevel", f"repeat+level+{verbosity}"]

    def encoder(self, plan: Plan) -> str | None:
        """The encoder for a plan, None where this ffmpeg has none."""
        if plan.encoder:
            return plan.encoder if plan.encoder in self.encoders else None
        return next((name for name in OUTPUTS[plan.target].encoders if name in self.encoders), None)


def _bundled() -> str | None:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def _say(path: str, question: str) -> str:
    answer = subprocess.run(
        [path, "-hide_banner", question],
        check=True,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={"LC_ALL": "C"},
    )
    return answer.stdout.decode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------------- asking


_LAYOUT_NAMES = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def filters(plan: Plan, options: Options, duration: float | None, gain: Sequence[str] = ()) -> list[str]:
    """The chain of filters for a plan. ``duration`` is that of the part asked for, needed for a fade at its end."""
    chain: list[str] = []
    if plan.start_seconds or plan.end_seconds is not None:
        end = "" if plan.end_seconds is None else f":end={plan.end_seconds:.9f}"
        chain += [f"atrim=start={plan.start_seconds:.9f}{end}", "asetpts=PTS-STARTPTS"]
    if plan.source_channels != plan.channels and plan.channels in _LAYOUT_NAMES:
        # Without the limit ffmpeg sums channels at full level where samples are floating point, and the sum clips.
        chain += ["aresample=rematrix_maxval=1", f"aformat=channel_layouts={_LAYOUT_NAMES[plan.channels]}"]
    chain += gain
    if options.fade_in_seconds:
        chain.append(f"afade=t=in:st=0:d={options.fade_in_seconds:.9f}")
    if options.fade_out_seconds and duration is not None:
        begin = max(0.0, duration - options.fade_out_seconds)
        chain.append(f"afade=t=out:st={begin:.9f}:d={options.fade_out_seconds:.9f}")
    # ffmpeg 9 takes the first frame's size for all, and after an MP3's skipped start that may be 47 samples: FLAC then
    # takes 8 times as long and grows, and WavPack refuses.
    frame = {"flac": 4096, "wavpack": max(256, plan.sample_rate_hz // 2)}.get(plan.codec)
    if frame:
        chain += [f"aresample={plan.sample_rate_hz}", f"asetnsamples=n={frame}:p=0"]
    return chain


def writing(ffmpeg: Ffmpeg, plan: Plan, padding: int) -> list[str]:
    """Arguments that write a plan's output, less filters and file name. ``padding``: bytes kept free for tags where they go first."""
    wanted = OUTPUTS[plan.target]
    arguments: list[str] = []
    if plan.copied:
        arguments += ["-c:a", "copy"]
    else:
        arguments += ["-c:a", ffmpeg.encoder(plan) or "", "-ar", str(plan.sample_rate_hz), "-ac", str(plan.channels)]
        if plan.sample_format:
            arguments += ["-sample_fmt", plan.sample_format]
        if plan.bit_depth and not plan.float_samples:
            arguments += ["-bits_per_raw_sample", str(plan.bit_depth)]
        if plan.quality is not None:
            arguments += ["-q:a", f"{plan.quality:g}"]
        elif plan.bitrate_kbps is not None:
            arguments += ["-b:a", f"{plan.bitrate_kbps}k"]
            if plan.codec == "opus":
                # Free VBR may give half as much again as what was asked.
                arguments += ["-vbr", "constrained"]
            elif plan.codec == "vorbis":
                # Left to itself it spends a fifth to a quarter less than what was asked on music that is easy to encode.
                arguments += ["-minrate", f"{plan.bitrate_kbps}k"]
    match wanted.muxer:
        case "mp3":
            arguments += ["-id3v2_version", "4", "-metadata_header_padding", str(padding)]
        case "flac":
            arguments += ["-metadata_header_padding", str(padding)]
        case "wav":
            arguments += ["-rf64", "auto"]
        case "asf" if plan.bitrate_kbps and not plan.copied:
            # Packets of the usual size are filled up with zeros: 192 kbit/s become 277 in the file. These hold eight whole blocks.
            block = plan.bitrate_kbps * 125 * (1_024 if plan.sample_rate_hz <= 22_050 else 2_048) // plan.sample_rate_hz
            arguments += ["-packet_size", str(8 * (block + 17) + 24)]
        case _:
            pass
    return [*arguments, "-f", wanted.muxer]


def escape_metadata(text: str) -> str:
    """A key or value as ffmpeg's metadata file format wants it."""
    return re.sub(r"([=;#\\\n])", r"\\\1", text)


# -------------------------------------------------------------------------------------------------- listening


@dataclass(frozen=True, slots=True)
class Stream:
    """What ffmpeg says of one audio stream."""

    codec: str
    sample_rate_hz: int
    channels: int
    bit_depth: int | None
    float_samples: bool
    bitrate_kbps: int | None
    profile: str = ""


@dataclass(slots=True)
class Account:
    """ffmpeg's own account of a run, put together line by line from what it says on its error stream."""

    container: str | None = None
    duration_seconds: float | None = None
    bitrate_kbps: int | None = None
    stream: Stream | None = None
    other_streams: int = 0
    samples_in: int | None = None
    frames_in: int | None = None
    packets_in: int | None = None
    samples_out: int | None = None
    decode_errors: int = 0
    complaints: list[str] = field(default_factory=list)
    complaint_count: int = 0
    facts: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Codecs that the white list kept closed: pictures, mostly."""
    loudness: dict[str, float] = field(default_factory=dict)
    _section: str = ""

    def hear(self, line: str) -> None:
        """Take in one line of ffmpeg's error stream."""
        level, text, speaker = _split(line)
        if not level:
            # The rest of a tag that has line breaks in it, which is a stranger's words, or the loudness filter's table.
            if self._section == "loudness" and (match := _LOUDNESS.match(text)):
                self.loudness.setdefault(match[1], float(match[2]))
            return
        if match := _REFUSED.match(text):
            self.refused.add(match[1])
            return
        if level in ("warning", "error", "fatal", "panic"):
            self._hear_complaint(level, text, speaker)
        if text.startswith("Input #"):
            self._section = text
            if text.startswith("Input #0, "):
                self.container = text[len("Input #0, ") :].split(", from ")[0]
        elif text.startswith(("Output #", "Stream mapping")):
            self._section = ""
        elif self._section.startswith("Input #0"):
            self._hear_input(text)
        if match := _READ.search(text):
            self.packets_in, self.frames_in = int(match[1]), int(match[2])
            self.decode_errors, self.samples_in = int(match[3] or 0), int(match[4])
        elif match := _WRITTEN.search(text):
            self.samples_out = int(match[1])
        if text == "Summary:" and speaker.startswith("Parsed_ebur128"):
            self._section = "loudness"

    def _hear_complaint(self, level: str, text: str, speaker: str) -> None:
        for fact, mark in _MARKS:
            if mark in text:
                self.facts.add(fact)
        if level != "warning" and speaker not in _PICTURE_CODECS:
            self.complaint_count += 1
            if len(self.complaints) < 20:
                self.complaints.append(text[:300])

    def _hear_input(self, text: str) -> None:
        if match := _DURATION.match(text):
            if match[1] != "N/A":
                hours, minutes, seconds = match[1].split(":")
                self.duration_seconds = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            self.bitrate_kbps = int(match[2]) if match[2] else None
        elif match := _STREAM.match(text):
            stream = _stream(match[1])
            if stream and self.stream is None:
                self.stream = stream
            else:
                self.other_streams += 1
        elif text.startswith("  Stream #0:"):
            self.other_streams += 1


_MARKS = (
    ("full", "No space left on device"),
    ("invalid", "Invalid data found when processing input"),
    ("no_audio", "matches no streams"),
    ("no_audio", "does not contain any stream"),
    ("no_decoder", "no decoder found"),
    ("no_decoder", "Decoder not found"),
    ("no_decoder", "Decoder (codec"),
    ("memory", "Cannot allocate memory"),
    ("large", "File too large"),
    ("damaged", "CRC mismatch"),
    ("damaged", "CRC error"),
    ("encrypted", "encrypted"),
    ("estimated", "Estimating duration from bitrate"),
)
_LINE = re.compile(
    r"((?:\[[^\]]{1,80} @ 0x[0-9a-f]+\] )*)\[(quiet|panic|fatal|error|warning|info|verbose|debug)\] ?(.*)", re.DOTALL
)
_REFUSED = re.compile(r"Codec \(([a-z0-9_]+)\) not on whitelist")
_PICTURE_CODECS = frozenset({"png", "mjpeg", "mjpegb", "bmp", "gif", "webp", "tiff", "jpegls", "vist#0:1", "image2"})
_READ = re.compile(
    r"Input stream #0:\d+ \(audio\): (\d+) packets read \(\d+ bytes\); (\d+) frames decoded(?:; (\d+) decode errors)? \((\d+) samples\)"
)
_WRITTEN = re.compile(r"Output stream #0:\d+ \(audio\): \d+ frames encoded \((\d+) samples\)")
_DURATION = re.compile(r"  Duration: (N/A|[\d:.]+)(?:, start: [-\d.]+)?(?:, bitrate: (?:N/A|(\d+) kb/s))?")
_STREAM = re.compile(r"  Stream #0:\d+[^:]*: Audio: (.*)")
_LOUDNESS = re.compile(r" +(I|LRA|Peak|Threshold):\s+(-?[\d.]+|-?inf|nan) (?:LUFS|LU|dBFS)")
_LAYOUTS = {
    "mono": 1, "stereo": 2, "downmix": 2, "2.1": 3, "3.0": 3, "3.0(back)": 3, "4.0": 4, "quad": 4, "quad(side)": 4, "3.1": 4, "5.0": 5,
    "5.0(side)": 5, "4.1": 5, "5.1": 6, "5.1(side)": 6, "6.0": 6, "6.0(front)": 6, "hexagonal": 6, "6.1": 7, "6.1(back)": 7,
    "6.1(front)": 7, "7.0": 7, "7.0(front)": 7, "7.1": 8, "7.1(wide)": 8, "7.1(wide-side)": 8, "octagonal": 8, "cube": 8,
    "3.1.2": 6, "5.1.2": 8, "5.1.2(back)": 8, "5.1.4": 10, "7.1.2": 10, "7.1.4": 12, "7.2.3": 12, "9.1.4": 14, "hexadecagonal": 16, "22.2": 24,
}  # fmt: skip


def _split(line: str) -> tuple[str, str, str]:
    """A line's level, its text with the indentation that tells ffmpeg's words from a tag's, and which part of ffmpeg speaks."""
    match = _LINE.match(line)
    if not match:
        return "", line, ""
    speaker = match[1][1:].split(" @ ")[0] if match[1] else ""
    return match[2], match[3].rstrip(), speaker


def _stream(description: str) -> Stream | None:
    parts = description.split(", ")
    codec = re.match(r"[a-z0-9_]+", parts[0])
    rate = next((int(part[:-3]) for part in parts if re.fullmatch(r"\d+ Hz", part)), None)
    if not codec or not rate:
        return None
    channels, bits, floating, kbps = 0, None, False, None
    for part in parts[1:]:
        name = part.split(" (")[0]
        if name in _LAYOUTS:
            channels = _LAYOUTS[name]
        elif match := re.match(r"(\d+) channels", part):
            channels = int(match[1])
        elif match := re.match(r"ambisonic (\d+)", part):
            channels = (int(match[1]) + 1) ** 2
        elif match := re.match(r"(u8|s16|s32|s64|flt|dbl)p?(?: \((\d+) bit\))?", part):
            bits = (
                int(match[2])
                if match[2]
                else {"u8": 8, "s16": 16, "s32": 32, "s64": 64, "flt": 32, "dbl": 64}[match[1]]
            )
            floating = match[1] in ("flt", "dbl")
        elif match := re.match(r"(\d+) kb/s", part):
            kbps = int(match[1])
    profile = re.match(r"[a-z0-9_]+ \(([A-Za-z0-9_ -]+)\)", parts[0])
    if not channels:
        return None
    return Stream(codec[0], rate, channels, bits, floating, kbps, profile[1] if profile else "")


def progress_seconds(lines: Iterable[str]) -> float | None:
    """The newest position in ``-progress`` output, in seconds."""
    found: float | None = None
    for line in lines:
        name, _, value = line.partition("=")
        if name == "out_time_us" and value.strip().lstrip("-").isdigit():
            found = max(0.0, int(value) / 1e6)
    return found
