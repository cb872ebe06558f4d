"""Do our attacks and other people's agree? What each library leaves standing, against what ours leaves."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dfcore.evaluation.corpus import video_keys
from dfcore.evaluation.evidence import GuardResult, Interval, RefereeResult
from dfcore.evaluation.metrics import Estimate, measure_mean, scores_from_logits
from dfcore.evaluation.outcomes import CorpusRun, Outcome
from dfcore.evaluation.referee import Referee
from dfcore.evaluation.searches import guard_result

__all__ = ["judge_referees", "others_code_agrees"]


def judge_referees(run: CorpusRun) -> list[RefereeResult]:
    """Compare each library's attack with ours, where there is one to compare, on the crops that it was given.

    The interval is of the difference, crop by crop on the same crops, over resampled videos.
    """
    return [
        _compare(run, ours, theirs, theirs.scenario.attack)
        for theirs in run.outcomes.values() if isinstance(theirs.scenario.attack, Referee)
        for ours in run.outcomes.values() if theirs.scenario.referees(ours.scenario)
    ]  # fmt: skip


def others_code_agrees(run: CorpusRun) -> GuardResult | None:
    """The same attack written by somebody else leaves no fewer decisions right, beyond the interval.

    One that leaves more is no fault of ours: it is told, and passes.
    """
    compared = judge_referees(run)
    if not compared:
        return None
    worst = max(compared, key=lambda one: (one.difference.low, one.difference.value))
    told = (
        f"{len(compared)} compared; {worst.scenario} leaves {worst.theirs.value:.3f} right, {worst.ours_by} "
        f"{worst.ours.value:.3f}, difference {worst.difference.value:+.3f} ({worst.difference.low:+.3f} to "
        f"{worst.difference.high:+.3f})"
    )
    weaker = [one.scenario for one in compared if one.verdict == "weaker"]
    detail = told + (f"; weaker than ours: {', '.join(weaker)}" if weaker else "")
    passed = all(one.verdict != "stronger" for one in compared)
    return guard_result(run, "others_code_agrees", worst.difference.low, "<= 0", passed, detail)


def _compare(run: CorpusRun, ours: Outcome, theirs: Outcome, attack: Referee) -> RefereeResult:
    rows = theirs.indices
    places = np.searchsorted(ours.indices, rows)
    # a search that goes on from weaker ones has no result of its own where they were enough
    reached = ours.logits if ours.scenario.again == "standing" else ours.own
    right = [_right(run, logits, rows) for logits in (reached[places], theirs.logits)]
    labels, videos = run.crops.labels[rows], video_keys(run.crops)[rows]
    own, other, difference = (
        _interval(measure_mean(values, labels, videos)) for values in (*right, right[0] - right[1])
    )
    verdict: Literal["agrees", "stronger", "weaker"] = "agrees"
    if difference.low > 0:
        verdict = "stronger"
    elif difference.high < 0:
        verdict = "weaker"
    return RefereeResult(
        corpus=run.name, scenario=theirs.scenario.name, library=attack.library, method=attack.method,
        epsilon=attack.epsilon, ours_by=ours.scenario.name, n=len(rows),
        ours=own, theirs=other, difference=difference, verdict=verdict,
    )  # fmt: skip


def _right(run: CorpusRun, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    called = scores_from_logits(logits) >= run.threshold
    return np.asarray(called == (run.crops.labels[rows] == 1), dtype=np.float64)


def _interval(estimate: Estimate) -> Interval:
    return Interval(**{name: round(value, 9) for name, value in estimate._asdict().items()})
