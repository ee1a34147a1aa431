"""Many converted files as one zip, made while it is sent. No HTTP in here."""

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import BinaryIO

import structlog
from zipstream import ZipStream

from flaskr.conversions import Conversions, Download, TaskMissing
from worker.contract.store import StoreError

log = structlog.get_logger()

MISSING = "NOT INCLUDED.txt"
_CHUNK = 256 * 1024


def stream(conversions: Conversions, files: Iterable[Download]) -> Iterator[bytes]:
    """Yield the bytes of a zip that holds the files as they are: audio does not get smaller.

    A file that was removed meanwhile, or that the store does not give, is left out, and a text at the archive's end
    names it. One that breaks off in its middle ends everything with the store's error: whoever downloads sees that the
    archive is incomplete, instead of finding a torn recording later.
    """
    archive = ZipStream()
    names = _Names()
    missing: list[str] = []
    for file in files:
        try:
            source = conversions.open(file)
        except (TaskMissing, StoreError) as error:
            log.info("archive.left_out", route=file.route, reason=type(error).__name__)
            missing.append(file.name)
            continue
        with source:
            archive.add(_chunks(source), names.free(file.name))
            yield from archive.all_files()
    if missing:
        text = "These files could not be put into the archive; they were removed, or the store did not answer:\n\n"
        archive.add(text + "\n".join(missing) + "\n", names.free(MISSING))
    yield from archive.finalize()


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


class _Names:
    """Gives each file of an archive a name of its own, also on systems that do not tell a from A."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._numbers: dict[str, int] = {}

    def free(self, name: str) -> str:
        path = PurePath(name)
        free, number = name, self._numbers.get(name.casefold(), 1)
        while free.casefold() in self._given:
            number += 1
            free = f"{path.stem} ({number}){path.suffix}"
        self._numbers[name.casefold()] = number
        self._given.add(free.casefold())
        return free
