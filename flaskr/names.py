"""File names from outside, made safe, and the routes made of them."""

import unicodedata

from pathvalidate import sanitize_filename

NAME_BYTES = 200  # in UTF-8: with what is added to a result's name, below the 255 that file systems allow


def safe_name(raw: str) -> str:
    """Return the last part of a file name without anything that a path, a header or a terminal would act on.

    Letters of every script, spaces and emoji stay. The result has a stem, has no dot or space at its ends, and is at
    most NAME_BYTES long in UTF-8, its extension whole.
    """
    name = unicodedata.normalize("NFC", raw.encode("utf-8", "ignore").decode()).replace("\\", "/").rpartition("/")[2]
    # Control, format (bidi marks) and private characters go; the joiner inside emoji stays.
    name = "".join(c for c in name if not unicodedata.category(c).startswith("C") or c == "\u200d")
    stem, dot, extension = name.strip(" .").rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem, extension = (sanitize_filename(part, platform="universal") for part in (cut(stem, NAME_BYTES), extension))
    stem = cut(stem.strip(" .") or "audio", NAME_BYTES - len(extension.encode()) - 1)
    return stem + dot + extension


def extension_of(raw: str) -> str:
    """Return the extension of a file name in lower case, without its dot; empty when it has none.

    A name of only dots before the last one (``...mp3``) is a hidden file without extension, as systems see it.
    """
    last = raw.replace("\\", "/").rpartition("/")[2].strip()
    stem, dot, extension = last.rpartition(".")
    return extension.strip().lower() if dot and stem.strip(". ") else ""


def result_name(name: str, extension: str) -> str:
    """Return the name under which a person saves the converted file."""
    return f"{name.rpartition('.')[0]}.{extension}"


def result_route(task: int, name: str, extension: str, attempt: int) -> str:
    """Return where an attempt writes its result: ``<task id>/<stem>.<extension>`` where that is free.

    A later attempt, or a name that differs from the original's at most in case, gets the attempt's number in between,
    so that no two attempts and no original share an object.
    """
    plain = result_name(name, extension)
    if attempt > 1 or plain.casefold() == name.casefold():
        plain = f"{name.rpartition('.')[0]}.{attempt}.{extension}"
    return f"{task}/{plain}"


def cut(text: str, most: int) -> str:
    """Return the longest beginning of a text that has at most so many bytes in UTF-8."""
    return text.encode()[:most].decode("utf-8", "ignore").rstrip(" .") or "audio"
