"""Formats and options, as the service lists them: nothing about ranges is known here."""

from collections.abc import Mapping
from typing import Any

from swnube_client.errors import UsageError

# Short names on the command line, and the service's own. What it may learn later goes by --option NAME=VALUE.
SHORT = {
    "bitrate": "bitrateKbps", "quality": "quality", "sample-rate": "sampleRateHz", "channels": "channels",
    "bit-depth": "bitDepth", "start": "startSeconds", "end": "endSeconds", "fade-in": "fadeInSeconds",
    "fade-out": "fadeOutSeconds", "loudness": "loudnessLufs",
}  # fmt: skip
SWITCHES = {"no-metadata": "keepMetadata", "no-cover": "keepCover"}


def target_named(catalogue: Mapping[str, Any], name: str) -> str:
    """Return the service's name of a format; raises UsageError that lists them."""
    wanted = name.strip().lower().removeprefix(".")
    if wanted not in catalogue["outputs"]:
        raise UsageError(f"The service cannot write {name!r}. It can write: {', '.join(sorted(catalogue['outputs']))}.")
    return wanted


def checked(catalogue: Mapping[str, Any], target: str, asked: Mapping[str, str | bool]) -> dict[str, Any]:
    """Return options with values of their types; raises UsageError for what the format does not take."""
    known: Mapping[str, Any] = catalogue["outputs"][target]["options"]
    options: dict[str, Any] = {}
    for name, raw in asked.items():
        spec = known.get(name)
        if spec is None:
            raise UsageError(f"{target} has no option {name}. It has: {', '.join(known)}.")
        options[name] = _value(name, spec, raw)
    return options


def allowed(spec: Mapping[str, Any]) -> str:
    """Say what an option may be."""
    if spec["type"] == "boolean":
        return "true or false"
    if "values" in spec:
        return ", ".join(f"{value:g}" for value in spec["values"])
    return f"{spec['minimum']:g} to {spec['maximum']:g}"


def _value(name: str, spec: Mapping[str, Any], raw: str | bool) -> Any:
    if spec["type"] == "boolean":
        text = str(raw).lower()
        if text not in ("true", "false"):
            raise UsageError(f"{name} must be true or false, not {raw}.")
        return text == "true"
    try:
        number = float(raw)
    except ValueError as error:
        raise UsageError(f"{name} must be a number, not {raw!r}.") from error
    value: Any = int(number) if number.is_integer() else number
    fits = value in spec["values"] if "values" in spec else spec["minimum"] <= value <= spec["maximum"]
    if not fits or (spec["type"] == "integer" and not number.is_integer()):
        raise UsageError(f"{name} cannot be {raw}. It can be: {allowed(spec)}.")
    return value
