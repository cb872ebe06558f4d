"""The audit's components on a tiny bundle: what holds, what does not, and that a regression ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl

import components
from dfcore import evaluation
from dfcore.data import CropStore
from dfcore.errors import CheckFailed, ConfigError, ConflictError, DataError
from dfcore.evaluation import detector_digest
from dfcore.models import DetectorCard, DetectorConfig, build_detector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from dfcore.release import (
    Registry,
    build_bundle,
    check_gate,
    ensure_key,
    load_policy,
    read_audits,
    sign_bundle,
)  # fmt: skip
from tests.release.evidence import GOOD, WEAK, write_evaluation
from tests.training.conftest import SIZE, write_store

_POLICY = """
name: {name}
floors:
  - {{scenario: clean, corpus: "{corpus}", metric: auc, at_least: 0.0}}
required_scenarios: {required}
require_valid_guards: false
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, str]:
    """A registry whose production channel serves an untrained detector with fine papers."""
    folder = tmp_path_factory.mktemp("released")
    config = DetectorConfig(backbone="resnet10t", image_size=SIZE)
    detector = build_detector(config)
    card = DetectorCard(
        architecture=config, preprocessing=PreprocessingConfig(image_size=SIZE), threshold=0.5
    )
    save_detector(folder / "model", detector, card)
    evaluated = write_evaluation(folder / "evaluation", GOOD, digest=detector_digest(detector))
    baseline = write_evaluation(folder / "baseline", WEAK)
    check_gate(evaluated, load_policy("demo"), baseline).save(folder / "decision.json")
    (folder / "report.html").write_text("<html></html>")
    ensure_key(folder / "rampart.key")
    build_bundle(
        folder / "bundle", folder / "model", evaluated, folder / "decision.json", folder / "report.html",
        {"scores": [0.1, 0.9]},
    )  # fmt: skip
    sign_bundle(folder / "bundle", folder / "rampart.key")
    registry = Registry(f"file://{folder / 'registry'}")
    version = registry.publish("faces", folder / "bundle", public_key=folder / "rampart.pub")
    registry.promote("faces", version, "production", "ci", "gate passed")
    return registry, version


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    return write_store(tmp_path_factory.mktemp("store") / "crops")


def test_an_audit_is_recorded_and_says_whether_the_policy_holds(
    released: tuple[Registry, str], store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAMPART_REGISTRY", raising=False)
    clean = tuple(one for one in evaluation.SUITES["quick"] if one.name == "clean")
    monkeypatch.setitem(evaluation.SUITES, "clean", clean)  # type: ignore[arg-type]  # a suite of one scenario
    registry, version = released
    corpus = str(store.index["dataset"][0].as_py())

    def audit(name: str, seed: str, required: str = "[]") -> tuple[bool, str, str, str]:
        policy = tmp_path / f"{name}.yaml"
        policy.write_text(_POLICY.format(name=name, corpus=corpus, required=required))
        return components.audit_robustness.python_func(  # type: ignore[no-any-return]  # KFP ships no types
            store=dsl.Dataset(name="store", uri=str(store.path)), registry=registry.uri, name="faces",
            channel="production", evidence=dsl.Artifact(name="evidence", uri=str(tmp_path / name)),
            policy=str(policy), suite="clean", seed=seed,
        )  # fmt: skip

    assert audit("holds", "3")[:3] == (False, "", version)
    regressed, failed, _, name = audit("broken", "", "[pgd20_2_255]")
    assert regressed
    assert failed == "required: pgd20_2_255"
    first, second = read_audits(registry, "faces", version)
    assert (first.seed, first.regressed, second.audit) == (3, False, name)
    assert second.seed == int(f"{second.created:%Y%m%d}"), "a day's date is its seed"
    with pytest.raises(ConflictError, match="another seed"):
        audit("holds", "3")


@pytest.mark.parametrize(
    ("policy", "asked"), [("standard", "ffpp, celebdf, a baseline"), ("demo", "ffpp, celebdf")]
)
def test_a_policy_of_a_release_is_refused_before_the_attacks(
    released: tuple[Registry, str], store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    policy: str, asked: str,
) -> None:  # fmt: skip
    """An audit has one corpus and no baseline: such a policy would say no whatever was found."""
    monkeypatch.delenv("RAMPART_REGISTRY", raising=False)
    corpus = str(store.index["dataset"][0].as_py())
    others = ", ".join(part for part in asked.split(", ") if part != corpus)
    message = f"expected a policy that {corpus} alone can meet, .* {others}; set policy=audit"
    with pytest.raises(ConfigError, match=message):
        components.audit_robustness.python_func(
            store=dsl.Dataset(name="store", uri=str(store.path)), registry=released[0].uri, name="faces",
            channel="production", evidence=dsl.Artifact(name="evidence", uri=str(tmp_path / "out")),
            policy=policy, suite="quick",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert components.audit_robustness.component_spec.inputs["policy"].default == "audit"


def test_nothing_served_is_told(store: CropStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        components.audit_robustness.python_func(
            store=dsl.Dataset(name="store", uri=str(store.path)), registry=f"file://{tmp_path}", name="faces",
            channel="production", evidence=dsl.Artifact(name="evidence", uri=str(tmp_path / "out")),
            suite="quick",
        )  # fmt: skip


def test_a_regression_ends_the_run(tmp_path: Path) -> None:
    note = dsl.Markdown(name="regression", uri=str(tmp_path / "regression.md"))
    with pytest.raises(CheckFailed, match="2 broken rules: floor; age; roll the channel back"):
        components.flag_regression.python_func(
            version="v0001-aaaaaaaa", audit="2026-11-21-seed7", failed="floor,age", regression=note
        )
    assert "- age" in (tmp_path / "regression.md").read_text()
