"""CPU time, wall time and memory of conversions beside the bare ffmpeg command with the same arguments.

    python -m tests.measure.conversion_cost [--seconds 186] [--repeat 5] [--formats mp3,ogg,wav]

Prints one line per format: medians over ``--repeat`` runs that alternate between the two. Ours counts every process: probe, conversion, checks
and their keepers. The bare command is ffmpeg alone with our own conversion's arguments, started the ordinary way.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests import audio
from worker.contract.formats import OUTPUTS, Options, plan
from worker.transcode import Transcoder
from worker.transcode.ffmpeg import filters, writing


def bare(transcoder: Transcoder, source: Path, target: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of ffmpeg alone."""
    ffmpeg = transcoder._ffmpeg
    planned = plan(transcoder.probe(source, folder), target, Options())
    chain = filters(planned, Options(), None)
    command = [ffmpeg.path, "-v", "error", "-nostdin", "-y", "-i", str(source), "-map", "0:a:0", "-vn"]
    command += ["-af", ",".join(chain)] if chain and not planned.copied else []
    command += [*writing(ffmpeg, planned, 4096), str(folder / f"bare.{OUTPUTS[target].extension}")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class PeakMemory:
    """Samples the resident memory of everything below this process while it is entered."""

    def __enter__(self) -> "PeakMemory":
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.05):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=186)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--formats", default="mp3,ogg,opus,wav,flac,m4a,aac,mp2,ac3,alac,aiff")
    asked = parser.parse_args()
    with Transcoder() as transcoder, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = audio.make(folder / "source.mp3", asked.seconds, 44_100, 2, "-b:a", "128k")
        say(
            f"ffmpeg {transcoder.version}, {asked.seconds:g} s mp3 of {source.stat().st_size / 1e6:.1f} MB, median of {asked.repeat}"
        )
        say(
            f"{'format':8} {'bare cpu':>9} {'our cpu':>9} {'ratio':>6} {'bare wall':>10} {'our wall':>9} {'more':>8} {'memory':>8}"
        )
        for target in asked.formats.split(","):
            options = Options(bitrate_kbps=192) if target == "mp3" else Options()
            rows = []
            peak = 0
            for _ in range(asked.repeat):
                wall, cpu = (
                    bare(transcoder, source, target, folder)
                    if target != "mp3"
                    else bare_mp3(transcoder, source, folder)
                )
                work = folder / "work"
                work.mkdir()
                shutil.copy(source, work / "source")
                start = time.perf_counter()
                if asked.seconds > 1000:
                    with PeakMemory() as memory:
                        done = transcoder.convert(
                            work / "source", work, target, options, lambda *_: None, threading.Event()
                        )
                    peak = max(peak, memory.peak)
                else:
                    done = transcoder.convert(
                        work / "source", work, target, options, lambda *_: None, threading.Event()
                    )
                rows.append((cpu, done.cpu_seconds, wall, time.perf_counter() - start))
                peak = max(peak, done.memory_bytes)
                shutil.rmtree(work)
            bare_cpu, our_cpu, bare_wall, our_wall = (statistics.median(row[i] for row in rows) for i in range(4))
            say(
                f"{target:8} {bare_cpu:8.3f}s {our_cpu:8.3f}s {our_cpu / bare_cpu:6.2f} {bare_wall:9.3f}s {our_wall:8.3f}s "
                f"{1000 * (our_wall - bare_wall):6.0f}ms {peak / 1e6:6.0f}MB"
            )


def bare_mp3(transcoder: Transcoder, source: Path, folder: Path) -> tuple[float, float]:
    """As :func:`bare`, for mp3 to mp3, which without options would be a copy."""
    command = [transcoder.path, "-v", "error", "-nostdin", "-y", "-i", str(source), "-map", "0:a:0", "-vn"]
    command += ["-c:a", "libmp3lame", "-b:a", "192k", "-ar", "44100", "-ac", "2", str(folder / "bare.mp3")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def say(line: str) -> None:
    """Print at once, also into a file."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
