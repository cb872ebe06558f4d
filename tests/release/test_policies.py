"""The policies that ship ask for figures that a suite measures."""

from __future__ import annotations

import pytest

from dfcore.evaluation import SUITES
from dfcore.release import load_policy


def _figures(suite: str) -> list[str]:
    return [scenario.name for scenario in SUITES[suite] if scenario.role == "report"]


@pytest.mark.parametrize(
    ("policy", "suite"),
    [("audit", "quick"), ("demo", "quick"), ("standard", "standard"), ("strict", "full")],
)
def test_a_policy_asks_for_what_its_suite_has(policy: str, suite: str) -> None:
    found = load_policy(policy)
    rules = (*found.floors, *found.worst_slice, *found.improvements, *found.regressions)
    assert {rule.scenario for rule in rules} <= set(found.required_scenarios) <= set(_figures(suite))


@pytest.mark.parametrize(("policy", "suite"), [("standard", "standard"), ("strict", "full")])
def test_a_release_needs_every_figure_of_its_suite(policy: str, suite: str) -> None:
    found = load_policy(policy)
    assert list(found.required_scenarios) == _figures(suite)
    assert found.worst_slice
    assert found.require_baseline


def test_an_audit_asks_for_no_corpus_and_no_more_than_a_release() -> None:
    audit, standard = load_policy("audit"), load_policy("standard")
    assert {rule.corpus for rule in (*audit.floors, *audit.worst_slice, *audit.regressions)} == {"*"}
    assert not audit.required_corpora
    assert not audit.require_baseline
    for floor in audit.floors:
        asked = [rule.at_least for rule in standard.floors if rule.scenario == floor.scenario]
        assert floor.at_least <= min(asked)


def test_strict_is_stricter() -> None:
    """Each bound of standard is at least as high in strict."""
    standard, strict = load_policy("standard"), load_policy("strict")
    for kind in ("floors", "worst_slice", "improvements", "regressions"):
        bounds = {(rule.scenario, rule.corpus, rule.metric): rule.at_least for rule in getattr(strict, kind)}
        for rule in getattr(standard, kind):
            same = (rule.scenario, rule.corpus, rule.metric)
            everywhere = bounds.get((rule.scenario, "*", rule.metric), -1.0)
            assert max(bounds.get(same, -1.0), everywhere) >= rule.at_least, (kind, same)
