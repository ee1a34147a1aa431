"""What the service is installed from: pinned, by checksum, on terms that are known."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.supply.licences import ROOT, listed, locked

LOCKS = {
    "service": ROOT / "requirements.txt",
    **{name: ROOT / "requirements" / f"{name}.txt" for name in ("local", "dev", "browser", "supply")},
}
# Licences that let everybody use, change and pass on; the weak copyleft ones bind changes to the package alone.
TERMS = re.compile(r"MIT|BSD|Apache|PSF|Python Software Foundation|ISC|MPL|Mozilla|LGPL|Lesser General|GPL-2.0-or-later"
                   r"|CC0|Unlicense|Public Domain|ZPL|0BSD|Zlib")  # fmt: skip


def requirements(path: Path) -> list[str]:
    """The requirements of a file, each with what belongs to it on one line."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    return [line for line in text.splitlines() if line and not line.startswith(("#", " ", "-"))]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_by_version_and_checksum(name: str) -> None:
    """pip takes nothing that is not in the lock, and no file that was changed after it was locked."""
    lines = requirements(LOCKS[name])
    assert len(lines) > 10
    for line in lines:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[0-9][^ ]* ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_are_those_of_their_sources(name: str) -> None:
    """Whoever changes requirements/*.in runs `make lock`: every direct version is the locked one, in every lock."""
    found = locked(LOCKS[name])
    source = ROOT / "requirements" / f"{name}.in"
    while source:
        text = source.read_text()
        for line in requirements(source):
            package, wanted = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", line).groups()  # type: ignore[union-attr]
            assert wanted in found.get(package.lower(), "").split("/"), f"{package}: run `make lock`"
        follows = re.search(r"^-r (\S+)$", text, re.M)
        source = source.with_name(follows[1]) if follows else None  # type: ignore[assignment]


def test_what_runs_here_is_what_is_locked() -> None:
    """The packages of this environment have the versions of the lock: tests speak of what is shipped."""
    different = {}
    for name, wanted in locked().items():
        try:
            if version(name) not in wanted.split("/"):
                different[name] = (version(name), wanted)
        except PackageNotFoundError:
            continue  # for another platform
    assert different == {}


def test_every_package_comes_on_known_terms() -> None:
    """docs/licences.md lists exactly what is locked, and every licence is one that was thought about."""
    pages = listed()
    assert {name: row[0] for name, row in pages.items()} == locked(), "run `make licences`"
    strange = {name: row[1] for name, row in pages.items() if not TERMS.search(row[1])}
    assert strange == {}
