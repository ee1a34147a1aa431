"""The file that is uploaded: made here, so that no recording is in the repository."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from jmeter.stress.trouble import CannotRun

SECONDS = 186
SMOKE_SECONDS = 5
RATE = 44_100
BITRATE = 128_000


def make(folder: Path, seconds: int) -> Path:
    """An mp3 of so many seconds in the folder, made unless it is there: 128 kbit/s throughout, so 16,000 bytes a second.

    186 s, the files of the scenarios, are 2.98 MB. Raises CannotRun when there is no ffmpeg.
    """
    path = folder / f"song-{seconds}s.mp3"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    # Chords that wander, with a little noise: an encoder has about as much work with it as with music.
    voices = "|".join(
        f"0.2*sin(2*PI*({110 + side}+40*sin(0.3*t))*t)+0.15*sin(2*PI*{330 + 2 * side}*t)*sin(5*t)+0.1*(random({side})-0.5)"
        for side in (0, 1)
    )
    command = [
        _ffmpeg(), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", f"aevalsrc={voices}:s={RATE}:d={seconds}:c=stereo",
        "-codec:a", "libmp3lame", "-b:a", str(BITRATE), "-id3v2_version", "0", "-write_xing", "0", "-f", "mp3", str(unfinished),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(
            f"ffmpeg could not make the file to upload; name one with --audio. It says: {done.stderr.strip()}"
        )
    unfinished.rename(path)
    return path


def _ffmpeg() -> str:
    found = os.environ.get("FFMPEG") or shutil.which("ffmpeg")
    if found:
        return found
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    raise CannotRun("There is no ffmpeg to make the file to upload: install it, or name a file with --audio.")
