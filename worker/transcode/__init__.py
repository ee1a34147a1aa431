"""Converts one audio file: everything about ffmpeg, the locks around it, and the check of what came out.

    transcoder = Transcoder()
    done = transcoder.convert(folder / "source", folder, "ogg", options, on_progress, cancelled)
    done.path, done.result, done.source

The user's file is parsed only in confined processes (see :mod:`worker.transcode.confine`); this process reads numbers and texts about it.
"""

import contextlib
import errno
import os
import selectors
import shutil
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from worker.contract.formats import (
    FAILURES,
    FRAME_SAMPLES,
    OUTPUTS,
    Chapter,
    Format,
    Notice,
    OptionError,
    Options,
    Plan,
    Probe,
    plan,
)
from worker.transcode import confine, reader, waveform
from worker.transcode.ffmpeg import (
    Account,
    Ffmpeg,
    FfmpegMissing,
    Stream,
    escape_metadata,
    filters,
    progress_seconds,
    writing,
)
from worker.transcode.forkserver import Ended, ForkServer
from worker.transcode.walk import PCM_CONTAINERS

__all__ = ["Cancelled", "Conversion", "FfmpegMissing", "Limits", "Transcoder", "Unconvertible", "Unprotected"]

Progress = Callable[[str, float | None], None]


class Unconvertible(Exception):
    """Permanent trouble: trying again would end the same way. ``code`` is in ``FAILURES``; ``message`` is one for the user."""

    def __init__(self, code: str, message: str | None = None) -> None:
        self.code = code
        self.message = message or FAILURES[code]
        super().__init__(f"{code}: {self.message}")


class Cancelled(Exception):
    """The job was called off; what ran was killed."""


class Unprotected(RuntimeError):
    """A protection that is required does not work on this machine, so no stranger's file is touched."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one conversion may use. Seconds and bytes."""

    cpu_seconds: int = 7_200
    wall_seconds: float = 7_200.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 8 << 30
    open_files: int = 64
    max_duration_seconds: float = 24 * 3_600.0
    reader_seconds: float = 60.0
    reader_memory_bytes: int = 384 << 20


@dataclass(frozen=True, slots=True)
class Conversion:
    """A result that passed its checks: where it is, what it is (wire names), what the input was, and what all its processes used."""

    path: Path
    result: dict[str, Any]
    source: Probe
    cpu_seconds: float
    memory_bytes: int
    """The largest process's peak."""
    waveform: tuple[int, ...] = ()
    """Peaks of the result from its beginning to its end (see :mod:`worker.transcode.waveform`); none where there were none to be had."""


REQUIRED = frozenset({"files", "network", "limits"})
"""Protections without which no job is taken."""

# A damaged input still gives a result, with a warning, when at least this share of it could be read.
_LEAST_READABLE = 0.5
_LEAST_SAMPLES = 32
# Decoding a result must not cost more than this share of the conversion, so that all checks together stay under a tenth. Short ones
# are always decoded: there it is a matter of milliseconds.
_CHECKING_SHARE = 0.075
_SHORT_SECONDS = 110.0
_FFMPEG_START_CPU = 0.08
# What decoding costs of the time that decoding an MP3 and encoding takes; other codecs' shares are far above the limit.
_DECODING_SHARE = {"mp3": 0.065, "vorbis": 0.065, "aac": 0.065}
# A result whose loudness is further from the one asked for is written again, so many times at most.
_LOUDNESS_CLOSE = 0.25
_LOUDNESS_ROUNDS = 4
_MOST_EXTRA_GAIN = 12.0
_CHAPTER_KINDS_BY_FFMPEG = frozenset({"mp4", "matroska"})
_TAG_KINDS_BY_FFMPEG = frozenset({"vorbis", "matroska", "ffmpeg", "riff"})


