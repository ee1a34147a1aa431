"""Makes .venv and installs a requirements file into it, only when something changed since the last time.

Run by the Makefile with whatever `python3` there is: so the standard library alone, and no syntax newer than Python
3.6, which must still get as far as printing that it is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")


class CannotPrepareError(Exception):
    """The message is the one line that the person at the terminal needs."""


def prepare(requirements: str) -> None:
    """Brings .venv up to date with a requirements file, named relative to the project. Raises CannotPrepareError."""
    if sys.version_info < OLDEST:
        has = f"{sys.executable} is {sys.version.split()[0]}"
        raise CannotPrepareError(f"SWNube needs Python 3.11 or newer; {has}. Name another: make PYTHON=python3.12 ...")
    stamp = os.path.join(VENV, "installed-" + os.path.basename(requirements))
    wanted = fingerprint(requirements)
    if read(stamp) == wanted:
        return
    make_venv()
    say(f"Installing {requirements} ...")
    pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.call([*pip, "--requirement", os.path.join(ROOT, requirements)]) != 0:
        raise CannotPrepareError(f"Could not install {requirements}: see above.")
    write(stamp, wanted)


def fingerprint(requirements: str) -> str:
    """What an installation rests on: this Python, and the text of all the files named with -r."""
    parts = [sys.version, os.path.realpath(sys.executable)]
    pending = [os.path.join(ROOT, requirements)]
    while pending:
        path = pending.pop()
        lines = read(path).splitlines()
        parts += lines
        pending += [os.path.join(os.path.dirname(path), line[3:].strip()) for line in lines if line.startswith("-r ")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make_venv() -> None:
    """Makes .venv anew, unless there is one that works and is of this Python."""
    if os.path.exists(VENV_PYTHON):
        ask = [VENV_PYTHON, "-c", "import pip, sys; sys.stdout.write(sys.version)"]
        try:
            if subprocess.check_output(ask, stderr=subprocess.DEVNULL).decode() == sys.version:
                return
        except (OSError, subprocess.CalledProcessError):
            pass  # broken: its Python was removed, say
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise CannotPrepareError("Python's venv is missing. On Debian and Ubuntu: apt install python3-venv") from None
    say(f"Making .venv with Python {sys.version.split()[0]} ...")
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", VENV]) != 0:
        raise CannotPrepareError("Could not make .venv: see above.")


def read(path: str) -> str:
    """The text of a file; empty when there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        prepare(sys.argv[1])
    except CannotPrepareError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
