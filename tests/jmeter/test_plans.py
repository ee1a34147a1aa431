"""The plans as files: that JMeter without plug-ins can load them, and that each checks what it gets."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from jmeter.stress.scenarios import FOLDER, PROCESSED, SCENARIOS, Scenario
from tests.jmeter.core import CORE

plans = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
Pair = tuple[ElementTree.Element, ElementTree.Element]


def pairs(tree: ElementTree.Element) -> Iterator[Pair]:
    """Every element of a plan with the hashTree that holds its children."""
    for parent in tree.iter("hashTree"):
        children = list(parent)
        yield from zip(children[::2], children[1::2], strict=True)


def root(scenario: Scenario) -> ElementTree.Element:
    return ElementTree.parse(scenario.plan).getroot()  # noqa: S314 (our own file)


def test_every_plan_is_run() -> None:
    """A plan in the folder is one that jmeter/run knows."""
    assert {path.stem for path in FOLDER.glob("*.jmx")} == set(SCENARIOS)


@plans
def test_plan_is_made_of_core_elements(scenario: Scenario) -> None:
    """JMeter loads it without a plug-in, and every element says what it is in words."""
    tree = root(scenario)
    assert (tree.tag, tree.get("version"), tree.get("jmeter")) == ("jmeterTestPlan", "1.2", "5.6.3")
    for element, below in pairs(tree):
        assert below.tag == "hashTree"
        assert element.tag == element.get("testclass")
        assert element.get("testname")
    used = {element.get(kind) for element in tree.iter() for kind in ("testclass", "guiclass")} - {None}
    assert used <= CORE


@plans
def test_plan_runs_with_nothing_given(scenario: Scenario) -> None:
    """Everything has a default, and no path of any machine is in it."""
    text = scenario.plan.read_text(encoding="utf-8")
    variables = {"host", "port", "protocol", "users", "ramp", "loops", "password"}
    assert variables <= set(scenario.defaults)
    set_by_the_plan = {"audio", "filename"}
    for name, default in re.findall(r"\$\{__P\((\w+)(,[^)]*)?\)\}", text):
        assert default or name in set_by_the_plan
    assert not re.search(r'"(/(home|root|tmp|Users)/|C:)', text)


@plans
def test_plan_has_the_listeners_that_people_know(scenario: Scenario) -> None:
    """Aggregate Report, Aggregate Graph and View Results Tree, which write no file by themselves."""
    collectors = list(root(scenario).iter("ResultCollector"))
    names = {"StatVisualizer": "Aggregate Report", "StatGraphVisualizer": "Aggregate Graph",
             "ViewResultsFullVisualizer": "View Results Tree"}  # fmt: skip
    assert {collector.get("guiclass"): collector.get("testname") for collector in collectors} == names
    assert all(
        not (prop.text or "") for collector in collectors for prop in collector.findall("stringProp[@name='filename']")
    )


@plans
def test_every_request_is_checked(scenario: Scenario) -> None:
    """Each request has an assertion on its code and another on its body; tokens go by header, never by cookie."""
    checked = 0
    for element, below in pairs(root(scenario)):
        assert "Cookie" not in element.tag
        if element.tag != "HTTPSamplerProxy":
            continue
        fields = [prop.text for prop in below.findall("ResponseAssertion/stringProp[@name='Assertion.test_field']")]
        assert "Assertion.response_code" in fields, element.get("testname")
        assert below.findall("JSONPathAssertion") or below.findall("JSR223Assertion"), element.get("testname")
        checked += 1
    assert checked >= 4


@plans
def test_main_sample_is_in_the_plan(scenario: Scenario) -> None:
    """What a whole run is known by is a sample of the plan."""
    assert scenario.main in {element.get("testname") for element, _ in pairs(root(scenario))}


@pytest.mark.parametrize("name", ["conversion", "capacity"])
def test_waiting_is_bounded(name: str) -> None:
    """The look at the task stands in a While with a timer, in the transaction that measures the time to PROCESSED."""
    trees = {element.get("testname"): below for element, below in pairs(root(SCENARIOS[name]))}
    loops = trees[PROCESSED].findall("WhileController")
    assert len(loops) == 1
    look = trees["Look at the task"]
    assert look.find("ConstantTimer") is not None
    scripts = " ".join(prop.text or "" for prop in look.iter("stringProp") if prop.get("name") == "script")
    assert "GAVE_UP" in scripts
    assert {"tries", "pollFirst", "pollMost"} <= set(SCENARIOS[name].defaults)


def test_defaults_are_the_scenarios_of_the_report() -> None:
    """60 log-ins; 30 users; 100 users over 600 s."""
    assert SCENARIOS["login"].samples({}) == 60
    assert SCENARIOS["conversion"].samples({}) == 30
    assert (SCENARIOS["capacity"].samples({}), SCENARIOS["capacity"].defaults["ramp"]) == (100, "600")
    assert SCENARIOS["login"].samples({"users": "2", "loops": "5"}) == 10
