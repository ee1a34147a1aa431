"""Many conversions at once do not get in each other's way, and long ones stay small."""

import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutagen
import pytest

from tests import audio
from tests.measure.conversion_cost import PeakMemory
from worker.contract.formats import OUTPUTS, Options, parse_options
from worker.transcode import Transcoder


def jobs(number: int) -> list[tuple[str, dict[str, object]]]:
    """Formats and options, different for each job."""
    chance = random.Random(42)
    made: list[tuple[str, dict[str, object]]] = []
    for index in range(number):
        target = ("mp3", "wav", "flac", "m4a", "opus", "aiff", "mp2")[index % 7]
        options: dict[str, object] = {"endSeconds": round(1 + chance.random(), 3), "channels": chance.choice((1, 2))}
        if target in ("mp3", "mp2"):
            options["bitrateKbps"] = chance.choice((64, 96, 128, 192) if target == "mp3" else (96, 160, 192))
        if target in ("wav", "flac", "aiff"):
            options["bitDepth"] = chance.choice((16, 24))
        if target in ("wav", "flac", "aiff", "m4a"):
            options["sampleRateHz"] = chance.choice((16_000, 22_050, 48_000))
        made.append((target, options))
    return made


@pytest.mark.parametrize("number", [14, pytest.param(200, marks=pytest.mark.slow)])
def test_each_of_many_jobs_on_one_upload_gets_what_it_asked_for(
    transcoder: Transcoder, tmp_path: Path, number: int
) -> None:
    """Jobs with different options on the same bytes, several at once: every result has its own job's options."""
    source = audio.make(tmp_path / "song.flac", 3.0)

    def work(index: int, target: str, options: dict[str, object]) -> None:
        folder = tmp_path / str(index)
        folder.mkdir()
        shutil.copy(source, folder / "source")
        parsed = parse_options(target, options)
        result = transcoder.convert(
            folder / "source", folder, target, parsed, lambda *_: None, threading.Event()
        ).result
        seen = mutagen.File(
            folder / f"result.{OUTPUTS[target].extension}"
        ).info  # another reader, not the result's own word
        if target != "m4a":  # of mono AAC mutagen says that it may be stereo
            assert getattr(seen, "channels", options["channels"]) == options["channels"]
        assert seen.length == pytest.approx(options["endSeconds"], abs=0.1)
        assert getattr(seen, "sample_rate", 48_000) == options.get("sampleRateHz", getattr(seen, "sample_rate", 48_000))
        if target in ("wav", "flac", "aiff"):
            assert seen.bits_per_sample == options["bitDepth"]
        assert result["channels"] == options["channels"]
        assert result["durationSeconds"] == pytest.approx(options["endSeconds"], abs=0.08)
        assert result["sampleRateHz"] == options.get("sampleRateHz", result["sampleRateHz"])
        assert result.get("bitDepth") == options.get("bitDepth", result.get("bitDepth"))
        if target in ("mp3", "mp2"):
            assert result["bitrateKbps"] == pytest.approx(options["bitrateKbps"], rel=0.1)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, index, target, options) for index, (target, options) in enumerate(jobs(number))]
        for each in running:
            each.result()


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, 10])
def test_a_long_recording_takes_no_more_memory_than_a_short_one(
    transcoder: Transcoder, tmp_path: Path, hours: int
) -> None:
    """One hour and ten hours to FLAC: everything that the conversion runs stays under 150 MB together."""
    source = tmp_path / "source"
    audio.run(
        "-f",
        "lavfi",
        "-i",
        f"sine=440:r=8000:d={hours * 3600}",
        "-c:a",
        "libmp3lame",
        "-b:a",
        "16k",
        "-f",
        "mp3",
        source,
    )
    with PeakMemory() as memory:
        done = transcoder.convert(source, tmp_path, "flac", Options(), lambda *_: None, threading.Event())
    assert done.result["durationSeconds"] == pytest.approx(hours * 3600, abs=0.1)
    assert memory.peak < 150_000_000
