"""The message on the queue, and the worker's answer to it."""

from dataclasses import asdict, dataclass
from typing import Any, Self

VERSION = 1


class JobError(ValueError):
    """A message that this release cannot read."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one task: everything a worker needs, so that it needs no database.

    task: the task's id; attempt: 1, 2, … within the task.
    source, target: routes (keys in the bucket) of the original and of the result to make.
    source_bytes, source_crc32c: what the download must be equal to; crc32c as eight hexadecimal digits.
    format: the name under OUTPUTS; options: wire names and values, as ``Options.to_json`` gives them.
    token: the bearer for claiming and reporting this attempt, and nothing else.
    request: the id of the request that asked for it, for the logs; trace: its `traceparent`, where there are traces.
    """

    task: int
    attempt: int
    source: str
    source_bytes: int
    source_crc32c: str
    target: str
    format: str
    options: dict[str, Any]
    token: str
    request: str = ""
    trace: str = ""
    version: int = VERSION

    def encode(self) -> dict[str, Any]:
        """Return the message as JSON values."""
        return asdict(self)

    @classmethod
    def decode(cls, message: object) -> Self:
        """Read a message; raise JobError when it is of another version or not a job at all."""
        if not isinstance(message, dict) or message.get("version") != VERSION:
            raise JobError("The message is not a job of this version.")
        for name, kind in _KINDS.items():
            if not isinstance(message.get(name), kind) or isinstance(message.get(name), bool):
                raise JobError(f"The job's field {name} is missing or of the wrong type.")
        return cls(**{name: message[name] for name in _KINDS})


_KINDS: dict[str, type] = {
    "task": int,
    "attempt": int,
    "source": str,
    "source_bytes": int,
    "source_crc32c": str,
    "target": str,
    "format": str,
    "options": dict,
    "token": str,
    "request": str,
    "trace": str,
    "version": int,
}


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt ended, as the worker tells the API.

    outcome: ``done`` with `result`, or ``failed`` with `error` ({code, message}).
    source: what the original really is, when the worker found out; phases: seconds that each phase took.
    waveform: ``{bytes, crc32c}`` of the picture stored at `waveform_route`, where there is one.
    """

    attempt: int
    outcome: str
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    source: dict[str, Any] | None = None
    phases: dict[str, float] | None = None
    waveform: dict[str, Any] | None = None

    def encode(self) -> dict[str, Any]:
        """Return the body of the POST."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def waveform_route(task: int, attempt: int) -> str:
    """Return where an attempt writes its waveform. No original and no result can have this name: none ends in .json."""
    return f"{task}/waveform.{attempt}.json"
