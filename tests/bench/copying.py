"""A worker that copies instead of converting, to measure everything around the conversion: `celery -A tests.bench.copying`."""

import shutil
import threading
from pathlib import Path
from typing import Any

from worker import app as entry
from worker.contract.formats import Options, Probe
from worker.transcode import Conversion, Limits


class CopyingTranscoder:
    """Hands the original back as the result."""

    version = "none: this worker copies"
    encoders = frozenset({"libvorbis", "pcm_s16le"})

    def __init__(self, limits: Limits) -> None:
        self.protections: dict[str, Any] = {}

    def convert(
        self, source: Path, folder: Path, target: str, options: Options, on_progress: Any, cancelled: threading.Event
    ) -> Conversion:
        on_progress("converting", 0.0)
        path = folder / "result"
        shutil.copyfile(source, path)
        probe = Probe(container="wav", codec="pcm_s16le", sample_rate_hz=44100, channels=1, duration_seconds=1.0)
        return Conversion(path, {"codec": "copy"}, probe, 0.0, 0)


entry.Transcoder = CopyingTranscoder  # type: ignore[assignment, attr-defined]
app = entry.app
