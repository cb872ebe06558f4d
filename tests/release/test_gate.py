from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dfcore.errors import ConfigError
from dfcore.provenance import sha256_file
from dfcore.release import Decision, GatePolicy, Rule, check_gate, load_policy
from tests.release.evidence import GOOD, WEAK, edit, write_evaluation

DEMO, AUDIT = load_policy("demo"), load_policy("audit")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "good", GOOD)


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "weak", WEAK)


def _failed(decision: Decision) -> list[str]:
    return [rule.name for rule in decision.failed]


def _rule(decision: Decision, name: str) -> Rule:
    return next(rule for rule in decision.rules if rule.name.startswith(name))


def test_lets_the_robust_one_through(good: Path, weak: Path) -> None:
    decision = check_gate(good, DEMO, weak)
    assert decision.promoted, _failed(decision)
    gain = _rule(decision, "improvement: auc of pgd20_2_255 on ffpp")
    assert gain.applied
    assert gain.low is not None
    assert gain.value is not None
    assert gain.high is not None
    assert 0.2 <= gain.low < gain.value < gain.high
    assert not _rule(decision, "regression").applied


def test_stops_the_baseline_on_its_robust_floor(weak: Path) -> None:
    decision = check_gate(weak, DEMO)
    assert not decision.promoted
    assert _failed(decision) == ["floor: auc of pgd20_2_255 on ffpp"]
    assert "asked for at least 0.7" in decision.failed[0].detail
    improvement = _rule(decision, "improvement")
    assert improvement.passed
    assert not improvement.applied
    assert "no baseline" in improvement.detail


def test_an_improvement_that_chance_could_explain_fails(good: Path, tmp_path: Path) -> None:
    rival = write_evaluation(tmp_path / "rival", {**GOOD, "pgd20_2_255": 1.9})
    decision = check_gate(good, DEMO, rival)
    assert _failed(decision) == ["improvement: auc of pgd20_2_255 on ffpp"]


def test_a_regression_against_what_is_served_fails(good: Path, tmp_path: Path) -> None:
    served = write_evaluation(tmp_path / "served", {**GOOD, "pgd20_2_255": 6.0, "clean": 6.0})
    policy = GatePolicy.parse(
        {
            **DEMO.model_dump(),
            "regressions": [{"scenario": "pgd20_2_255", "corpus": "ffpp", "at_least": -0.01}],
        }
    )
    assert _failed(check_gate(good, policy, current=served)) == ["regression: auc of pgd20_2_255 on ffpp"]
    assert check_gate(good, policy, current=good).promoted


def test_missing_evidence_is_a_no(tmp_path: Path, good: Path) -> None:
    decision = check_gate(tmp_path / "none", DEMO)
    assert not decision.promoted
    assert "run the evaluation first" in decision.rules[0].detail
    assert not check_gate(good, DEMO, tmp_path / "none").promoted
    assert not check_gate(good, DEMO, current=tmp_path / "none").promoted


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"valid": False}, "evidence: guards"),
        ({"guards": []}, "evidence: guards"),
        ({"guards": [{"name": "noise", "passed": False, "detail": "fell"}]}, "evidence: guards"),
        ({"created": "2020-01-01T00:00:00+00:00"}, "evidence: age"),
        ({"created": "2199-01-01T00:00:00+00:00"}, "evidence: age"),
        ({"results": []}, "floor: auc of clean on ffpp"),
        ({"results": None}, "evidence"),
        ({"created": None}, "evidence"),
        ({"valid": None}, "evidence"),
    ],
)
def test_broken_evidence_is_a_no(good: Path, change: dict[str, Any], failed: str) -> None:
    decision = check_gate(edit(good, **change), DEMO)
    assert not decision.promoted
    assert failed in _failed(decision)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"valid": NaN}'])
def test_what_is_no_evidence_is_a_no(good: Path, content: str) -> None:
    (good / "evidence.json").write_text(content)
    decision = check_gate(good, DEMO)
    assert _failed(decision) == ["evidence"]
    assert "is no evidence" in decision.rules[0].detail


@pytest.mark.parametrize("number", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["value", "low", "high"])
def test_a_figure_that_is_no_number_is_a_no(good: Path, key: str, number: float | None) -> None:
    results = json.loads((good / "evidence.json").read_text())["results"]
    for result in results:
        result["metrics"]["auc"][key] = number
    assert not check_gate(edit(good, results=results), DEMO).promoted


