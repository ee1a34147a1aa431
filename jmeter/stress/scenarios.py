"""The plans, and what each is for. Their defaults are read from the plans themselves, where JMeter's GUI shows them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).resolve().parents[1]
PROCESSED = "Upload to PROCESSED"
"""The transaction that ends when the task is seen PROCESSED: no request, so the limit for requests is not its limit."""


@dataclass(frozen=True)
class Scenario:
    """One plan. `main` is the sample that each user takes once in each loop, by which a run is known to be whole."""

    name: str
    title: str
    main: str
    smoke: Mapping[str, str]

    @property
    def plan(self) -> Path:
        """The file that JMeter reads."""
        return FOLDER / f"{self.name}.jmx"

    @cached_property
    def defaults(self) -> dict[str, str]:
        """What each -J property is when nothing is given: the plan's variables of the form ``${__P(name,value)}``."""
        values = [element.text or "" for element in ElementTree.parse(self.plan).iter("stringProp")]  # noqa: S314
        found = [re.fullmatch(r"\$\{__P\((\w+),(.*)\)\}", value) for value in values]
        return {match[1]: match[2] for match in found if match}

    def samples(self, properties: Mapping[str, str]) -> int:
        """How many samples of `main` a whole run has with these properties."""
        given = {**self.defaults, **properties}
        return int(given["users"]) * int(given["loops"])


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("login", "Log-in", "Log in", {"users": "2", "ramp": "1", "loops": "2"}),
        Scenario("conversion", "Scenario 1: conversion", PROCESSED, {"users": "2", "ramp": "1", "loops": "1"}),
        Scenario("capacity", "Scenario 2: capacity", PROCESSED, {"users": "3", "ramp": "3", "loops": "1"}),
        Scenario("browse", "Browse", "Read one", {"users": "2", "ramp": "1", "loops": "3"}),
    )
}
