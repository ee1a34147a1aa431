"""One Transcoder for all tests of a process, and a folder per conversion as the worker gives it."""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from worker.contract.formats import parse_options
from worker.transcode import Conversion, Limits, Transcoder

Convert = Callable[..., Conversion]


@pytest.fixture(scope="session")
def transcoder() -> Iterator[Transcoder]:
    limits = Limits(wall_seconds=120, cpu_seconds=120, output_bytes=1 << 30, reader_seconds=20)
    with Transcoder(limits) as made:
        yield made


@pytest.fixture
def convert(transcoder: Transcoder, tmp_path: Path) -> Convert:
    """Convert a copy of a file in a private folder: ``convert(source, "ogg", {"quality": 5})``."""
    number = itertools.count()

    def run(source: Path, target: str, options: Mapping[str, Any] | None = None) -> Conversion:
        folder = tmp_path / f"job{next(number)}"
        folder.mkdir()
        copy = folder / "source"
        shutil.copy(source, copy)
        parsed = parse_options(target, options or {})
        return transcoder.convert(copy, folder, target, parsed, lambda *_: None, threading.Event())

    return run
