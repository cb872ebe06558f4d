"""Guards on the attacks: does each search as hard as it says, and do those of other kinds agree?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dfcore.attacks import FGSM, LearnedAttack, RandomNoise, Transfer, Universal
from dfcore.evaluation.evidence import GuardResult
from dfcore.evaluation.metrics import auc, scores_from_logits
from dfcore.evaluation.outcomes import CorpusRun, Logits, Outcome
from dfcore.evaluation.referee import Referee

__all__ = [
    "accuracy_of",
    "auc_of",
    "black_box_beats_noise",
    "broken_at_large_epsilon",
    "guard_result",
    "iterative_beats_single_step",
    "more_restarts_help_attacker",
    "more_steps_help_attacker",
    "pairs_of",
    "robust_accuracy_falls",
    "searches_do_harm",
    "unseen_attack_agrees",
    "white_box_beats_black_box",
    "white_box_beats_noise",
]

_SAME_MARGIN = 1e-3
_ACCURACY_NOISE = 0.05
_NEAR_ZERO = 0.05
_LARGE = 32 / 255
_REFERENCE = "pgd"  # what the others are compared with
_UNSEEN = "square"  # no defence trains on what asks only for scores
_ITERATIVE = ("pgd", "bim", "apgd")

Rows = NDArray[np.int64]


def guard_result(
    run: CorpusRun, name: str, value: float, bound: str, passed: bool, detail: str
) -> GuardResult:
    """Return a guard's record on one corpus."""
    # a value that is no number can't be written as JSON; the detail and the failure say it
    kept = round(value, 9) if math.isfinite(value) else None
    return GuardResult(name=name, corpus=run.name, passed=passed, value=kept, bound=bound, detail=detail)


def accuracy_of(run: CorpusRun, logits: Logits, indices: Rows) -> float:
    """Return the share of right decisions at the deployed threshold."""
    called = scores_from_logits(logits) >= run.threshold
    return float((called == (run.crops.labels[indices] == 1)).mean())


def auc_of(run: CorpusRun, logits: Logits, indices: Rows) -> float:
    """Return the AUC, or NaN where it is not defined."""
    labels = run.crops.labels[indices]
    if len(np.unique(labels)) < 2 or not bool(np.isfinite(logits).all()):
        return math.nan
    return auc(scores_from_logits(logits), labels)


def pairs_of(run: CorpusRun, kind: str) -> list[tuple[Outcome, Outcome]]:
    """Pair every PGD figure with the other kind's of the same norm and budget, smaller budgets first."""
    return [
        (reference, other)
        for reference in _of_kind(run, _REFERENCE, "report")
        for other in _of_kind(run, kind)
        if reference.scenario.epsilon == other.scenario.epsilon
        and reference.scenario.threat_model(0).norm == other.scenario.threat_model(0).norm
    ]


def searches_do_harm(run: CorpusRun) -> GuardResult | None:
    """Every attack of ours changes pixels, and each that looks for the worst point raises the mean margin."""
    weakest: tuple[float, str] | None = None
    for outcome in _attacks(run):
        rows = _own_rows(outcome)
        # a library that leaves alone what is wrong already is no fault of ours
        if not len(rows) or isinstance(outcome.scenario.attack, Referee):
            continue
        places = np.searchsorted(outcome.indices, rows)
        moved = float((outcome.size[places] > 0).mean())
        found = (moved - 0.5, f"{outcome.scenario.name} changes {moved:.0%} of its crops")
        if _must_harm(outcome):
            change = run.margin(outcome.own[places], rows) - run.margin(run.clean.logits[rows], rows)
            rise = float(change.mean())
            found = min(found, (rise, f"{outcome.scenario.name} raises the mean margin by {rise:.3g}"))
        weakest = found if weakest is None or not weakest[0] <= found[0] else weakest
    if weakest is None:
        return None
    return guard_result(run, "searches_do_harm", weakest[0], "> 0", weakest[0] > 0, f"least: {weakest[1]}")


