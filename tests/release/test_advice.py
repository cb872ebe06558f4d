from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.release import Decision, GatePolicy, Rule, advise, check_gate, load_policy
from tests.release.evidence import GOOD, WEAK, write_evaluation

DEMO = load_policy("demo")


def _advice(decision: Decision, rule: str) -> str:
    return next(text for text in advise(decision) if text.startswith(rule))


def test_a_promoted_candidate_needs_nothing(tmp_path: Path) -> None:
    good, weak = write_evaluation(tmp_path / "good", GOOD), write_evaluation(tmp_path / "weak", WEAK)
    assert advise(check_gate(good, DEMO, weak)) == []


def test_a_floor_says_by_how_much_and_what_helps(tmp_path: Path) -> None:
    decision = check_gate(write_evaluation(tmp_path / "weak", WEAK), DEMO)
    rule = decision.failed[0]
    text = _advice(decision, "floor: auc of pgd20_2_255 on ffpp")
    assert rule.value is not None
    assert f"rise by {0.7 - rule.value:.3f} to 0.7" in text
    assert "adversarial training" in text


def test_a_wide_interval_asks_for_videos(tmp_path: Path) -> None:
    good = write_evaluation(tmp_path / "good", GOOD)

    def floor(at_least: float) -> GatePolicy:
        asked = {"scenario": "clean", "corpus": "ffpp", "at_least": at_least, "bound": "low"}
        return GatePolicy.parse({"name": "x", "floors": [asked]})

    passed = next(rule for rule in check_gate(good, floor(0)).rules if rule.name.startswith("floor"))
    assert passed.value is not None
    decision = check_gate(good, floor(passed.value))
    assert "more videos" in _advice(decision, "floor")


def test_comparisons_name_the_other_side(tmp_path: Path) -> None:
    good = write_evaluation(tmp_path / "good", GOOD)
    better = write_evaluation(tmp_path / "better", {**GOOD, "pgd20_2_255": 6.0, "clean": 6.0})
    against = check_gate(good, DEMO, better)
    assert "below the baseline" in _advice(against, "improvement")
    policy = GatePolicy.parse(
        {**DEMO.model_dump(), "regressions": [{"scenario": "clean", "corpus": "ffpp", "at_least": 0.0}]}
    )
    served = check_gate(good, policy, current=better)
    assert "below what is served now" in _advice(served, "regression: auc of clean")
    even = check_gate(good, policy.model_copy(update={"regressions": ()}), baseline=good)
    assert "has to begin at 0.2" in _advice(even, "improvement")


def test_what_could_not_be_judged(tmp_path: Path) -> None:
    good = write_evaluation(tmp_path / "good", GOOD)
    asks = {"require_baseline": True, "required_scenarios": ["square"], "max_age_days": 1e-9}
    floors = [{"scenario": "square", "corpus": "ffpp", "at_least": 0.5}]
    texts = advise(check_gate(good, GatePolicy.parse({"name": "x", "floors": floors, **asks})))
    for part in ("days old", "suite that has it", "undefended detector", "could not be judged"):
        assert any(part in text for text in texts), part
    assert "could not be judged" in advise(check_gate(tmp_path / "none", DEMO))[0]


@pytest.mark.parametrize("name", ["evidence: guards", "baseline evidence: guards"])
def test_a_tripped_guard_is_no_matter_of_figures(name: str) -> None:
    rule = Rule(name=name, passed=False, detail="failed: finite_scores (2 logits are not finite)")
    decision = Decision(promoted=False, policy="x", rules=(rule,), created="2026-01-01T00:00:00")
    assert "can't be believed" in advise(decision)[0]


def test_a_difference_that_chance_explains() -> None:
    rule = Rule(
        name="improvement: auc of pgd20_2_255 on ffpp", passed=False, value=0.3, low=0.1, high=0.5, bound=0.2
    )
    decision = Decision(promoted=False, policy="x", rules=(rule,), created="2026-01-01T00:00:00")
    assert "chance could explain it" in advise(decision)[0]
