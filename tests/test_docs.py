"""What the pages say exists: commands with these options, values of chart and pipelines, links, names.

Their examples run.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dfcore.attacks import ATTACKS
from pipelines.platform import load_platform

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = re.compile(r"^ {4,}(?:\w+=\S+ )*(rampart .*)$", re.MULTILINE)
# not a part of a path or of a longer name, and no file (serving.md) or domain (serving.kserve.io)
_NAME = re.compile(
    r"(?<![\w./-])(?:dfcore|serving|rollout|benchmarks)(?:\.(?!(?:md|json|yaml|io|NAME)\b)\w+)+(?![\w-]*\.io)"
)
_ELSEWHERE = {"adding-a-defence", "adding-an-attack", "explanations"}  # run beside what they explain
_EXAMPLES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
_ENDS = re.compile(r"\s(?:[|&#]|…)|;")  # of a command in a line, or of what a page leaves out


def _commands(text: str) -> Iterator[list[str]]:
    text = re.sub(r"\\\n\s*", " ", text)
    for line in _COMMAND.findall(text):
        yield shlex.split(_ENDS.split(line)[0].replace("[", "").replace("]", ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_exist(page: Path) -> None:
    known = json.loads((ROOT / "tests" / "command_line.json").read_text(encoding="utf-8"))
    for words in _commands(page.read_text(encoding="utf-8")):
        name = next((" ".join(words[:end]) for end in (3, 2) if " ".join(words[:end]) in known), None)
        assert name, f"no such command: {' '.join(words)}"
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--help"}
        # a switch's "off" is listed by its "on"
        assert {option.replace("--no-", "--") for option in options} <= set(known[name]), " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_values_are_valid(page: Path, tmp_path: Path) -> None:
    """Blocks of YAML are the chart's values; their `pipelines:` is the pipelines' own."""
    schema = json.loads((ROOT / "charts" / "rampart" / "values.schema.json").read_text(encoding="utf-8"))
    for block in re.findall(
        r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        values = yaml.safe_load(block.replace("sha256:…", f"sha256:{'0' * 64}"))
        jsonschema.validate(values, schema)
        if "pipelines" in values:
            (tmp_path / "values.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
            load_platform(tmp_path / "values.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_exist(page: Path) -> None:
    """A dotted name is a module, something in one, or a value of the chart."""
    schema = json.loads((ROOT / "charts" / "rampart" / "values.schema.json").read_text(encoding="utf-8"))
    for name in _NAME.findall(page.read_text(encoding="utf-8")):
        assert _is_value(schema, schema, name.split(".")) or _is_module(name.split(".")), name


def _is_value(schema: Any, node: Any, parts: list[str]) -> bool:
    if not parts:
        return True
    if "$ref" in node:
        node = reduce(lambda found, key: found[key], node["$ref"].removeprefix("#/").split("/"), schema)
    if parts[0] in node.get("properties", {}):
        return _is_value(schema, node["properties"][parts[0]], parts[1:])
    # free keys, as a pod's resources have them
    return node.get("additionalProperties", False) is not False


def _is_module(parts: list[str]) -> bool:
    with suppress(ModuleNotFoundError):  # what holds it is no package
        if importlib.util.find_spec(".".join(parts)) is not None:
            return True
    with suppress(ModuleNotFoundError):
        return hasattr(importlib.import_module(".".join(parts[:-1])), parts[-1])
    return False


@pytest.mark.parametrize(
    "page", [page for page in _EXAMPLES if page.stem not in _ELSEWHERE], ids=lambda page: page.name
)
def test_the_examples_run(page: Path) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102  # our own text


def test_every_attack_has_its_line_or_section() -> None:
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    found = re.findall(r"^(?:\| |#.*\()`([\w-]+)`(?: \||\)$)", text, re.MULTILINE)
    assert set(ATTACKS) <= set(found)


def test_the_costs_of_blur_and_flow_are_the_record() -> None:
    record = ROOT / "benchmarks" / "results" / "blur_flow_cost.json"
    detectors = json.loads(record.read_text(encoding="utf-8"))["detectors"]
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    found = re.findall(r"([\d.]+) pairs a step \((?:folded: )?([\d.]+)", text)
    plain, folded = detectors["plain"]["pairs"], detectors["folded"]["pairs"]
    assert found == [(f"{plain[kind]:.2f}", f"{folded[kind]:.2f}") for kind in ("blur", "flow")]


def test_every_page_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"^    docs/ +(.*?)$(?!\n {8})", text, re.DOTALL | re.MULTILINE)
    assert listed
    known = {re.sub(r"\W+", "-", name.strip()) for name in re.split(r"[,;]", listed[1])}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= known
