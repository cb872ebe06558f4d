from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from dfcore.config import Config, Epsilon, format_epsilon, parse_epsilon, read_yaml, suggest
from dfcore.errors import ConfigError


class Inner(Config):
    epsilon: Epsilon = 8 / 255
    steps: int = Field(default=10, ge=1)


class First(Config):
    kind: Literal["first"] = "first"
    width: int = 1


class Second(Config):
    kind: Literal["second"] = "second"
    depth: int = 1


class Outer(Config):
    name: str
    attack: Inner = Inner()
    other: Inner | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    player: First | Second = Field(default=First(), discriminator="kind")


@given(st.integers(min_value=0, max_value=2550))
def test_a_budget_survives_being_written(tenths: int) -> None:
    value = tenths / 10 / 255
    assert parse_epsilon(format_epsilon(value)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (0, 0.0), ("0.5/255", 0.5 / 255)]
)
def test_budgets_are_read(text: object, value: float) -> None:
    assert parse_epsilon(text) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("value", ["x", None, "1/0", [], "", "1/", "1e400"])
def test_what_is_no_budget_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected an epsilon such as 8/255"):
        parse_epsilon(value)


@pytest.mark.parametrize("value", [8, -0.1, float("nan"), float("inf")])
def test_a_budget_outside_the_box_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"pixel units of \[0, 1\]"):
        parse_epsilon(value)


def test_json_holds_the_fraction_and_reads_back() -> None:
    config = Outer(name="x", attack=Inner(epsilon=2 / 255))
    text = config.model_dump_json()
    assert json.loads(text)["attack"]["epsilon"] == "2/255"
    assert Outer.model_validate_json(text) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "atack": {}}, "unknown key 'atack'; did you mean 'attack'"),
        ({"name": "x", "attack": {"epsilom": 1}}, "unknown key 'attack.epsilom'; did you mean 'epsilon'"),
        ({"name": "x", "other": {"stepps": 1}}, "unknown key 'other.stepps'; did you mean 'steps'"),
        ({"name": "x", "zzz": 1}, "unknown key 'zzz'; known: "),
        ({"name": 1, "attack": {"steps": 0}}, "name: .*; attack.steps: "),
        ({"name": "x", "attack": {"epsilon": "8"}}, "write 8/255 if you mean 8 grey levels"),
    ],
)
def test_problems_are_named(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Outer.parse(data)


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").name = "y"  # type: ignore[misc]  # that it fails is the point


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nattack: {epsilon: 4/255}\n")
    assert Outer.from_yaml(path).attack.epsilon == 4 / 255


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not valid YAML"), (b"\xff\xfe\x00", "is not valid YAML"), (b"[1]", "x.yaml: ")],
)
def test_broken_yaml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Outer.from_yaml(tmp_path / "x.yaml")


def test_a_secret_file_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("alice: [s3cret")
    with pytest.raises(ConfigError, match="expected YAML of tokens at") as failure:
        read_yaml(tmp_path / "x.yaml", "tokens", secret=True)
    assert "s3cret" not in "".join(traceback.format_exception(failure.value))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a YAML file at"):
        Outer.from_yaml(tmp_path / "none.yaml")


def test_overrides() -> None:
    config = Outer(name="x").override(["attack.epsilon=4/255", "attack.steps=3", "name=y=z"])
    assert (config.attack.epsilon, config.attack.steps, config.name) == (4 / 255, 3, "y=z")
    other = config.override(["player={kind: second, depth: 2}", "player.kind=second", "player.depth=3"])
    assert other.player == Second(depth=3)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("attack.steps", "expected key=value"),
        ("attack.stepps=1", "unknown key 'attack.stepps'; did you mean 'steps'"),
        ("atack.steps=1", "did you mean 'attack'"),
        ("name.first=1", "unknown key 'name.first', as name is 'x' and has no keys"),
        ("other.steps=1", r"'other.steps', as other is null; set it whole: --set 'other=\{steps: …\}'"),
        ("weights.a=1", r"as weights is empty; set it whole: --set 'weights=\{a: …\}'"),
        ("player.kind=second", r"settings of 'first'; use --set 'player=\{kind: second, …\}'"),
        ("attack.steps=many", "attack.steps: "),
        ("attack.steps=[", "is not valid YAML"),
    ],
)
def test_overrides_that_do_not_fit(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Outer(name="x").override([assignment])


def test_suggestions() -> None:
    assert suggest("pgdd", ["pgd", "fgsm"]) == "; did you mean 'pgd'?"
    assert suggest("zzz", ["pgd", "fgsm"]) == "; known: fgsm, pgd"