@pytest.mark.parametrize("scenario", DEMO.required_scenarios)
def test_each_required_scenario_is_required_on_each_corpus(good: Path, scenario: str) -> None:
    results = json.loads((good / "evidence.json").read_text())["results"]
    kept = [item for item in results if (item["scenario"], item["corpus"]) != (scenario, "celebdf")]
    decision = check_gate(edit(good, results=kept), DEMO)
    assert f"required: {scenario}" in _failed(decision)
    assert "missing or empty on celebdf" in _rule(decision, f"required: {scenario}").detail


def test_a_result_given_twice_is_a_no(good: Path) -> None:
    results = json.loads((good / "evidence.json").read_text())["results"]
    assert not check_gate(edit(good, results=results + results), DEMO).promoted


@pytest.mark.parametrize("which", ["good", "weak"])
def test_scores_that_are_not_the_evidence_s_are_a_no(good: Path, weak: Path, which: str) -> None:
    path = {"good": good, "weak": weak}[which] / "samples.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    decision = check_gate(good, DEMO, weak)
    assert _failed(decision) == ["improvement: auc of pgd20_2_255 on ffpp"]
    assert "does not hold the scores that the evidence was made from" in decision.failed[0].detail
    path.unlink()
    assert "found none" in check_gate(good, DEMO, weak).failed[0].detail


def test_scores_of_other_crops_are_a_no(good: Path, weak: Path) -> None:
    path = weak / "samples.parquet"
    pq.write_table(pq.read_table(path).slice(2), path)
    edit(weak, samples_digest=sha256_file(path), corpora={"ffpp": "c" * 64, "celebdf": "b" * 64})
    assert "expected the same crops of ffpp" in check_gate(good, DEMO, weak).failed[0].detail


def test_another_attack_is_not_compared(good: Path, weak: Path) -> None:
    results = json.loads((weak / "evidence.json").read_text())["results"]
    for result in results:
        result["threat_model"] = {**result["threat_model"], "steps": 100}
    assert (
        "expected the same threat model"
        in check_gate(good, DEMO, edit(weak, results=results)).failed[0].detail
    )


def test_a_baseline_with_broken_guards_proves_nothing(good: Path, weak: Path) -> None:
    assert _failed(check_gate(good, DEMO, edit(weak, valid=False))) == ["baseline evidence: guards"]


def test_age_is_measured_at_the_given_time(good: Path) -> None:
    assert check_gate(good, DEMO, now=datetime.now(UTC) + timedelta(days=29)).promoted
    assert not check_gate(good, DEMO, now=datetime.now(UTC) + timedelta(days=31)).promoted


def test_worst_slice_star_and_required_baseline(good: Path) -> None:
    floors = [{"scenario": "clean", "corpus": "*", "at_least": 0.5, "bound": "low"}]
    worst = [{"scenario": "clean", "corpus": "ffpp", "at_least": 0.5}]
    data: dict[str, Any] = {"name": "x", "floors": floors, "worst_slice": worst}
    decision = check_gate(good, GatePolicy.parse(data))
    assert decision.promoted
    names = [rule.name for rule in decision.rules]
    assert {"floor: auc of clean on ffpp", "floor: auc of clean on celebdf"} <= set(names)
    worst[0]["at_least"] = 0.9999
    assert _failed(check_gate(good, GatePolicy.parse(data))) == ["worst slice: auc of clean on ffpp"]
    results = json.loads((good / "evidence.json").read_text())["results"]
    edit(good, results=[item for item in results if item["slice"] == "all"])
    assert "got none" in check_gate(good, GatePolicy.parse(data)).failed[0].detail
    assert "baseline" in _failed(check_gate(good, GatePolicy.parse(data | {"require_baseline": True})))


def test_a_rule_without_a_corpus_is_about_each(good: Path, weak: Path) -> None:
    rule = {"scenario": "clean", "at_least": 0.0}
    kinds = ("floors", "worst_slice", "improvements", "regressions")
    policy = GatePolicy.parse({"name": "x", **{kind: [rule] for kind in kinds}})
    decision = check_gate(good, policy, baseline=weak, current=weak)
    for kind in ("floor", "worst slice", "improvement", "regression"):
        for corpus in ("ffpp", "celebdf"):
            found = _rule(decision, f"{kind}: auc of clean on {corpus}")
            assert (found.passed, found.applied) == (True, True)
    empty = check_gate(edit(good, results=[]), policy)
    assert {rule.name.partition(":")[0] for rule in empty.failed} == {"floor", "worst slice"}