def robust_accuracy_falls(run: CorpusRun) -> GuardResult | None:
    """On the probe, attacked afresh at every epsilon, accuracy never rises with epsilon beyond noise."""
    rises: list[tuple[float, str]] = []
    told = []
    for kind in _ITERATIVE:
        found = sorted(_of_kind(run, kind), key=lambda outcome: outcome.scenario.epsilon or 0)
        curve = [(o.scenario.name, _on_probe(run, o)) for o in found if _covers_probe(run, o)]
        rises += [(later[1] - earlier[1], later[0]) for earlier, later in pairwise(curve)]
        told += [f"{name} {y:.3f}" for name, y in curve]
    if not rises:
        return None
    value, where = max(rises)
    detail = f"largest rise {value:.3f} at {where}; {', '.join(told)}"
    return guard_result(run, "robust_accuracy_falls", value, "<= 0.05", value <= _ACCURACY_NOISE, detail)


def broken_at_large_epsilon(run: CorpusRun) -> GuardResult | None:
    """With a budget that can paint any face, next to nothing stands: accuracy and AUC near 0."""
    large = [o for o in _of_kind(run, _REFERENCE) if (o.scenario.epsilon or 0) >= _LARGE]
    if not large:
        return None
    outcome = large[-1]
    logits = _probe_logits(run, outcome)
    accuracy, area = accuracy_of(run, logits, run.probe), auc_of(run, logits, run.probe)
    value = float(np.fmax(accuracy, area))
    detail = f"{outcome.scenario.name}: accuracy {accuracy:.3f}, AUC {area:.3f} on {len(run.probe)} crops"
    return guard_result(run, "broken_at_large_epsilon", value, "<= 0.05", value <= _NEAR_ZERO, detail)


def iterative_beats_single_step(run: CorpusRun) -> GuardResult | None:
    """PGD hurts nearly every crop at least as much as FGSM with the same budget."""
    return _stronger(run, "iterative_beats_single_step", pairs_of(run, "fgsm"), 0.9)


def white_box_beats_noise(run: CorpusRun) -> GuardResult | None:
    """PGD hurts nearly every crop at least as much as random noise of the same size."""
    return _stronger(run, "white_box_beats_noise", pairs_of(run, "noise"), 0.95)


def white_box_beats_black_box(run: CorpusRun) -> GuardResult | None:
    """PGD hurts nearly every crop at least as much as what sees only scores, or another detector.

    Where it does not, the gradient does not lead where the detector is weak: it is masked.
    """
    pairs = [*pairs_of(run, "square"), *pairs_of(run, "transfer")]
    return _stronger(run, "white_box_beats_black_box", pairs, 0.9)


def black_box_beats_noise(run: CorpusRun) -> GuardResult | None:
    """A search by scores hurts nearly every crop at least as much as blind noise of the same size."""
    pairs = [
        (square, noise)
        for square in _of_kind(run, "square")
        for noise in _of_kind(run, "noise")
        if square.scenario.epsilon == noise.scenario.epsilon and square.scenario.role == "guard"
    ]
    return _stronger(run, "black_box_beats_noise", pairs, 0.9)


def more_steps_help_attacker(run: CorpusRun) -> GuardResult | None:
    """A PGD with a quarter of the steps leaves the probe no less accurate."""
    for name, logits in run.short.items():
        full, short = _on_probe(run, run.outcomes[name]), accuracy_of(run, logits, run.probe)
        detail = f"{name}: accuracy {full:.3f}, with a quarter of the steps {short:.3f}"
        passed = full - short <= _ACCURACY_NOISE
        return guard_result(run, "more_steps_help_attacker", full - short, "<= 0.05", passed, detail)
    return None


def more_restarts_help_attacker(run: CorpusRun) -> GuardResult | None:
    """A PGD with twice the restarts leaves the probe no more accurate."""
    for name, logits in run.restarted.items():
        full, more = _on_probe(run, run.outcomes[name]), accuracy_of(run, logits, run.probe)
        detail = f"{name}: accuracy {full:.3f}, with twice the restarts {more:.3f}"
        passed = more - full <= _ACCURACY_NOISE
        return guard_result(run, "more_restarts_help_attacker", more - full, "<= 0.05", passed, detail)
    return None


