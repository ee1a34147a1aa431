"""The dependency rule between the tiers, held by walking the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB_ONLY = {
    "flask",
    "flask_sqlalchemy",
    "flask_migrate",
    "flask_jwt_extended",
    "flask_smorest",
    "sqlalchemy",
    "marshmallow",
}


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (file, imported module) for every import below a folder, wherever in the file it stands."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = path.relative_to(ROOT).as_posix()
            if isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_web_tier_knows_only_the_contract_of_the_worker() -> None:
    """flaskr imports of worker nothing but worker.contract."""
    wrong = [(file, name) for file, name in imports("flaskr")
             if name.split(".")[0] == "worker" and not name.startswith("worker.contract.")]  # fmt: skip
    assert wrong == []


def test_the_worker_knows_nothing_of_the_web_tier() -> None:
    """worker imports neither flaskr nor what only the web tier uses."""
    wrong = [(file, name) for file, name in imports("worker") if name.split(".")[0] in WEB_ONLY | {"flaskr"}]
    assert wrong == []


def test_the_contract_stands_alone() -> None:
    """worker.contract imports nothing of the worker around it, and not pydub."""
    wrong = [(file, name) for file, name in imports("worker/contract")
             if name.split(".")[0] == "pydub" or (name.startswith("worker.") and not name.startswith("worker.contract."))]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("file", ["flaskr/conversions.py", "flaskr/accounts.py"])
def test_the_domain_knows_no_http(file: str) -> None:
    """The deep modules see neither requests nor answers."""
    wrong = [name for where, name in imports("flaskr") if where == file
             and (name.startswith(("flask.", "werkzeug", "flaskr.api")) or name == "flask")]  # fmt: skip
    assert wrong == []


def test_the_stress_plans_know_the_wire_alone() -> None:
    """jmeter measures any service that answers as the contract says: it imports neither tier, nor the tests."""
    wrong = [(file, name) for file, name in imports("jmeter") if name.split(".")[0] in {"flaskr", "worker", "tests"}]
    assert wrong == []
