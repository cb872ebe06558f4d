"""Guards: what must hold for an evaluation to count. Evidence with a tripped guard is invalid.

Source: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dfcore.evaluation.evidence import GuardResult
from dfcore.evaluation.metrics import auc, scores_from_logits
from dfcore.evaluation.outcomes import CorpusRun, Logits, Outcome

__all__ = ["GUARDS", "check_guards", "check_overlap"]

_BALL_TOLERANCE = 1e-6
_REPEAT_TOLERANCE = 1e-4
_SAME_MARGIN = 1e-3
_ACCURACY_NOISE = 0.05
_NEAR_ZERO = 0.05
_MOST_ZERO_GRADIENTS = 0.05


def _result(run: CorpusRun, name: str, value: float, bound: str, passed: bool, detail: str) -> GuardResult:
    # a value that is no number can't be written as JSON; the detail and the failure say it
    kept = round(value, 9) if math.isfinite(value) else None
    return GuardResult(name=name, corpus=run.name, passed=passed, value=kept, bound=bound, detail=detail)


def _accuracy(run: CorpusRun, logits: Logits, indices: NDArray[np.int64]) -> float:
    called = scores_from_logits(logits) >= run.threshold
    return float((called == (run.crops.labels[indices] == 1)).mean())


def _auc(run: CorpusRun, logits: Logits, indices: NDArray[np.int64]) -> float:
    labels = run.crops.labels[indices]
    if len(np.unique(labels)) < 2 or not bool(np.isfinite(logits).all()):
        return math.nan
    return auc(scores_from_logits(logits), labels)


def _own_on_probe(run: CorpusRun, outcome: Outcome) -> Logits:
    rows = np.searchsorted(outcome.indices, run.probe)
    return np.asarray(outcome.own[rows], dtype=np.float32)


def _of_kind(run: CorpusRun, kind: str) -> list[Outcome]:
    return [outcome for outcome in run.outcomes.values() if outcome.scenario.kind == kind]


def finite_scores(run: CorpusRun) -> GuardResult:
    """Every logit is a number, on clean and on attacked crops."""
    bad = sum(
        int((~np.isfinite(o.logits)).sum() + (~np.isfinite(o.rounded)).sum()) for o in run.outcomes.values()
    )
    return _result(run, "finite_scores", bad, "= 0", bad == 0, f"{bad} logits are not finite")


def perturbation_in_ball(run: CorpusRun) -> GuardResult:
    """No attacked pixel leaves the ball around the clean one, or [0, 1]; all are numbers."""
    values = [outcome.overshoot for outcome in run.outcomes.values()]
    worst = float(np.max(values))  # NaN wins
    passed = worst <= _BALL_TOLERANCE
    return _result(run, "perturbation_in_ball", worst, "<= 1e-6", passed, f"largest overshoot {worst:.3g}")


def logits_repeat(run: CorpusRun) -> GuardResult:
    """The same crops get the same logits twice; else attacks need expectation over transformations."""
    value = run.repeat_difference
    detail = f"largest difference between two runs {value:.3g}"
    return _result(run, "logits_repeat", value, "<= 1e-4", value <= _REPEAT_TOLERANCE, detail)


def gradients_reach_pixels(run: CorpusRun) -> GuardResult:
    """Few crops have a zero gradient: otherwise an attack that follows gradients stands still."""
    value = run.zero_gradients
    detail = f"{value:.1%} of the crops have a gradient of zero"
    return _result(run, "gradients_reach_pixels", value, "<= 0.05", value <= _MOST_ZERO_GRADIENTS, detail)


def robust_accuracy_falls(run: CorpusRun) -> GuardResult | None:
    """On the probe, attacked afresh at every epsilon, accuracy never rises with epsilon beyond noise."""
    curve = [
        (outcome.scenario.name, _accuracy(run, _own_on_probe(run, outcome), run.probe))
        for outcome in _of_kind(run, "pgd")
    ]
    if len(curve) < 2:
        return None
    rises = [(later[1] - earlier[1], later[0]) for earlier, later in pairwise(curve)]
    value, where = max(rises)
    detail = f"largest rise {value:.3f} at {where}; " + ", ".join(f"{name} {y:.3f}" for name, y in curve)
    return _result(run, "robust_accuracy_falls", value, "<= 0.05", value <= _ACCURACY_NOISE, detail)


def broken_at_large_epsilon(run: CorpusRun) -> GuardResult | None:
    """With a budget that can paint any face, next to nothing stands: accuracy and AUC near 0."""
    large = [o for o in _of_kind(run, "pgd") if o.scenario.role == "guard"]
    if not large:
        return None
    outcome = large[-1]
    logits = _own_on_probe(run, outcome)
    accuracy, area = _accuracy(run, logits, run.probe), _auc(run, logits, run.probe)
    value = float(np.fmax(accuracy, area))
    detail = f"{outcome.scenario.name}: accuracy {accuracy:.3f}, AUC {area:.3f} on {len(run.probe)} crops"
    return _result(run, "broken_at_large_epsilon", value, "<= 0.05", value <= _NEAR_ZERO, detail)


def _share_at_least(run: CorpusRun, stronger: Outcome, weaker: Outcome) -> float:
    """Share of crops that the first attack itself hurts at least as much as the second."""
    rows = np.flatnonzero(~np.isnan(stronger.own))
    ours = run.margin(stronger.own[rows], rows)
    theirs = run.margin(weaker.own[rows], rows)
    return float((ours >= theirs - _SAME_MARGIN).mean()) if len(rows) else math.nan


def _matching(run: CorpusRun, kind: str) -> tuple[Outcome, Outcome] | None:
    """Return (PGD, other) of one epsilon, the largest that both have."""
    pairs = [
        (pgd, other)
        for pgd in _of_kind(run, "pgd")
        for other in _of_kind(run, kind)
        if pgd.scenario.epsilon == other.scenario.epsilon and pgd.scenario.role == "report"
    ]
    return pairs[-1] if pairs else None


def iterative_beats_single_step(run: CorpusRun) -> GuardResult | None:
    """PGD hurts nearly every crop at least as much as FGSM with the same budget."""
    pair = _matching(run, "fgsm")
    if pair is None:
        return None
    value = _share_at_least(run, *pair)
    detail = f"{pair[0].scenario.name} is as strong as {pair[1].scenario.name} on {value:.1%} of the crops"
    return _result(run, "iterative_beats_single_step", value, ">= 0.9", value >= 0.9, detail)


def white_box_beats_noise(run: CorpusRun) -> GuardResult | None:
    """PGD hurts nearly every crop at least as much as random noise of the same size."""
    pair = _matching(run, "noise")
    if pair is None:
        return None
    value = _share_at_least(run, *pair)
    detail = f"{pair[0].scenario.name} is as strong as {pair[1].scenario.name} on {value:.1%} of the crops"
    return _result(run, "white_box_beats_noise", value, ">= 0.95", value >= 0.95, detail)


def more_steps_help_attacker(run: CorpusRun) -> GuardResult | None:
    """A PGD with a quarter of the steps leaves the probe no less accurate."""
    for name, logits in run.short.items():
        full = _accuracy(run, _own_on_probe(run, run.outcomes[name]), run.probe)
        short = _accuracy(run, logits, run.probe)
        detail = f"{name}: accuracy {full:.3f}, with a quarter of the steps {short:.3f}"
        passed = full - short <= _ACCURACY_NOISE
        return _result(run, "more_steps_help_attacker", full - short, "<= 0.05", passed, detail)
    return None


def noise_hardly_hurts(run: CorpusRun) -> GuardResult | None:
    """Random noise costs little AUC: at most .1, or a quarter of what the attack of the same size costs.

    The second half is for detectors that live on faint traces, which noise covers somewhat. Where noise does
    most of the damage, the figures speak about noise and not about the attack.
    """
    pair = _matching(run, "noise")
    if pair is None:
        return None
    everything = np.arange(len(run.crops))
    clean = _auc(run, next(iter(run.outcomes.values())).logits, everything)
    noise, attacked = _auc(run, pair[1].logits, everything), _auc(run, pair[0].logits, everything)
    bound = max(0.1, 0.25 * (clean - attacked))
    value = clean - noise
    detail = (
        f"AUC clean {clean:.3f}, {pair[1].scenario.name} {noise:.3f}, {pair[0].scenario.name} {attacked:.3f}"
    )
    return _result(run, "noise_hardly_hurts", value, f"<= {bound:.3f}", value <= bound, detail)


Guard = Callable[[CorpusRun], GuardResult | None]

GUARDS: tuple[Guard, ...] = (
    finite_scores,
    perturbation_in_ball,
    logits_repeat,
    gradients_reach_pixels,
    robust_accuracy_falls,
    broken_at_large_epsilon,
    iterative_beats_single_step,
    more_steps_help_attacker,
    white_box_beats_noise,
    noise_hardly_hurts,
)
"""Each returns None where the suite has no scenario that it could judge."""


def check_guards(run: CorpusRun) -> list[GuardResult]:
    """Judge one corpus; a detector without finite clean logits is judged on its scores alone."""
    if not bool(np.isfinite(next(iter(run.outcomes.values())).logits).all()):
        return [finite_scores(run), logits_repeat(run), gradients_reach_pixels(run)]
    found = [guard(run) for guard in GUARDS]
    return [result for result in found if result is not None]


def check_overlap(run: CorpusRun, training_groups: Iterable[str] | None) -> GuardResult:
    """No crop shares its group with training, selection, calibration or the threshold.

    Args:
        run: the corpus.
        training_groups: what the detector has seen; None if nobody recorded it, which fails.
    """
    name, bound = "no_training_overlap", "= 0"
    if training_groups is None:
        detail = "the detector does not say which groups it was trained on; record training_groups"
        return _result(run, name, math.nan, bound, False, detail)
    shared = sorted(set(run.crops.group_ids.tolist()) & set(training_groups))
    count = int(np.isin(run.crops.group_ids, shared).sum()) if shared else 0
    named = f": {', '.join(shared[:3])}" if shared else ""
    detail = f"{count} crops of {len(shared)} groups were used in training{named}"
    return _result(run, name, count, bound, count == 0, detail)
