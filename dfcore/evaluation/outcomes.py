"""What came out of every crop in every scenario, and what of it holds for larger balls too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dfcore.attacks.template import log_odds
from dfcore.data import Crops
from dfcore.evaluation.corpus import Corpus, video_keys
from dfcore.evaluation.metrics import scores_from_logits
from dfcore.evaluation.scenarios import Scenario

__all__ = ["CorpusRun", "Logits", "Outcome", "choose_probe", "settled", "standing", "unattacked", "worst_of"]

Logits = NDArray[np.float32]
_PROBE_PER_CLASS = 24


@dataclass(frozen=True)
class Outcome:
    """What one scenario did to a corpus; arrays are parallel to `indices`.

    Attributes:
        scenario: which one.
        indices: the crops measured; all of them, but for a guard scenario.
        logits: the worst reached for the detector within the scenario's ball.
        rounded: the same after rounding the pixels to 8 bits; equal to `logits` where nothing was attacked.
        own: logits that this scenario's own attack reached; NaN where a weaker attack's was carried over.
        size: largest |change| of a pixel by the attack, by crop.
        overshoot: by how much the worst image left the ball or the box; NaN if a pixel was no number.
        energies: of what this scenario's own attack changed in each frequency band, (crops, bands); None
            where it did not run.
    """

    scenario: Scenario
    indices: NDArray[np.int64]
    logits: Logits
    rounded: Logits
    own: Logits
    size: NDArray[np.float32]
    overshoot: float = 0.0
    energies: NDArray[np.float64] | None = None

    def on(self, rows: NDArray[np.int64]) -> Outcome:
        """Return what it did to these of its crops."""
        at = np.searchsorted(self.indices, rows)
        return replace(
            self, indices=rows, logits=self.logits[at], rounded=self.rounded[at], own=self.own[at],
            size=self.size[at],
        )  # fmt: skip


@dataclass(frozen=True)
class CorpusRun:
    """Everything measured on one corpus, for metrics and guards.

    Attributes:
        name: of the corpus.
        corpus: crops and their qualities.
        threshold: the deployed one.
        outcomes: by scenario name, the clean one first.
        probe: indices of a small class-balanced sample that every searching attack attacks afresh.
        short: what a PGD with a quarter of the steps reached on the probe, by the full scenario's name.
        restarted: the same with all steps and twice the restarts.
        repeat_difference: largest difference of a logit between two runs on the same crops.
        twin_difference: largest difference between the logits of the detector and of the copy that attacks
            are made on, as a share of the logit where that is above 1.
        range_excess: by how much what reaches the backbone leaves the range that pixels in [0, 1] have after
            one normalisation.
        zero_gradients: share of crops whose gradient is zero in every pixel, or no number.
        lipschitz: local Lipschitz estimate of each crop, where the suite asks for it.
    """

    name: str
    corpus: Corpus
    threshold: float
    outcomes: dict[str, Outcome]
    probe: NDArray[np.int64]
    short: dict[str, Logits]
    restarted: dict[str, Logits]
    repeat_difference: float
    twin_difference: float
    range_excess: float
    zero_gradients: float
    lipschitz: NDArray[np.float32] | None = None

    @property
    def crops(self) -> Crops:
        """The corpus's crops."""
        return self.corpus.crops

    @property
    def clean(self) -> Outcome:
        """What nobody touched."""
        return next(iter(self.outcomes.values()))

    def margin(self, logits: Logits, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far each logit is on the wrong side of the threshold (above 0: wrong)."""
        sign = 1 - 2 * self.crops.labels[indices]
        return np.asarray(sign * (logits.astype(np.float64) - log_odds(self.threshold)))


def choose_probe(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose up to 24 crops of each class, evenly spread over the corpus."""
    chosen = []
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        count = min(_PROBE_PER_CLASS, len(members))
        chosen.append(members[np.arange(count) * len(members) // max(1, count)])
    return np.sort(np.concatenate(chosen))


def settled(logits: Logits, threshold: float, crops: Crops) -> NDArray[np.bool_]:
    """Say which crops can't lose the detector anything more in a bigger ball.

    A bigger ball contains the smaller one, so what was reached there still counts. A crop is settled once
    every crop of its video is wrong at the threshold and scores on the far side of every crop of the other
    class: no decision and no ranking, of crops or of videos, can get worse, whatever happens to the rest.
    """
    scores = scores_from_logits(logits)
    fake = crops.labels == 1
    lowest_real = scores[~fake].min(initial=np.inf)
    highest_fake = scores[fake].max(initial=-np.inf)
    beyond = np.where(
        fake,
        (scores < threshold) & (scores < lowest_real),
        (scores >= threshold) & (scores > highest_fake),
    )
    video = video_keys(crops)
    open_crops = np.bincount(video, weights=~beyond)
    return np.asarray(open_crops[video] == 0)


def standing(logits: Logits, threshold: float, crops: Crops) -> NDArray[np.bool_]:
    """Say which crops are still judged right."""
    return np.asarray((scores_from_logits(logits) >= threshold) == (crops.labels == 1))


def worst_of(
    scenario: Scenario, weaker: Sequence[Outcome], fresh: Outcome | None, labels: NDArray[np.int64]
) -> Outcome:
    """Keep for each crop whichever perturbation is worse for the detector.

    Args:
        scenario: whose outcome this is.
        weaker: on all crops; of equals the first one stays.
        fresh: the attack's own, on some crops; None where there was nothing left to attack.
        labels: of all crops.

    Returns:
        An outcome on all crops; `own` is NaN where the attack did not run.
    """
    first = weaker[0]
    logits, rounded, size = first.logits.copy(), first.rounded.copy(), first.size.copy()
    sign = 1 - 2 * labels
    for other in (*weaker[1:], *(() if fresh is None else (fresh,))):
        rows = other.indices
        better = ~(sign[rows] * other.logits <= sign[rows] * logits[rows])  # NaN replaces, and is seen
        take = rows[better]
        logits[take], rounded[take] = other.logits[better], other.rounded[better]
        size[take] = other.size[better]
    own = np.full_like(logits, np.nan)
    if fresh is None:
        return Outcome(scenario, first.indices, logits, rounded, own, size)
    own[fresh.indices] = fresh.own
    return Outcome(scenario, first.indices, logits, rounded, own, size, fresh.overshoot, fresh.energies)


def unattacked(scenario: Scenario, logits: Logits) -> Outcome:
    """Return the outcome of a scenario in which nobody attacks."""
    zeros = np.zeros(len(logits), dtype=np.float32)
    return Outcome(scenario, np.arange(len(logits)), logits, logits, logits, zeros)