def test_an_audit_holds_a_fresh_corpus_against_its_floors(good: Path, tmp_path: Path) -> None:
    fresh = write_evaluation(tmp_path / "fresh", GOOD, corpora=["fresh"])
    decision = check_gate(fresh, AUDIT, current=good)
    assert decision.promoted, _failed(decision)
    compared = [rule for rule in decision.rules if rule.name.startswith("regression")]
    assert len(compared) == len(AUDIT.regressions)
    assert not any(rule.applied for rule in compared)
    assert "not applicable: expected one result of clean on fresh" in compared[0].detail
    fooled = write_evaluation(tmp_path / "fooled", WEAK, corpora=["fresh"])
    assert _failed(check_gate(fooled, AUDIT, current=good)) == ["floor: auc of pgd20_2_255 on fresh"]


def test_an_audit_on_the_crops_of_the_release_may_lose_nothing(good: Path, tmp_path: Path) -> None:
    again = write_evaluation(tmp_path / "again", GOOD, corpora=["ffpp"])
    decision = check_gate(again, AUDIT, current=good)
    assert decision.promoted, _failed(decision)
    assert _rule(decision, "regression: auc of clean on ffpp").value == 0
    lost = write_evaluation(tmp_path / "lost", {**GOOD, "h264": 0.0}, corpora=["ffpp"])
    assert _failed(check_gate(lost, AUDIT, current=good)) == ["regression: auc of h264 on ffpp"]
    (good / "samples.parquet").unlink()  # could be compared, and can't: that is no excuse
    assert len(check_gate(again, AUDIT, current=good).failed) == len(AUDIT.regressions)


def test_only_a_rule_that_says_so_lets_another_attack_pass(good: Path, tmp_path: Path) -> None:
    again = write_evaluation(tmp_path / "again", GOOD, corpora=["ffpp"])
    results = json.loads((again / "evidence.json").read_text())["results"]
    for result in results:
        result["threat_model"] = {**result["threat_model"], "steps": 100}
    edit(again, results=results)
    assert check_gate(again, AUDIT, current=good).promoted
    rules = [rule.model_copy(update={"if_comparable": False}) for rule in AUDIT.regressions]
    strict = AUDIT.model_copy(update={"regressions": tuple(rules)})
    assert "expected the same threat model" in check_gate(again, strict, current=good).failed[0].detail
    edit(again, results=[item for item in results if item["scenario"] != "h264"])
    failed = _failed(check_gate(again, AUDIT, current=good))
    assert failed == ["required: h264", "regression: auc of h264 on ffpp"], "what we lack is no obstacle"


def test_a_decision_survives_the_disk_and_can_t_contradict_itself(
    good: Path, weak: Path, tmp_path: Path
) -> None:
    path = tmp_path / "decision.json"
    decision = check_gate(weak, DEMO)
    decision.save(path)
    assert Decision.load(path) == decision
    path.write_text(json.dumps(json.loads(path.read_text()) | {"promoted": True}))
    with pytest.raises(ConfigError, match="says promoted, but its rules do not"):
        Decision.load(path)


def test_policies() -> None:
    for name in ("audit", "demo", "standard", "strict"):
        assert load_policy(name).name == name
    with pytest.raises(ConfigError, match="unknown policy 'demmo'; did you mean 'demo'"):
        load_policy("demmo")
    with pytest.raises(ConfigError, match="expected at least one floor"):
        GatePolicy.parse({"name": "empty"})
    with pytest.raises(ConfigError, match="finite number"):
        GatePolicy.parse(
            {"name": "x", "floors": [{"scenario": "a", "corpus": "b", "at_least": float("nan")}]}
        )


def test_a_policy_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nfloors: [{scenario: clean, corpus: ffpp, at_least: 0.9}]\n")
    assert load_policy(path).floors[0].at_least == 0.9
    path.write_text("name: mine\nfloor: []\n")
    with pytest.raises(ConfigError, match="unknown key 'floor'; did you mean 'floors'"):
        load_policy(path)
