"""deploy/terraform/ against the provider's schema, without the provider: it is no package that every machine can fetch.

google_6_50.json holds the arguments and attributes of hashicorp/google 6.50.0 for the resources used here, taken from
the bindings that are generated from that provider's schema (@cdktf/provider-google 16.12.1).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hcl2
import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "terraform"
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "google_6_50.json").read_text())
META = {"count", "depends_on", "for_each", "lifecycle", "provider"}
BLOCK = re.compile(r'^([a-z0-9_]+)((?: "[^"]+")*) \{( *\})?$')
ARGUMENT = re.compile(r"^([a-z0-9_]+) += (.*)$")


@dataclass
class Block:
    """A block of formatted HCL: its kind, its labels, and what is directly in it."""

    kind: str
    labels: list[str]
    arguments: dict[str, str] = field(default_factory=dict)
    blocks: list["Block"] = field(default_factory=list)


def read(folder: Path) -> Block:
    """All files of a folder, formatted as `terraform fmt` does it, as one block."""
    root = Block("", [])
    for path in sorted(folder.glob("*.tf")):
        open_blocks, argument, depth = [root], "", 0
        for number, raw in enumerate(path.read_text().splitlines(), 1):
            line = raw.strip()
            bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
            if depth:  # inside an expression of several lines
                open_blocks[-1].arguments[argument] += "\n" + line
                depth += sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
            elif not line or line.startswith("#"):
                continue
            elif line == "}":
                open_blocks.pop()
            elif found := BLOCK.match(line):
                block = Block(found[1], re.findall(r'"([^"]+)"', found[2]))
                open_blocks[-1].blocks.append(block)
                if not found[3]:
                    open_blocks.append(block)
            elif found := ARGUMENT.match(line):
                argument = found[1]
                open_blocks[-1].arguments[argument] = found[2]
                bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', found[2])
                depth = sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
            else:
                raise AssertionError(f"{path.name}:{number}: not understood: {line}")
        assert open_blocks == [root], f"{path.name}: a block is not closed"
    return root


def everything(block: Block) -> str:
    return "\n".join([*block.arguments.values(), *map(everything, block.blocks)])


def faults(block: Block, schema: dict[str, Any], where: str) -> list[str]:
    """What of a block the schema does not know, and what it asks for that is not there."""
    found, inner, here = [], [], set(block.arguments)
    for child in block.blocks:
        if child.kind == "dynamic":
            inner += [(child.labels[0], content) for content in child.blocks]
        elif child.kind not in META:
            inner.append((child.kind, child))
    found += [f"{where}: no argument {name}" for name in here - META if not isinstance(schema.get(name), str)]
    for name, child in inner:
        here.add(name)
        if isinstance(schema.get(name), dict):
            found += faults(child, schema[name]["block"], f"{where}.{name}")
        else:
            found.append(f"{where}: no block {name}")
    wanted = [name for name, rule in schema.items() if rule == "required" or required(rule)]
    return found + [f"{where}: {name} is missing" for name in wanted if name not in here]


def required(rule: Any) -> bool:
    return isinstance(rule, dict) and bool(rule["required"])


CONFIGURATION = read(FOLDER)
RESOURCES = [block for block in CONFIGURATION.blocks if block.kind == "resource"]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda block: ".".join(block.labels))
def test_every_argument_is_in_the_providers_schema(resource: Block) -> None:
    """Each argument and nested block exists in the pinned provider, and no required one is missing."""
    kind, name = resource.labels
    assert faults(resource, SCHEMA[kind]["arguments"], f"{kind}.{name}") == []


def test_every_reference_leads_somewhere() -> None:
    """Variables, locals and resources that expressions name are declared; attributes are in the schema."""
    text = everything(CONFIGURATION)
    by_kind: dict[str, set[str]] = {}
    for block in CONFIGURATION.blocks:
        if block.kind in ("resource", "ephemeral"):
            by_kind.setdefault(block.labels[0], set()).add(block.labels[1])
    variables = {block.labels[0] for block in CONFIGURATION.blocks if block.kind == "variable"}
    local = {name for block in CONFIGURATION.blocks if block.kind == "locals" for name in block.arguments}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert set(re.findall(r"\blocal\.(\w+)", text)) == local
    for kind, name, _, attribute in re.findall(r"\b((?:google|random)_\w+)\.(\w+)(\[[^]]+\])?(?:\.(\w+))?", text):
        assert name in by_kind.get(kind, set()), f"{kind}.{name} is not declared"
        if attribute and kind in SCHEMA:
            assert attribute in SCHEMA[kind]["attributes"], f"{kind}.{name}.{attribute}"


def test_no_secret_is_written_in_the_configuration() -> None:
    """Secrets are made while Terraform runs and go where neither plan nor state keeps them."""
    for block in RESOURCES:
        if block.labels[0] == "google_secret_manager_secret_version":
            assert "secret_data" not in block.arguments
        if block.labels[0] == "google_sql_user":
            assert "password" not in block.arguments


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.tf")), ids=lambda path: path.name)
def test_the_configuration_is_valid_hcl(path: Path) -> None:
    """A parser of the whole language, independent of the reader above, takes every file."""
    with path.open() as file:
        assert hcl2.load(file)


def formatter() -> list[str]:
    """The command that fails when it would change the files after its words: HashiCorp's own, or Terraform's."""
    names = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if found := shutil.which("hclfmt", path=names):
        return [found, "-require-no-change"]
    for name in ("terraform", "tofu"):
        if found := shutil.which(name):
            return [found, "fmt", "-check"]
    return []


@pytest.mark.skipif(not formatter(), reason="neither hclfmt nor terraform is here: `make test-terraform` brings hclfmt")
def test_the_configuration_is_formatted() -> None:
    """The formatter behind `terraform fmt` would change nothing."""
    for path in sorted(FOLDER.glob("*.tf")):
        done = subprocess.run([*formatter(), path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path.name}: {done.stderr or done.stdout}"