def unseen_attack_agrees(run: CorpusRun) -> GuardResult | None:
    """An attack of a kind that no training uses breaks no more decisions of the probe than PGD does."""
    compared = [
        (_on_probe(run, ours) - _on_probe(run, other), ours.scenario.name, other.scenario.name)
        for ours, other in pairs_of(run, _UNSEEN)
        if _covers_probe(run, other)
    ]
    if not compared:
        return None
    value, ours_name, other_name = max(compared)
    detail = f"{ours_name} leaves {value:+.3f} more of the probe's decisions right than {other_name}"
    passed = value <= _ACCURACY_NOISE
    return guard_result(run, "unseen_attack_agrees", value, "<= 0.05", passed, detail)


def _stronger(
    run: CorpusRun, name: str, pairs: Iterable[tuple[Outcome, Outcome]], least: float
) -> GuardResult | None:
    """Judge by the pair of the largest budget, and of those by the weakest."""
    ordered = sorted(pairs, key=lambda pair: pair[0].scenario.epsilon or 0)
    largest = [pair for pair in ordered if pair[0].scenario.epsilon == ordered[-1][0].scenario.epsilon]
    compared = [(_share_at_least(run, *pair), *pair) for pair in largest]
    if not compared:
        return None
    value, stronger, weaker = min(compared, key=lambda item: item[0])
    count = len(_shared_rows(stronger, weaker))
    bound = _bound(least, count)
    detail = (
        f"{stronger.scenario.name} is as strong as {weaker.scenario.name} on {value:.1%} of {count} crops"
    )
    return guard_result(run, name, value, f">= {bound:.3g}", value >= bound, detail)


def _bound(least: float, count: int) -> float:
    """Let one crop differ where there are so few that the bound would ask for all of them.

    >>> [_bound(0.9, count) for count in (0, 1, 8, 10, 48)]
    [0.9, 0.9, 0.875, 0.9, 0.9]
    """
    return min(least, (count - 1) / count) if count > 1 else least


def _shared_rows(stronger: Outcome, weaker: Outcome) -> Rows:
    return np.intersect1d(_own_rows(stronger), _own_rows(weaker))


def _share_at_least(run: CorpusRun, stronger: Outcome, weaker: Outcome) -> float:
    """Share of crops that the first attack itself hurts at least as much as the second."""
    rows = _shared_rows(stronger, weaker)
    ours, theirs = (
        run.margin(outcome.own[np.searchsorted(outcome.indices, rows)], rows)
        for outcome in (stronger, weaker)
    )
    return float((ours >= theirs - _SAME_MARGIN).mean()) if len(rows) else math.nan


def _attacks(run: CorpusRun) -> list[Outcome]:
    return [outcome for outcome in run.outcomes.values() if outcome.scenario.attack is not None]


def _of_kind(run: CorpusRun, kind: str, role: str | None = None) -> list[Outcome]:
    """Return the outcomes of an attack that nothing follows."""
    return [
        outcome
        for outcome in _attacks(run)
        if outcome.scenario.kind == kind
        and outcome.scenario.channel is None
        and role in (None, outcome.scenario.role)
    ]


def _must_harm(outcome: Outcome) -> bool:
    """Whether the attack keeps the worst point that it met for the very thing that is measured."""
    attack = outcome.scenario.attack
    assert attack is not None
    # a single step may go too far, and what was fitted on other images or detectors may not fit here
    unsure = isinstance(attack, FGSM | LearnedAttack | RandomNoise | Transfer | Universal)
    return not unsure and outcome.scenario.channel is None


def _own_rows(outcome: Outcome) -> Rows:
    """Return the crops that the attack itself attacked."""
    return np.asarray(outcome.indices[~np.isnan(outcome.own)], dtype=np.int64)


def _covers_probe(run: CorpusRun, outcome: Outcome) -> bool:
    return bool(np.isin(run.probe, _own_rows(outcome)).all())


def _probe_logits(run: CorpusRun, outcome: Outcome) -> Logits:
    rows = np.searchsorted(outcome.indices, run.probe)
    return np.asarray(outcome.own[rows], dtype=np.float32)


def _on_probe(run: CorpusRun, outcome: Outcome) -> float:
    return accuracy_of(run, _probe_logits(run, outcome), run.probe)