class Transcoder:
    """Converts files with one ffmpeg. Make one per process; any number of threads may use it at once.

    Raises :class:`FfmpegMissing` if there is no ffmpeg and :class:`Unprotected` if a protection in ``required`` does not hold here.
    """

    def __init__(self, limits: Limits | None = None, *, required: frozenset[str] = REQUIRED) -> None:
        self.limits = limits or Limits()
        self._ffmpeg = Ffmpeg.find()
        self.version = self._ffmpeg.version
        self.path = self._ffmpeg.path
        self.encoders = self._ffmpeg.encoders
        self._server = ForkServer()
        self.protections: dict[str, bool | str] = self._test_protections()
        missing = sorted(name for name in required if not self.protections.get(name))
        if missing:
            self._server.close()
            raise Unprotected(f"These protections do not work here, so no job is taken: {', '.join(missing)}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the fork server. Conversions that still run are killed."""
        self._server.close()

    def convert(
        self,
        source: Path,
        folder: Path,
        target: str,
        options: Options,
        on_progress: Progress,
        cancelled: threading.Event,
    ) -> Conversion:
        """Convert ``source`` to ``target`` and check the result.

        ``source`` lies in ``folder``, which is private to the job and the only place that is written. ``on_progress`` hears the phases
        ``probing``, ``converting`` and ``verifying``, with a percentage where there is one. Setting ``cancelled`` stops everything.

        Raises :class:`Unconvertible`, :class:`Cancelled`, and OSError for trouble that may pass (a full disk).
        """
        return _Job(
            self._ffmpeg, self._server, self.limits, source, folder, target, options, on_progress, cancelled
        ).run()

    def probe(self, source: Path, folder: Path) -> Probe:
        """What ``source``, a file in the private ``folder``, is. Raises :class:`Unconvertible`."""
        quiet: Progress = lambda phase, percent: None  # noqa: E731
        job = _Job(self._ffmpeg, self._server, self.limits, source, folder, "wav", Options(), quiet, threading.Event())
        return job.probe()

    def _test_protections(self) -> dict[str, bool | str]:
        """Try, behind the locks, what must not work."""
        import tempfile

        with tempfile.TemporaryDirectory() as name, tempfile.NamedTemporaryFile() as outside:
            outside.write(b"secret")
            outside.flush()
            request = {
                "folder": str(Path(name).resolve()), "function": "self_test", "arguments": {"outside": outside.name},
                "limits": {"NOFILE": self.limits.open_files, "CORE": 0, "FSIZE": 4096}, "wall_seconds": 30,
            }  # fmt: skip
            confined = self._server.spawn(request)
            try:
                chunks = []
                while chunk := os.read(confined.stdout, 65_536):
                    chunks.append(chunk)
                ended = confined.result()
            finally:
                confined.close()
        if ended.code:
            raise Unprotected("The self-test of the protections did not run.")
        import json

        found: dict[str, bool | str] = json.loads(b"".join(chunks))
        found["landlock"] = str(confine.landlock_abi())
        return found


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the result's audio turned out to be, how that was found out (``walked`` or ``decoded``), and what is wrong with it."""

    how: str
    stream: Stream
    seconds: float
    faults: str


@dataclass(slots=True)
class _Run:
    """One finished ffmpeg run."""

    account: Account
    ended: Ended


class _Job:
    """One conversion, from probe to verified result."""

    def __init__(
        self, ffmpeg: Ffmpeg, server: ForkServer, limits: Limits, source: Path, folder: Path, target: str, options: Options,
        on_progress: Progress, cancelled: threading.Event,
    ) -> None:  # fmt: skip
        self._ffmpeg, self._server, self._limits = ffmpeg, server, limits
        self._source, self._folder = source, folder.resolve()
        self._target, self._options = target, options
        self._on_progress, self._cancelled = on_progress, cancelled
        self._deadline = time.monotonic() + limits.wall_seconds
        self._facts: dict[str, Any] = {}
        self._cpu, self._memory = 0.0, 0
        self._furthest: dict[str, float] = {}
        self._guessed = False
        """Whether the input's length is only worked out from its first frames, so that it promises nothing."""

    # ------------------------------------------------------------------------------------------------ the steps

    def run(self) -> Conversion:
        self._on_progress("probing", None)
        probe = self.probe()
        wanted = OUTPUTS[self._target]
        if not wanted.available(self._ffmpeg.encoders) and probe.codec not in wanted.copies:
            raise Unconvertible("unavailable_format")
        planned = self._plan(probe)
        self._on_progress("converting", 0.0)
        probe, planned, run, path, gain = self._convert(probe, planned, wanted)
        if gain:
            run, gain = self._approach(probe, planned, wanted, run, path, gain)
        self._on_progress("verifying", None)
        result = self._verify(probe, planned, wanted, run, path)
        probe = self._with_true_length(probe, planned, run)
        if gain:
            result["loudness"] = gain.report()
            result["warnings"] += gain.warnings()
        told = {name: value for name, value in result.items() if value is not None}
        return Conversion(path, told, probe, self._cpu, self._memory, waveform.read(self._folder))

    def _with_true_length(self, probe: Probe, planned: Plan, run: "_Run") -> Probe:
        """The probe with the length that was found by decoding all of it, where only a guess was known before."""
        stream, samples = run.account.stream, run.account.samples_in
        if not self._guessed or probe.duration_exact or planned.end_seconds is not None or not stream or not samples:
            return probe
        return replace(probe, duration_seconds=samples / stream.sample_rate_hz, duration_exact=True)

    def _plan(self, probe: Probe) -> Plan:
        try:
            planned = plan(probe, self._target, self._options)
        except OptionError as error:
            sentences = [f"{name}: {' '.join(messages)}" for name, messages in error.errors.items()]
            raise Unconvertible("bad_options", " ".join(sentences)) from error
        kind = (self._facts.get("cover") or {}).get("mime")
        if planned.keeps_cover and OUTPUTS[self._target].tags == "mp4" and kind not in ("image/jpeg", "image/png"):
            notice = Notice("cover_lost", f"{self._target} holds covers in JPEG or PNG only: this one is left out.")
            return replace(planned, keeps_cover=False, warnings=(*planned.warnings, notice))
        return planned

    def probe(self) -> Probe:
        """What the input is: from its headers where they are plain, else from ffmpeg."""
        size = self._source.stat().st_size
        if size == 0:
            raise Unconvertible("empty_file")
        self._facts = self._read("inspect", path=self._source.name)
        if self._facts.get("encrypted"):
            raise Unconvertible("encrypted")
        probe = self._known_probe() if self._facts.get("known") else self._ffmpeg_probe()
        if probe.duration_seconds and probe.duration_seconds > self._limits.max_duration_seconds:
            raise Unconvertible("too_long", self._too_long(probe.duration_seconds))
        return probe

    def _too_long(self, seconds: float) -> str:
        return f"The recording lasts {seconds / 3600:.1f} hours; at most {self._limits.max_duration_seconds / 3600:g} are converted."

    def _known_probe(self) -> Probe:
        facts = self._facts
        self._guessed = facts["codec"] == "mp3" and not facts.get("duration_exact")
        return Probe(
            container=facts["container"],
            codec=facts["codec"],
            sample_rate_hz=facts["sample_rate_hz"],
            channels=facts["channels"],
            bit_depth=facts.get("bit_depth"),
            float_samples=facts.get("float_samples", False),
            duration_seconds=facts.get("duration_seconds"),
            duration_exact=facts.get("duration_exact", False),
            bitrate_kbps=facts.get("bitrate_kbps"),
            **self._carried_facts(facts.get("duration_seconds")),
        )

    def _carried_facts(self, duration: float | None) -> dict[str, Any]:
        facts = self._facts
        cover = facts.get("cover")
        return {
            "tags": {name: tuple(values) for name, values in facts.get("tags", {}).items()},
            "has_cover": cover is not None,
            "cover_bytes": cover["bytes"] if cover else None,
            "chapters": _chapters(facts.get("chapters", []), duration),
        }

    def _ffmpeg_probe(self) -> Probe:
        """Ask ffmpeg, which also writes the tags and chapters that it found where mutagen found none."""
        dump = "found.txt"
        ffmpeg = self._ffmpeg
        arguments = [
            *ffmpeg.start("info"),
            *ffmpeg.reading(self._source.name),
            "-map_metadata",
            "0",
            "-f",
            "ffmetadata",
            f"file:{dump}",
        ]
        run = self._ffmpeg_run(arguments, self._limits.reader_seconds, None)
        account = run.account
        if account.stream is None:
            raise self._unreadable(run)
        self._guessed = "estimated" in account.facts
        found = _read_metadata(self._folder / dump)
        for name in ("tags", "chapters"):
            if not self._facts.get(name):
                self._facts[name] = found[name]
        stream = account.stream
        container = (account.container or "unknown").split(",")[0]
        kbps = stream.bitrate_kbps or account.bitrate_kbps
        return Probe(
            container={"mov": "mp4", "aac": "adts", "matroska": "matroska"}.get(container, container),
            codec=stream.codec,
            sample_rate_hz=stream.sample_rate_hz,
            channels=stream.channels,
            bit_depth=stream.bit_depth,
            float_samples=stream.float_samples,
            duration_seconds=account.duration_seconds or None,
            duration_exact=False,
            bitrate_kbps=kbps,
            **self._carried_facts(account.duration_seconds),
        )

    def _convert(self, probe: Probe, planned: Plan, wanted: Format) -> "tuple[Probe, Plan, _Run, Path, _Gain | None]":
        if not planned.copied and not probe.duration_exact and self._needs_exact_duration():
            seconds = self._exact_duration()
            if seconds:
                probe = replace(probe, duration_seconds=seconds, duration_exact=True)
                planned = self._plan(probe)
        gain = self._measure(planned) if self._options.loudness_lufs is not None else None
        run, path = self._encode(probe, planned, wanted, gain)
        heard = run.account.stream
        if heard and self._facts.get("known") and _differs(heard, probe):
            # The headers promised something else than the stream holds: believe the decoder and begin anew.
            self._facts["known"] = False
            self._facts.pop("demuxer", None)
            truth = self._ffmpeg_probe()
            if not _differs(heard, truth):
                return self._convert(truth, self._plan(truth), wanted)
        return probe, planned, run, path, gain

    def _needs_exact_duration(self) -> bool:
        """Whether what is asked can only be done, or refused, when the recording's true length is known."""
        options = self._options
        return bool(options.fade_out_seconds or options.start_seconds or options.end_seconds is not None)

    def _encode(self, probe: Probe, planned: Plan, wanted: Format, gain: "_Gain | None") -> tuple[_Run, Path]:
        """Write the result, once, with the given gain."""
        path = self._folder / f"result.{wanted.extension}"
        duration = planned.duration_seconds
        padding, meta = self._metadata(probe, planned, wanted, duration)
        ffmpeg = self._ffmpeg
        arguments = [*ffmpeg.start(), "-progress", "pipe:1", "-stats_period", "0.5"]
        arguments += ffmpeg.reading(self._source.name, self._facts.get("demuxer"))
        if meta:
            arguments += ["-protocol_whitelist", "file", "-f", "ffmetadata", "-i", f"file:{meta}"]
        arguments += [
            "-map",
            "0:a:0",
            "-vn",
            "-sn",
            "-dn",
            "-map_metadata",
            "1" if meta else "-1",
            "-map_chapters",
            "1" if meta else "-1",
        ]
        chain = [] if planned.copied else filters(planned, self._options, duration, gain.filters() if gain else ())
        if chain:
            arguments += ["-af", ",".join(chain)]
        arguments += [*writing(ffmpeg, planned, padding), f"file:{path.name}"]
        arguments += self._waveform_tap(planned, chain, probe.codec, probe.sample_rate_hz, duration)
        run = self._ffmpeg_run(arguments, None, duration, share=(0.4, 1.0) if gain else (0.0, 1.0))
        self._judge(run)
        return run, path

    def _waveform_tap(
        self, planned: Plan, chain: Sequence[str], codec: str, rate: int, seconds: float | None, *, decoding: bool = False
    ) -> list[str]:  # fmt: skip
        """The second output that draws the waveform: of the conversion, or of the check where the conversion decodes nothing."""
        checked = (
            planned.copied and planned.container not in PCM_CONTAINERS
        )  # PCM is decoded nowhere, and costs nothing
        if checked is not decoding or waveform.ENCODER not in self._ffmpeg.encoders:
            return []
        return waveform.tap(chain, codec, rate, seconds)

    # ------------------------------------------------------------------------------------------- tags for ffmpeg

    def _metadata(self, probe: Probe, planned: Plan, wanted: Format, duration: float | None) -> tuple[int, str | None]:
        """Write the tags that ffmpeg itself puts in; say how many bytes to keep free for those that are put in afterwards."""
        tags, chapters = self._outgoing(probe, planned, duration)
        room = 4_096 + sum(len(text.encode()) + len(name) + 64 for name, values in tags.items() for text in values)
        room += (probe.cover_bytes or 0) + 256 if planned.keeps_cover else 0
        room += sum(len(chapter.title.encode()) + 128 for chapter in chapters)
        lines = [";FFMETADATA1"]
        if wanted.tags in _TAG_KINDS_BY_FFMPEG:
            names = {"albumartist": "album_artist", "tracknumber": "track", "discnumber": "disc"}
            for name, values in tags.items():
                key = reader.vorbis_name(names.get(name, name))
                if key and wanted.tags == "vorbis":
                    key, text = reader.packed_comment(key, values)
                    lines.append(f"{escape_metadata(key)}={escape_metadata(text)}")
                elif key:
                    lines.append(f"{escape_metadata(key)}={escape_metadata('; '.join(values))}")
        if wanted.tags == "vorbis":
            lines += [
                f"{key}={escape_metadata(text)}"
                for key, text in reader.chapter_comments([[c.start_seconds, 0, c.title] for c in chapters])
            ]
        elif wanted.tags in _CHAPTER_KINDS_BY_FFMPEG:
            for chapter in chapters:
                start, end = round(chapter.start_seconds * 1000), round(chapter.end_seconds * 1000)
                lines += [
                    "[CHAPTER]",
                    "TIMEBASE=1/1000",
                    f"START={start}",
                    f"END={end}",
                    f"title={escape_metadata(chapter.title)}",
                ]
        picture = wanted.tags == "vorbis" and planned.keeps_cover
        if len(lines) == 1 and not picture:
            return room, None
        name = "tags.txt"
        with open(self._folder / name, "w", encoding="utf-8", newline="\n") as out:
            out.write("\n".join([lines[0], *([] if not picture else [self._picture_comment()]), *lines[1:]]) + "\n")
        return room, name

    def _picture_comment(self) -> str:
        cover = self._facts["cover"]
        data = (self._folder / reader.COVER_FILE).read_bytes()
        mime = str(cover["mime"]).encode()
        head = (3).to_bytes(4, "big") + len(mime).to_bytes(4, "big") + mime + bytes(4)
        head += b"".join(int(cover[name]).to_bytes(4, "big") for name in ("width", "height", "depth")) + bytes(4)
        return "METADATA_BLOCK_PICTURE=" + escape_metadata(
            b64encode(head + len(data).to_bytes(4, "big") + data).decode()
        )

    def _outgoing(
        self, probe: Probe, planned: Plan, duration: float | None
    ) -> tuple[dict[str, list[str]], list[Chapter]]:
        """The tags and chapters that the result shall have."""
        tags: dict[str, list[str]] = {}
        if planned.keeps_tags:
            tags = {name: list(values) for name, values in probe.tags.items()}
            if self._options.loudness_lufs is not None:
                tags = reader.without_loudness(tags)
        if not planned.keeps_chapters:
            return tags, []
        start, end = planned.start_seconds, planned.end_seconds
        last = end if end is not None else (probe.duration_seconds or max(c.end_seconds for c in probe.chapters))
        kept = [
            Chapter(max(0.0, chapter.start_seconds - start), min(chapter.end_seconds, last) - start, chapter.title)
            for chapter in probe.chapters
            if chapter.end_seconds > start and chapter.start_seconds < last
        ]
        return tags, kept

    # ------------------------------------------------------------------------------------------------ loudness

    def _measure(self, planned: Plan) -> "_Gain":
        """First pass: how loud that is which will be encoded, and what gain brings it where it shall be."""
        chain = filters(replace(planned, codec="", bit_depth=None), self._options, planned.duration_seconds)
        run = self._loudness_run(
            self._source.name, self._facts.get("demuxer"), chain, duration=planned.duration_seconds, share=(0.0, 0.4)
        )
        loudness, peak = run.account.loudness.get("I"), run.account.loudness.get("Peak")
        if loudness is None or peak is None or not -69.9 < loudness < 20:
            raise Unconvertible("too_quiet")
        assert self._options.loudness_lufs is not None  # noqa: S101 - the caller has looked
        aim = self._options.loudness_lufs
        return _Gain(aim, loudness, peak, aim - loudness, planned.sample_rate_hz)

    def _approach(
        self, probe: Probe, planned: Plan, wanted: Format, run: _Run, path: Path, gain: "_Gain"
    ) -> "tuple[_Run, _Gain]":
        """Measure the result itself, and write it again with a corrected gain where an encoder or the limiter took some loudness."""
        gain = self._loudness_of(path, gain)
        for _ in range(_LOUDNESS_ROUNDS):
            if abs(gain.miss) <= _LOUDNESS_CLOSE:
                break
            following = gain.corrected()
            again, _ = self._encode(probe, planned, wanted, following)
            following = self._loudness_of(path, following)
            closer = abs(following.miss) < abs(gain.miss) - 0.05
            run, gain = again, following
            if not closer:
                break
        return run, gain

    def _loudness_of(self, path: Path, gain: "_Gain") -> "_Gain":
        """The gain with what came of it."""
        run = self._loudness_run(path.name, None, [])
        return replace(
            gain, measured=run.account.loudness.get("I", -70.0), result_peak=run.account.loudness.get("Peak", -70.0)
        )

    def _loudness_run(
        self, name: str, demuxer: str | None, chain: Sequence[str], *, duration: float | None = None,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> _Run:  # fmt: skip
        """Have a file of the job's folder measured after the filters in ``chain``."""
        ffmpeg = self._ffmpeg
        arguments = [*ffmpeg.start(), "-progress", "pipe:1", "-stats_period", "0.5", *ffmpeg.reading(name, demuxer)]
        arguments += ["-map", "0:a:0", "-vn", "-sn", "-dn", "-af", ",".join([*chain, "ebur128=peak=true:framelog=48"])]
        run = self._ffmpeg_run([*arguments, "-f", "null", "-"], None, duration, share=share)
        self._judge(run)
        return run

    def _exact_duration(self) -> float | None:
        """The input's length, counted sample by sample, where its header only lets one guess."""
        ffmpeg = self._ffmpeg
        arguments = [*ffmpeg.start(), *ffmpeg.reading(self._source.name, self._facts.get("demuxer"))]
        arguments += ["-map", "0:a:0", "-vn", "-sn", "-dn", "-f", "null", "-"]
        run = self._ffmpeg_run(arguments, None, None)
        self._judge(run)
        stream, samples = run.account.stream, run.account.samples_in
        return samples / stream.sample_rate_hz if stream and samples else None

    # -------------------------------------------------------------------------------------------------- checks

    def _verify(self, probe: Probe, planned: Plan, wanted: Format, run: _Run, path: Path) -> dict[str, Any]:
        """Finish the tags, read the result anew, compare it with what was asked. Raises Unconvertible where it differs."""
        if not path.is_file() or path.stat().st_size == 0:
            raise Unconvertible("damaged_input" if run.account.complaint_count else "conversion_failed")
        tags, chapters = self._outgoing(probe, planned, None)
        cover_file = reader.COVER_FILE if planned.keeps_cover else None
        chapter_rows = [[chapter.start_seconds, chapter.end_seconds, chapter.title] for chapter in chapters]
        facts = self._read(
            "finish",
            path=path.name,
            kind=wanted.tags,
            container=wanted.container,
            tags=tags,
            cover_file=cover_file,
            chapters=chapter_rows,
        )
        if run.account.samples_in is not None and run.account.samples_in < _LEAST_SAMPLES:
            raise Unconvertible("damaged_input", "There is next to no audio in the file: upload a complete copy.")
        heard = self._hear(path, planned, wanted, run, facts)
        stream, seconds = heard.stream, heard.seconds
        warnings = list(planned.warnings)
        differences = _differences(planned, stream, facts)
        differences += self._compare_length(probe, planned, run, seconds, warnings, copied=planned.copied)
        if heard.faults:
            if planned.copied:
                warnings.append(Notice("damaged_input", "Some of the recording is damaged; it was copied as it is."))
            else:
                differences.append(heard.faults)
        differences += _missing(facts, tags, planned, chapters, warnings)
        if differences:
            raise Unconvertible("verification_failed", f"The result was thrown away: {'; '.join(differences)}.")
        if self._facts.get("unreadable"):
            warnings.append(Notice("tags_unreadable", "The tags could not be read and are left out."))
        lossless = stream.codec.startswith("pcm_") or bool(wanted.depths)
        kbps = (
            round((facts["walk"] or {}).get("payload", path.stat().st_size) * 8 / seconds / 1000) if seconds else None
        )
        if (
            self._options.bitrate_kbps
            and kbps
            and not 0.75 <= kbps / self._options.bitrate_kbps <= 1.25
            and seconds > 5
        ):
            message = f"The result has {kbps} kbit/s on average: {planned.codec} spends what the sound needs."
            warnings.append(Notice("bitrate_differs", message))
        return {
            "codec": stream.codec,
            "container": wanted.container,
            "mimeType": wanted.mime,
            "bitrateKbps": kbps,
            "sampleRateHz": planned.sample_rate_hz if stream.codec == "opus" else stream.sample_rate_hz,
            "channels": stream.channels,
            "bitDepth": planned.bit_depth if lossless else None,
            "durationSeconds": round(seconds, 6),
            "copied": planned.copied,
            "tags": sum(len(values) for values in facts.get("tags", {}).values()),
            "cover": facts.get("cover") is not None,
            "chapters": len(facts.get("chapters", [])),
            "verified": heard.how,
            "warnings": [notice.to_json() for notice in warnings],
        }

    def _hear(self, path: Path, planned: Plan, wanted: Format, run: _Run, facts: dict[str, Any]) -> "_Heard":
        """What the result's audio is: from a walk along all of it and, where that is worth its cost, from decoding all of it."""
        walked = facts.get("walk") or {}
        faults = f"its structure is broken: {walked['broken']}" if "broken" in walked else ""
        by_ffmpeg = wanted.tags in ("matroska", "ffmpeg")
        if walked.get("samples") and not by_ffmpeg and not self._worth_decoding(planned, run, walked):
            stream = _walked_stream(facts, walked, planned)
            if stream:
                return _Heard("walked", stream, walked["samples"] / walked["rate"], faults)
        decoded = self._decode(path, planned, "check.txt" if by_ffmpeg else None)
        if by_ffmpeg:
            facts.update(_read_metadata(self._folder / "check.txt"))
        account = decoded.account
        if account.stream is None or decoded.ended.code:
            if planned.copied:
                raise Unconvertible("damaged_input")
            raise Unconvertible("verification_failed", "The result could not be decoded to its end.")
        if not faults and (account.complaint_count or account.decode_errors):
            faults = "it does not decode without errors"
        return _Heard("decoded", account.stream, (account.samples_in or 0) / account.stream.sample_rate_hz, faults)

    def _worth_decoding(self, planned: Plan, run: _Run, walked: Mapping[str, Any]) -> bool:
        """Whether to decode what was walked already: not for PCM, and not where it would cost much of the conversion's own time."""
        if planned.container in PCM_CONTAINERS:
            return False
        if planned.copied or walked["samples"] / walked["rate"] < _SHORT_SECONDS:
            return True
        share = _DECODING_SHARE.get(planned.codec)
        cpu = run.ended.cpu_seconds
        return share is not None and _FFMPEG_START_CPU + share * cpu <= _CHECKING_SHARE * cpu

    def _decode(self, path: Path, planned: Plan, metadata: str | None) -> _Run:
        """Decode the result from its beginning to its end; write the tags that ffmpeg sees in it to ``metadata``."""
        ffmpeg = self._ffmpeg
        arguments = [*ffmpeg.start(), "-progress", "pipe:1", "-stats_period", "0.5", *ffmpeg.reading(path.name)]
        arguments += ["-map", "0:a:0", "-vn", "-sn", "-dn", "-f", "null", "-"]
        if metadata:
            arguments += ["-map_metadata", "0", "-f", "ffmetadata", f"file:{metadata}"]
        arguments += self._waveform_tap(
            planned, (), planned.codec, planned.sample_rate_hz, planned.duration_seconds, decoding=True
        )
        run = self._ffmpeg_run(arguments, None, planned.duration_seconds, phase="verifying")
        if run.ended.timed_out:
            raise Unconvertible("timed_out")
        return run

    def _compare_length(
        self, probe: Probe, planned: Plan, run: _Run, seconds: float, warnings: list[Notice], *, copied: bool
    ) -> list[str]:
        """Compare the result's length with what was decoded, and that with what the input's header promised."""
        account = run.account
        promised = probe.duration_seconds
        heard = account.samples_in / account.stream.sample_rate_hz if account.samples_in and account.stream else None
        whole = heard if heard is not None else seconds if copied else None
        cut_short = planned.end_seconds is not None
        if promised and whole is not None and not (self._guessed and not probe.duration_exact):
            until = promised if planned.end_seconds is None else min(promised, planned.end_seconds)
            slack = 0.1 if probe.duration_exact else max(0.5, promised * 0.05)
            if whole < until - slack:
                if whole - planned.start_seconds < (until - planned.start_seconds) * _LEAST_READABLE:
                    raise Unconvertible(
                        "damaged_input",
                        f"Only {whole:.1f} of the {promised:.1f} seconds are there: upload a complete copy.",
                    )
                warnings.append(
                    Notice(
                        "truncated_input",
                        f"The recording should last {promised:.1f} s, but only {whole:.1f} s could be read.",
                    )
                )
        if self._facts.get("unfinished"):
            message = "The recording stops without its end mark: it was cut short."
            warnings.append(Notice("truncated_input", message))
        if account.complaint_count or account.decode_errors or "damaged" in account.facts:
            warnings.append(
                Notice("damaged_input", "Parts of the recording are damaged and were left out or may sound wrong.")
            )
        if heard is None:
            return []
        expected = heard if not cut_short else min(heard, planned.end_seconds or heard)
        expected = max(0.0, expected - planned.start_seconds)
        if cut_short and planned.end_seconds is not None and probe.duration_seconds is None:
            expected = min(expected, planned.end_seconds - planned.start_seconds)
        allowed = _allowed_difference(planned)
        if abs(seconds - expected) > allowed:
            return [f"it lasts {seconds:.3f} seconds instead of {expected:.3f}"]
        return []

    # --------------------------------------------------------------------------------------------- running things

    def _read(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Run one of the reader's functions behind the locks."""
        import json

        limits = {
            "CPU": int(self._limits.reader_seconds), "DATA": self._limits.reader_memory_bytes, "FSIZE": self._limits.output_bytes,
            "NOFILE": self._limits.open_files, "CORE": 0,
        }  # fmt: skip
        chunks: list[bytes] = []
        request = {"folder": str(self._folder), "function": function, "arguments": arguments, "limits": limits}
        ended, complaint = self._confined(request, self._limits.reader_seconds, chunks.append)
        if ended.code == 0:
            facts: dict[str, Any] = json.loads(b"".join(chunks))
            return facts
        if "No space left" in complaint:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if function == "inspect":
            # A file that makes the header reader fail, or eat its limits, is ffmpeg's to judge.
            return {"known": False, "tags": {}, "chapters": [], "unreadable": True}
        if ended.timed_out:
            raise Unconvertible("timed_out")
        raise Unconvertible("verification_failed", "The tags could not be written into the result.")

    def _ffmpeg_run(
        self, arguments: Sequence[str], seconds: float | None, duration: float | None, *, share: tuple[float, float] = (0.0, 1.0),
        phase: str = "converting",
    ) -> _Run:  # fmt: skip
        limits = {
            "CPU": self._limits.cpu_seconds, "DATA": self._limits.memory_bytes, "FSIZE": self._limits.output_bytes,
            "NOFILE": self._limits.open_files, "CORE": 0,
        }  # fmt: skip
        account = Account()

        def hear_progress(chunk: bytes) -> None:
            at = progress_seconds(chunk.decode("ascii", "replace").splitlines())
            if at is not None and duration:
                low, high = share
                percent = round(100 * (low + (high - low) * min(1.0, at / duration)), 1)
                # A second round begins anew; a percentage that falls would only frighten.
                percent = self._furthest[phase] = max(percent, self._furthest.get(phase, 0.0))
                self._on_progress(phase, percent)

        request = {"folder": str(self._folder), "program": self._ffmpeg.path, "argv": list(arguments), "limits": limits}
        ended, _ = self._confined(request, seconds, hear_progress, account.hear)
        return _Run(account, ended)

    def _confined(
        self,
        request: Mapping[str, Any],
        seconds: float | None,
        hear: Callable[[bytes], None],
        hear_line: Callable[[str], None] | None = None,
    ) -> tuple[Ended, str]:
        """Start a confined process and listen until it ends. Raises Cancelled, Unconvertible when the job's time is up."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Unconvertible("timed_out")
        confined = self._server.spawn({**request, "wall_seconds": min(left, seconds or left)})
        lines = _Lines()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(confined.stdout, selectors.EVENT_READ)
                selector.register(confined.stderr, selectors.EVENT_READ)
                while selector.get_map():
                    if self._cancelled.is_set():
                        raise Cancelled
                    for key, _ in selector.select(0.2):
                        chunk = os.read(key.fd, 65_536)
                        if not chunk:
                            selector.unregister(key.fd)
                        elif key.fd == confined.stdout:
                            hear(chunk)
                        else:
                            for line in lines.split(chunk):
                                if hear_line:
                                    hear_line(line)
            ended = confined.result()
            self._cpu += ended.cpu_seconds
            self._memory = max(self._memory, ended.memory_bytes)
            return ended, lines.last
        finally:
            confined.close()

    def _judge(self, run: _Run) -> None:
        """Raise what a failed run of ffmpeg means."""
        ended, account = run.ended, run.account
        if ended.code == 0:
            return
        if "full" in account.facts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if ended.timed_out or ended.code == -signal.SIGXCPU:
            raise Unconvertible("timed_out")
        if ended.code == -signal.SIGXFSZ or "large" in account.facts:
            raise Unconvertible("too_large")
        if "memory" in account.facts:
            raise Unconvertible("out_of_memory")
        if account.stream is None:
            raise self._unreadable(run)
        if "no_decoder" in account.facts or account.stream.codec in account.refused:
            raise Unconvertible("unsupported_codec")
        if not account.samples_in or account.decode_errors or "invalid" in account.facts or "damaged" in account.facts:
            raise Unconvertible("damaged_input")
        raise Unconvertible("conversion_failed")

    def _unreadable(self, run: _Run) -> Unconvertible | OSError:
        """Why ffmpeg found no audio stream that it can name."""
        facts = run.account.facts
        if "full" in facts:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if run.ended.timed_out or run.ended.code == -signal.SIGXCPU:
            return Unconvertible("timed_out")
        if "memory" in facts or run.ended.code in (-signal.SIGKILL,):
            return Unconvertible("out_of_memory")
        if run.account.container is None:
            return Unconvertible("damaged_input" if self._facts.get("familiar") else "not_audio")
        if "no_decoder" in facts and not run.account.other_streams:
            return Unconvertible("unsupported_codec")
        return Unconvertible("no_audio_stream")


@dataclass(frozen=True, slots=True)
class _Gain:
    """What loudness normalisation does and what came of it (LUFS, dBTP, dB)."""

    aim: float
    loudness: float
    """The input's, as are ``peak`` and what follows from both."""
    peak: float
    decibels: float
    rate: int
    measured: float = -70.0
    """The result's loudness and true peak."""
    result_peak: float = -70.0

    @property
    def limited(self) -> bool:
        return self.peak + self.decibels > -1.0

    @property
    def miss(self) -> float:
        """By how much the result is too quiet."""
        return self.aim - self.measured

    def corrected(self) -> "_Gain":
        """The gain for another try. A limiter takes back most of what is added, so that what is missing is added twice."""
        step = self.miss * (2.0 if self.limited and self.miss > 0 else 1.0)
        return replace(self, decibels=min(self.decibels + step, self.aim - self.loudness + _MOST_EXTRA_GAIN))

    def filters(self) -> list[str]:
        steps = [f"volume={self.decibels:.2f}dB:precision=double"]
        if self.limited:
            # True peaks lie between samples: hold them at four times the rate.
            steps += [
                f"aresample={self.rate * 4}",
                "alimiter=limit=0.891251:level=false:attack=5:release=50",
                f"aresample={self.rate}",
            ]
        return steps

    def report(self) -> dict[str, Any]:
        """Under wire names."""
        return {
            "inputLufs": self.loudness,
            "inputTruePeakDbtp": self.peak,
            "gainDb": round(self.decibels, 2),
            "targetLufs": self.aim,
            "limited": self.limited,
            "measuredLufs": self.measured,
            "truePeakDbtp": self.result_peak,
        }

    def warnings(self) -> list[dict[str, str]]:
        """What a person should know about the outcome."""
        found = []
        if abs(self.miss) > 0.5:
            message = f"The result has {self.measured:g} LUFS instead of {self.aim:g}."
            message += " Its peaks left no room for more." if self.limited else ""
            found.append(Notice("loudness_missed", message))
        if self.result_peak > 0:
            message = f"True peaks reach {self.result_peak:g} dBTP, which some players clip: ask for less loudness."
            found.append(Notice("peaks_over_full_scale", message))
        return [notice.to_json() for notice in found]


class _Lines:
    """Splits a byte stream into lines; overlong ones are cut, none is kept but the last."""

    def __init__(self) -> None:
        self._rest = b""
        self.last = ""

    def split(self, chunk: bytes) -> Iterator[str]:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-8_192:]
        for line in whole:
            self.last = line[:8_192].decode("utf-8", "replace")
            yield self.last


def _chapters(rows: Sequence[Sequence[Any]], duration: float | None) -> tuple[Chapter, ...]:
    """Chapters with their ends filled in: where the next begins, or where the audio ends."""
    chapters = []
    rows = sorted(rows, key=lambda row: float(row[0]))  # files may list them in any order, which some writers drop
    for number, (start, end, title) in enumerate(rows[: reader.MAX_CHAPTERS]):
        following = rows[number + 1][0] if number + 1 < len(rows) else duration
        finish = end if end is not None else following
        if finish is not None and 0 <= start <= finish:
            chapters.append(Chapter(float(start), float(finish), str(title)[: reader.MAX_TEXT]))
    return tuple(chapters)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Tags and chapters from ffmpeg's metadata file, as the reader gives them."""
    pairs: list[tuple[str, str]] = []
    chapters: list[dict[str, str]] = []
    in_stream = False
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        text = lines.read(4_000_000)
        for line in _logical_lines(text):
            if line == "[CHAPTER]":
                chapters.append({})
            elif line == "[STREAM]":
                in_stream = True
            elif "=" in line:
                name, value = _unescape(line)
                if chapters and not in_stream:
                    chapters[-1][name.lower()] = value
                else:
                    pairs.append((name, value))
    rows: list[list[Any]] = []
    for chapter in chapters[: reader.MAX_CHAPTERS]:
        with contextlib.suppress(ValueError, ZeroDivisionError, KeyError):
            above, below = chapter.get("timebase", "1/1000000000").split("/")
            unit = int(above) / int(below)
            rows.append([int(chapter["start"]) * unit, int(chapter["end"]) * unit, chapter.get("title", "")])
    return {"tags": reader.clean_tags(pairs), "chapters": rows}


def _logical_lines(text: str) -> Iterator[str]:
    """Lines, with those joined whose end is escaped; comments left out."""
    pending = ""
    for line in text.split("\n"):
        joined = pending + line
        backslashes = len(joined) - len(joined.rstrip("\\"))
        if backslashes % 2:
            pending = joined + "\n"
            continue
        pending = ""
        if joined and joined[0] not in ";#":
            yield joined


def _unescape(line: str) -> tuple[str, str]:
    parts = [""]
    characters = iter(line)
    for character in characters:
        if character == "\\":
            parts[-1] += next(characters, "")
        elif character == "=" and len(parts) == 1:
            parts.append("")
        else:
            parts[-1] += character
    return parts[0], parts[1] if len(parts) > 1 else ""


def _walked_stream(facts: Mapping[str, Any], walked: Mapping[str, Any], planned: Plan) -> Stream | None:
    """The result's stream as its headers state it, None where they do not say enough."""
    if facts.get("known"):
        rate = facts["sample_rate_hz"]
        return Stream(
            facts["codec"], rate, facts["channels"], facts.get("bit_depth"), facts.get("float_samples", False), None
        )
    if walked.get("channels"):
        codec = {"adts": "aac"}.get(planned.container, planned.container)
        return Stream(codec, walked["rate"], walked["channels"], None, False, None)
    return None


def _differs(heard: Any, probe: Probe) -> bool:
    return bool(
        heard.codec != probe.codec or heard.sample_rate_hz != probe.sample_rate_hz or heard.channels != probe.channels
    )


def _differences(planned: Plan, stream: Any, facts: Mapping[str, Any]) -> list[str]:
    """In what the result's stream differs from the plan."""
    found = []
    if stream.codec != planned.codec:
        found.append(f"its codec is {stream.codec} instead of {planned.codec}")
    if stream.sample_rate_hz != planned.sample_rate_hz and planned.codec != "opus":
        found.append(f"it has {stream.sample_rate_hz} Hz instead of {planned.sample_rate_hz}")
    if stream.channels != planned.channels:
        found.append(f"it has {stream.channels} channels instead of {planned.channels}")
    depth = facts.get("bit_depth") or stream.bit_depth
    if planned.bit_depth and depth != planned.bit_depth:
        found.append(f"it has {depth} bits instead of {planned.bit_depth}")
    return found


def _missing(
    facts: Mapping[str, Any],
    tags: Mapping[str, Any],
    planned: Plan,
    chapters: Sequence[Chapter],
    warnings: list[Notice],
) -> list[str]:
    """Which tags, cover or chapters are not in the result."""
    found = []
    there = set(facts.get("tags", {}))
    lost = sorted(name for name in tags if name not in there)
    standard = [name for name in lost if name in reader.STANDARD_NAMES]
    if standard:
        found.append(f"tags are missing: {', '.join(standard[:5])}")
    elif lost:
        warnings.append(
            Notice("tags_lost", f"{planned.target} cannot hold tags of these names: {', '.join(lost[:5])}.")
        )
    if planned.keeps_cover and not facts.get("cover"):
        found.append("the cover is missing")
    if planned.keeps_chapters and len(facts.get("chapters", [])) != len(chapters):
        found.append("chapters are missing")
    return found


def _allowed_difference(planned: Plan) -> float:
    """How far, in seconds, a result's length may be from its input's: encoders work in frames."""
    frame = FRAME_SAMPLES.get(planned.codec)
    if frame is None:
        return 0.05
    exact = planned.container in ("mp3", "ogg", "mp4", "webm")
    rate = 48_000 if planned.codec == "opus" else planned.sample_rate_hz
    # Bare streams have no place to write down the encoder's delay, so it stays in, with the filled-up last frame.
    return (1 if exact and not planned.copied else 3) * frame / rate + 0.002


def free_bytes(folder: Path) -> int:
    """How much room the disk under ``folder`` has."""
    return shutil.disk_usage(folder).free
