"""Writes docs/licences.md: every package that the service is installed from, and its licence, from its own metadata."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

What the service is installed from (`requirements.txt`), and on which terms, as each package states them. `make
licences` writes this page; a test holds it complete and free of terms that were not thought about. SWNube itself is
under the MIT licence. ffmpeg and Redis are separate programs, which SWNube starts and does not contain.

| package | version | licence |
|---|---|---|
"""


def locked(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """The packages of a lock and their versions, joined by a stroke where Pythons differ."""
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", path.read_text(), re.M):
        found[name.lower()] = "/".join(filter(None, (found.get(name.lower()), version)))
    return found


def listed() -> dict[str, tuple[str, str]]:
    """The packages of the page, with version and licence."""
    rows = re.findall(r"^\| ([a-z0-9._-]+) \| (\S+) \| (.+) \|$", PAGE.read_text(), re.M) if PAGE.exists() else []
    return {name: (version, licence) for name, version, licence in rows if name != "package"}


def licence(name: str) -> str | None:
    """What a package's metadata call its licence, in one line; None when it is not installed here."""
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return None
    if said["License-Expression"]:
        return str(said["License-Expression"])
    classes = [line.split(" :: ")[-1] for line in said.get_all("Classifier", []) if line.startswith("License ::")]
    classes = [line for line in classes if line != "OSI Approved"]
    return ", ".join(classes) or (said["License"] or "unknown").splitlines()[0]


def page() -> str:
    """The whole page. A package for another platform keeps the row that it has."""
    before = listed()
    rows = []
    for name, version in sorted(locked().items()):
        known = licence(name) or before.get(name, ("", "unknown"))[1]
        rows.append(f"| {name} | {version} | {known} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
