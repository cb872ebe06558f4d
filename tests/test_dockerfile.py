"""What Dockerfile.gpu promises, read from the file itself: pins, layers, rights, health."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest

from serving.torchserve.__main__ import _parser

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
    assert _lineage(stage) == [stage, "torch", "base"], "the installer's stage is no parent of a result"
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
    commands = [(name, rest) for name, (_, given) in STAGES.items() for word, rest in given if word == "RUN"]
    (wheels,) = (rest for _, rest in commands if "uv pip install" in rest and "/wheels/" not in rest)
    assert "--no-build " in wheels
    assert "--constraints constraints.txt" in wheels
    for stage, rest in commands:
        if re.search(r"\bpip (install|wheel)\b", rest) and stage != "code":
            assert stage == "installer", rest
    for name in ("uv", "setuptools", "wheel", "torch", "torchvision", "triton"):
        assert re.search(rf"^{name}==", pins, re.MULTILINE), name
    assert not [rest for _, given in STAGES.values() for word, rest in given if word == "ADD"]


def test_the_layer_of_torch_depends_on_its_own_pins() -> None:
    assert _of("torch", "COPY") == ["--from=installer /opt/torch ./"]
    (made,) = (rest for rest in _of("installer", "RUN") if "/opt/torch" in rest)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    chosen = re.findall(r"grep -E '(\^[^']+)'", made)
    found = {line for pattern in chosen for line in pins.splitlines() if re.search(pattern, line)}
    assert {line.partition("==")[0] for line in found} >= {"torch", "torchvision", "triton", "nvidia-cublas"}
    others = [line for line in pins.splitlines() if re.match("nvidia|cuda|triton", line)]
    assert set(others) <= found


@pytest.mark.parametrize("stage", RESULTS)
def test_code_comes_last_and_is_no_part_of_the_dependencies_layers(stage: str) -> None:
    steps = [(word, rest) for word, rest in STAGES[stage][1] if word in {"COPY", "RUN"}]
    assert [word for word, _ in steps] == ["COPY", "RUN", "COPY"]
    assert steps[0][1] == "constraints.txt pyproject.toml ./"
    assert steps[2][1] == "--from=code /opt/rampart /opt/rampart"


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
    copied = {
        source for name in STAGES for rest in _of(name, "COPY") if "--from" not in rest
        for source in rest.split()[:-1]
    }  # fmt: skip
    assert copied == allowed - {"Dockerfile.gpu"}
    assert not [name for name in copied if fnmatch.fnmatch(name, "*.egg-info")]


def test_the_health_commands_exist() -> None:
    command = json.loads(_of("torchserve", "HEALTHCHECK")[0].partition(" CMD ")[2])
    assert command[:3] == ["python3", "-m", "serving.torchserve"]
    assert _parser().parse_args(command[3:]).verb == "ready"
    assert "/v2/health/live" in _of("serve", "HEALTHCHECK")[0]


def test_each_image_has_a_budget() -> None:
    text = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    for stage in RESULTS:
        assert re.search(rf"^\| `{stage}`.*\d GB \|$", text, re.MULTILINE)
