"""What Dockerfile.gpu promises, read from the file itself: pins, layers, rights, health."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("train", "serve", "torchserve")
Instruction = tuple[str, str]


def _stages() -> dict[str, tuple[str, list[Instruction]]]:
    """Return each stage's parent and its instructions."""
    text = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, tuple[str, list[Instruction]]] = {"": ("", [])}
    name = ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            stages[name] = (parent, [])
        else:
            stages[name][1].append((word, rest))
    return stages


STAGES = _stages()


def _of(stage: str, word: str) -> list[str]:
    return [rest for found, rest in STAGES[stage][1] if found == word]


def _lineage(stage: str) -> list[str]:
    parent = STAGES[stage][0]
    return [stage, *(_lineage(parent) if parent in STAGES else [])]


def test_the_base_is_given_from_outside() -> None:
    assert STAGES["base"][0] == "${BASE}"
    assert any(rest.startswith("BASE=") for rest in _of("", "ARG"))
    foreign = {name: parent for name, (parent, _) in STAGES.items() if name and parent not in STAGES}
    assert foreign == {"base": "${BASE}"}


@pytest.mark.parametrize("stage", RESULTS)
def test_a_result_has_no_rights_and_no_tools(stage: str) -> None:
    assert _lineage(stage) == [stage, "base"], "the installer's stage is no parent of a result"
    assert _of(stage, "USER") == ["65532:65532"]
    assert STAGES[stage][1][-1][0] in {"CMD", "ENTRYPOINT"}
    words = [word for word, _ in STAGES[stage][1]]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in {"RUN", "COPY"})
    commands = " ".join(rest for name in _lineage(stage) for rest in _of(name, "RUN"))
    for forbidden in ("apt-get", "gcc", "build-essential", "curl ", "sudo", "chmod 777"):
        assert forbidden not in commands
    labels = " ".join(_of(stage, "LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert len(_of(stage, "HEALTHCHECK")) == 1
    environment = " ".join(_of(stage, "ENV"))
    assert "HOME=/tmp" in environment
    assert "RAMPART_CACHE=/tmp" in environment


def test_every_package_is_pinned_and_a_wheel() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for stage, (_, instructions) in STAGES.items():
        for word, rest in instructions:
            if word == "RUN" and "uv pip install" in rest:
                assert "--constraints constraints.txt" in rest, stage
            if word == "ADD":
                pytest.fail(f"{stage} adds {rest}; copy it")
    assert "UV_NO_BUILD=1" in " ".join(_of("installer", "ENV"))
    assert re.search(r"^uv==", pins, re.MULTILINE)


@pytest.mark.parametrize("stage", ["train-dependencies", "serve-dependencies", "torchserve-dependencies"])
def test_code_is_no_part_of_the_dependencies_layers(stage: str) -> None:
    copied = {rest.split()[0] for name in _lineage(stage) for rest in _of(name, "COPY")}
    assert copied == {"constraints.txt", "pyproject.toml"}


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    used = {
        extra for name in STAGES for rest in _of(name, "RUN") for extra in re.findall(r"--extra (\S+)", rest)
    }  # fmt: skip
    assert used == {"pipelines", "provision", "referee", "rollout", "serving", "torchserve"}
    assert used <= project["optional-dependencies"].keys()
    version = project["version"]
    for stage in RESULTS:
        assert f"VERSION={version}" in _of(stage, "ARG")


def test_every_package_of_the_project_reaches_the_builder_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[1] == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {pattern.rstrip("*") for pattern in packages["packages"]["find"]["include"]}
    assert allowed == folders | {"Dockerfile.gpu", "README.md", "constraints.txt", "pyproject.toml"}
    copied = {rest.split()[0] for name in STAGES for rest in _of(name, "COPY") if "--from" not in rest}
    assert copied == allowed - {"Dockerfile.gpu"}
    assert not [name for name in copied if fnmatch.fnmatch(name, "*.egg-info")]


def test_each_image_has_a_budget() -> None:
    text = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    for stage in RESULTS:
        assert re.search(rf"^\| `{stage}`.*\d GB \|$", text, re.MULTILINE)
