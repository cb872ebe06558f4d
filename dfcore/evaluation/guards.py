"""Guards: what must hold for an evaluation to count. Evidence with a tripped guard is invalid.

Source: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dfcore.attacks import EOT
from dfcore.evaluation.agreement import others_code_agrees
from dfcore.evaluation.evidence import GuardResult
from dfcore.evaluation.outcomes import CorpusRun
from dfcore.evaluation.searches import (
    accuracy_of,
    auc_of,
    black_box_beats_noise,
    broken_at_large_epsilon,
    guard_result,
    iterative_beats_single_step,
    more_restarts_help_attacker,
    more_steps_help_attacker,
    pairs_of,
    robust_accuracy_falls,
    searches_do_harm,
    unseen_attack_agrees,
    white_box_beats_black_box,
    white_box_beats_noise,
)

__all__ = ["GUARDS", "check_guards", "check_overlap", "decisions_beat_guessing"]

_BALL_TOLERANCE = 1e-6
_REPEAT_TOLERANCE = 1e-4
_TWIN_TOLERANCE = 1e-2
_RANGE_TOLERANCE = 1e-3
_MOST_ZERO_GRADIENTS = 0.05
_LEAST_BALANCED = 0.55


def finite_scores(run: CorpusRun) -> GuardResult:
    """Every logit is a number, on clean and on attacked crops."""
    bad = sum(
        int((~np.isfinite(o.logits)).sum() + (~np.isfinite(o.rounded)).sum()) for o in run.outcomes.values()
    )
    return guard_result(run, "finite_scores", bad, "= 0", bad == 0, f"{bad} logits are not finite")


def perturbation_in_ball(run: CorpusRun) -> GuardResult:
    """No attacked image leaves the ball around the clean one, or [0, 1]; all pixels are numbers."""
    values = [outcome.overshoot for outcome in run.outcomes.values()]
    worst = float(np.max(values))  # NaN wins
    passed = worst <= _BALL_TOLERANCE
    detail = f"largest overshoot {worst:.3g}"
    return guard_result(run, "perturbation_in_ball", worst, "<= 1e-6", passed, detail)


def logits_repeat(run: CorpusRun) -> GuardResult:
    """The same crops get the same logits twice; else attacks need expectation over transformations."""
    value = run.repeat_difference
    detail = f"largest difference between two runs {value:.3g}"
    attacks = [outcome.scenario.attack for outcome in run.outcomes.values()]
    searches = [attack for attack in attacks if attack is not None and attack.knowledge == "white-box"]
    averaged = bool(searches) and all(isinstance(attack, EOT) for attack in searches)
    if averaged:
        detail += "; every white-box attack averages over draws"
    passed = value <= _REPEAT_TOLERANCE or (averaged and math.isfinite(value))
    return guard_result(run, "logits_repeat", value, "<= 1e-4", passed, detail)


def gradients_reach_pixels(run: CorpusRun) -> GuardResult:
    """Few crops have a zero gradient: otherwise an attack that follows gradients stands still."""
    value = run.zero_gradients
    detail = f"{value:.1%} of the crops have a gradient of zero"
    passed = value <= _MOST_ZERO_GRADIENTS
    return guard_result(run, "gradients_reach_pixels", value, "<= 0.05", passed, detail)


def attacked_is_what_is_measured(run: CorpusRun) -> GuardResult:
    """The copy that attacks are made on answers as the detector does."""
    value = run.twin_difference
    detail = f"largest difference of a logit between detector and copy {value:.3g} of the logit"
    passed = value <= _TWIN_TOLERANCE
    return guard_result(run, "attacked_is_what_is_measured", value, "<= 0.01", passed, detail)


def normalised_once(run: CorpusRun) -> GuardResult:
    """What reaches the backbone lies in the range that pixels in [0, 1] have after one normalisation."""
    value = run.range_excess
    detail = f"the backbone's input leaves the range of normalised pixels by {value:.3g}"
    return guard_result(run, "normalised_once", value, "<= 1e-3", value <= _RANGE_TOLERANCE, detail)


def noise_hardly_hurts(run: CorpusRun) -> GuardResult | None:
    """Random noise costs little AUC: at most .1, or a quarter of what the attack of the same size costs.

    The second half is for detectors that live on faint traces, which noise covers somewhat. Where noise does
    most of the damage, the figures speak about noise and not about the attack.
    """
    pairs = pairs_of(run, "noise")
    if not pairs:
        return None
    searched, blind = pairs[-1]
    clean = auc_of(run, run.clean.logits, run.clean.indices)
    noise, attacked = (auc_of(run, outcome.logits, outcome.indices) for outcome in (blind, searched))
    bound = max(0.1, 0.25 * (clean - attacked))
    value = clean - noise
    names = [outcome.scenario.name for outcome in (blind, searched)]
    detail = f"AUC clean {clean:.3f}, {names[0]} {noise:.3f}, {names[1]} {attacked:.3f}"
    return guard_result(run, "noise_hardly_hurts", value, f"<= {bound:.3f}", value <= bound, detail)


Guard = Callable[[CorpusRun], GuardResult | None]

GUARDS: tuple[Guard, ...] = (
    finite_scores,
    perturbation_in_ball,
    logits_repeat,
    gradients_reach_pixels,
    normalised_once,
    attacked_is_what_is_measured,
    searches_do_harm,
    robust_accuracy_falls,
    broken_at_large_epsilon,
    iterative_beats_single_step,
    more_steps_help_attacker,
    more_restarts_help_attacker,
    white_box_beats_black_box,
    white_box_beats_noise,
    black_box_beats_noise,
    noise_hardly_hurts,
    unseen_attack_agrees,
    others_code_agrees,
)
"""Each returns None where the suite has no scenario that it could judge."""


def check_guards(run: CorpusRun) -> list[GuardResult]:
    """Judge one corpus; a detector without finite clean logits is judged on its scores alone."""
    if not bool(np.isfinite(run.clean.logits).all()):
        return [finite_scores(run), logits_repeat(run), gradients_reach_pixels(run)]
    found = [guard(run) for guard in GUARDS]
    return [result for result in found if result is not None]


def decisions_beat_guessing(runs: Sequence[CorpusRun]) -> GuardResult:
    """On at least one corpus the deployed threshold tells clean fakes from clean reals.

    Otherwise weights, preprocessing and threshold do not belong together, and what an attack adds to that
    says nothing. A corpus of another data set alone may be at guessing.
    """

    def balanced(run: CorpusRun) -> float:
        if not bool(np.isfinite(run.clean.logits).all()):
            return 0.0
        rows = [np.flatnonzero(run.crops.labels == label) for label in (0, 1)]
        return float(np.mean([accuracy_of(run, run.clean.logits[part], part) for part in rows]))

    best = max(runs, key=balanced)
    value = balanced(best)
    detail = f"balanced accuracy at the deployed threshold {value:.3f}, clean, on {best.name}"
    passed = value >= _LEAST_BALANCED
    return guard_result(best, "decisions_beat_guessing", value, ">= 0.55", passed, detail)


def check_overlap(run: CorpusRun, name: str, groups: Iterable[str] | None) -> GuardResult:
    """No crop shares its group with what made the detector.

    Args:
        run: the corpus.
        name: "no_training_overlap" for training, "no_selection_overlap" for selection, calibration and
            threshold.
        groups: what was used there; None if nobody recorded it, which fails.
    """
    use = name.split("_")[1]
    if groups is None:
        recorded = {"training": "training_groups", "selection": "validation_groups"}[use]
        detail = f"the detector does not say which groups its {use} used; record {recorded}"
        return guard_result(run, name, math.nan, "= 0", False, detail)
    shared = shared_groups(run.crops.group_ids.tolist(), groups)
    count = int(np.isin(run.crops.group_ids, shared).sum()) if shared else 0
    named = f": {', '.join(shared[:3])}" if shared else ""
    detail = f"{count} crops of {len(shared)} groups were used in {use}{named}"
    return guard_result(run, name, count, "= 0", count == 0, detail)


def shared_groups(tested: Iterable[str], used: Iterable[str]) -> list[str]:
    """Return the groups that are in both, sorted."""
    return sorted(set(tested) & set(used))
