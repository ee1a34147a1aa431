"""Small real audio whose content can be told apart after a conversion: each file is one tone."""

import array
import io
import itertools
import math
import random
import shutil
import subprocess
import wave

RATE = 8000  # samples a second, one channel: a second is 16 kB


def tone(hertz: int, seconds: float = 1.0) -> bytes:
    """A WAV file with a sine of that pitch."""
    step = 2 * math.pi * hertz / RATE
    return _wav(array.array("h", (int(20000 * math.sin(step * n)) for n in range(int(RATE * seconds)))))


def noise(seconds: float) -> bytes:
    """A WAV file that takes long to convert for its size."""
    block = array.array("h", random.Random(1).randbytes(2 * RATE))
    samples = array.array("h")
    while len(samples) < RATE * seconds:
        samples.extend(block)
    return _wav(samples)


def _wav(samples: "array.array[int]") -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.tobytes())
    return file.getvalue()


SLOW = noise(200)  # half a second of ffmpeg's time: enough to catch it


def ffmpeg() -> str:
    """The path of the ffmpeg that decodes results here."""
    if found := shutil.which("ffmpeg"):
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def samples(data: bytes) -> "array.array[int]":
    """The samples of a file of any format, 16 bits each. Raises CalledProcessError when it is not audio."""
    command = [ffmpeg(), "-v", "error", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", str(RATE), "pipe:1"]
    return array.array("h", subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout)


def decode(data: bytes) -> tuple[float, float]:
    """Decode a file of any format; return its pitch in hertz (from its zero crossings) and its length in seconds.

    Raises CalledProcessError when it is not audio.
    """
    heard = samples(data)
    # The edges of a lossy file are not the tone; its middle is.
    middle = heard[len(heard) // 4 : 3 * len(heard) // 4]
    crossings = sum(1 for before, after in itertools.pairwise(middle) if before < 0 <= after)
    seconds = len(middle) / RATE
    return (crossings / seconds if seconds else 0.0), len(heard) / RATE
