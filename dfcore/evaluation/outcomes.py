"""Run scenarios on one corpus and keep what came out of every crop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.attacks import NormAttack
from dfcore.data import Crops
from dfcore.evaluation.metrics import scores_from_logits
from dfcore.evaluation.scenarios import Scenario
from dfcore.models import Detector, crafting_mode, fold_batch_norm
from dfcore.preprocessing import h264_roundtrip, jpeg_roundtrip

__all__ = ["CorpusRun", "Outcome", "Runner"]

Logits = NDArray[np.float32]
_BATCH = 64
_PROBE_PER_CLASS = 24


@dataclass(frozen=True)
class Outcome:
    """What one scenario did to a corpus; arrays are parallel to `indices`.

    Attributes:
        scenario: which one.
        indices: the crops measured; all of them, but for a guard scenario.
        logits: the worst reached for the detector within the scenario's ball.
        rounded: the same after rounding the pixels to 8 bits; equal to `logits` where nothing was attacked.
        own: logits that this scenario's own attack reached; NaN where a smaller ball's was carried over.
        size: largest |change| of a pixel, by crop.
        overshoot: by how much the worst pixel left the ball or the box; NaN if a pixel was no number.
    """

    scenario: Scenario
    indices: NDArray[np.int64]
    logits: Logits
    rounded: Logits
    own: Logits
    size: NDArray[np.float32]
    overshoot: float = 0.0


@dataclass(frozen=True)
class CorpusRun:
    """Everything measured on one corpus, for metrics and guards.

    Attributes:
        name: of the corpus.
        crops: of the corpus.
        threshold: the deployed one.
        outcomes: by scenario name.
        probe: indices of a small class-balanced sample that every attack attacks afresh.
        short: what a PGD with a quarter of the steps reached on the probe, by the full scenario's name.
        repeat_difference: largest difference of a logit between two runs on the same crops.
        zero_gradients: share of crops whose gradient is zero in every pixel, or no number.
    """

    name: str
    crops: Crops
    threshold: float
    outcomes: dict[str, Outcome]
    probe: NDArray[np.int64]
    short: dict[str, Logits]
    repeat_difference: float
    zero_gradients: float

    def margin(self, logits: Logits, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far each logit is on the wrong side of the threshold (above 0: wrong)."""
        offset = math.log(self.threshold) - math.log1p(-self.threshold)
        sign = 1 - 2 * self.crops.labels[indices]
        return np.asarray(sign * (logits.astype(np.float64) - offset))


class Runner:
    """Scores and attacks the corpora of one evaluation.

    Crafting uses a copy with batch norm folded; every figure comes from the detector itself.

    Args:
        detector: in any mode.
        seed: of noise and random starts.
        advance: called with the number of forward passes over a crop that have been done.
    """

    def __init__(self, detector: Detector, seed: int, advance: Callable[[int], None]) -> None:
        self.detector = detector
        self.folded = fold_batch_norm(detector)
        self.seed = seed
        self.advance = advance
        self.device = detector.mean.device

    def run(self, name: str, crops: Crops, scenarios: Sequence[Scenario]) -> CorpusRun:
        """Run every scenario on a corpus; a detector without finite clean logits is not attacked."""
        probe = choose_probe(crops.labels)
        clean = self.score(crops.images)
        again = self.score(crops.images)
        outcomes = {scenarios[0].name: _unattacked(scenarios[0], clean)}
        short: dict[str, Logits] = {}
        finite = bool(np.isfinite(clean).all())
        if finite:
            self._run_rest(name, crops, scenarios[1:], probe, outcomes)
            for scenario in scenarios:
                if scenario.kind == "pgd" and scenario.role == "report":
                    short[scenario.name] = self._shorter(name, crops, scenario, probe)
                    break
        return CorpusRun(
            name=name,
            crops=crops,
            threshold=self.detector.threshold,
            outcomes=outcomes,
            probe=probe,
            short=short,
            repeat_difference=float(np.abs(clean - again).max()) if finite else math.nan,
            zero_gradients=self._zero_gradients(crops) if finite else 1.0,
        )

    def _run_rest(
        self,
        name: str,
        crops: Crops,
        scenarios: Iterable[Scenario],
        probe: NDArray[np.int64],
        outcomes: dict[str, Outcome],
    ) -> None:
        smaller: Outcome | None = None  # of the PGD with the next smaller ball
        for scenario in scenarios:
            everything = np.arange(len(crops))
            if not scenario.is_attack:
                outcomes[scenario.name] = _unattacked(scenario, self.score(_transmit(crops, scenario)))
                continue
            if scenario.role == "guard":
                outcomes[scenario.name] = self.attack(name, crops, scenario, probe)
                continue
            if scenario.kind != "pgd":
                outcomes[scenario.name] = self.attack(name, crops, scenario, everything)
                continue
            if smaller is None:
                smaller = self.attack(name, crops, scenario, everything)
            else:
                done = settled(smaller.logits, self.detector.threshold, crops)
                todo = np.union1d(np.flatnonzero(~done), probe)
                fresh = self.attack(name, crops, scenario, todo)
                smaller = _worst_of(smaller, fresh, self._sign(crops))
            outcomes[scenario.name] = smaller

    def _sign(self, crops: Crops) -> NDArray[np.int64]:
        return 1 - 2 * crops.labels

    def _shorter(self, name: str, crops: Crops, scenario: Scenario, probe: NDArray[np.int64]) -> Logits:
        assert scenario.steps is not None
        short = scenario.model_copy(update={"steps": max(1, scenario.steps // 4)})
        return self.attack(name, crops, short, probe).logits

    def score(self, images: NDArray[np.uint8]) -> Logits:
        """Return the detector's own logits (n,) for uint8 crops (n, H, W, 3)."""
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = _to_tensor(images[start : start + _BATCH], self.device)
            parts.append(self._logits(batch))
            self.advance(len(batch))
        return np.concatenate(parts)

    def _logits(self, images: torch.Tensor) -> Logits:
        with torch.no_grad(), crafting_mode(self.detector):
            return np.asarray(self.detector(images).float().cpu().numpy(), dtype=np.float32)

    def attack(self, corpus: str, crops: Crops, scenario: Scenario, indices: NDArray[np.int64]) -> Outcome:
        """Attack the given crops of both classes and score what comes out."""
        attack: NormAttack = scenario.attack()
        generator = torch.Generator(device=self.device).manual_seed(
            _derive_seed(self.seed, corpus, scenario.name)
        )
        logits, rounded, sizes, overshoot = [], [], [], 0.0
        for start in range(0, len(indices), _BATCH):
            rows = indices[start : start + _BATCH]
            images = _to_tensor(crops.images[rows], self.device)
            labels = torch.from_numpy(crops.labels[rows]).to(self.device)
            changed = attack(
                self.folded, images, labels, threshold=self.detector.threshold, generator=generator
            )
            size = (changed - images).abs().flatten(1).amax(dim=1)
            left = torch.stack([size.max() - attack.epsilon, changed.max() - 1, -changed.min()])
            overshoot = float(np.maximum(overshoot, left.max().item()))  # NaN wins
            logits.append(self._logits(changed))
            rounded.append(self._logits((changed * 255).round() / 255))
            sizes.append(size.cpu().numpy())
            self.advance(len(rows) * _passes(scenario))
        found = np.concatenate(logits)
        return Outcome(
            scenario, indices, found, np.concatenate(rounded), found, np.concatenate(sizes), overshoot
        )

    def _zero_gradients(self, crops: Crops) -> float:
        zero = 0
        for start in range(0, len(crops), _BATCH):
            images = _to_tensor(crops.images[start : start + _BATCH], self.device).requires_grad_()
            with crafting_mode(self.detector):
                logits = self.detector(images)
            if not logits.requires_grad:
                zero += len(images)  # the detector does not depend on its input differentiably
                continue
            (gradient,) = torch.autograd.grad(logits.sum(), images)
            largest = gradient.abs().flatten(1).amax(dim=1)
            zero += int((~(largest > 0)).sum())  # NaN counts as none
            self.advance(len(images))
        return zero / len(crops)


def choose_probe(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return up to 24 crops of each class, spread over the corpus, in ascending order."""
    chosen = []
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        count = min(_PROBE_PER_CLASS, len(members))
        chosen.append(members[np.arange(count) * len(members) // max(1, count)])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


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
    _, video = np.unique(crops.video_ids, return_inverse=True)
    open_crops = np.bincount(video, weights=~beyond)
    return np.asarray(open_crops[video] == 0)


def _worst_of(smaller: Outcome, fresh: Outcome, sign: NDArray[np.int64]) -> Outcome:
    """Keep for each crop whichever perturbation is worse for the detector."""
    rows = fresh.indices
    better = ~(sign[rows] * fresh.logits <= sign[rows] * smaller.logits[rows])  # NaN replaces, and is seen
    take = rows[better]
    logits, rounded, size = smaller.logits.copy(), smaller.rounded.copy(), smaller.size.copy()
    logits[take], rounded[take] = fresh.logits[better], fresh.rounded[better]
    size[take] = fresh.size[better]
    own = np.full_like(logits, np.nan)
    own[rows] = fresh.logits
    return Outcome(fresh.scenario, smaller.indices, logits, rounded, own, size, fresh.overshoot)


def _unattacked(scenario: Scenario, logits: Logits) -> Outcome:
    zeros = np.zeros(len(logits), dtype=np.float32)
    return Outcome(scenario, np.arange(len(logits)), logits, logits, logits, zeros)


def _transmit(crops: Crops, scenario: Scenario) -> NDArray[np.uint8]:
    """Send the crops through a codec; H.264 gets each video's crops in their order as one sequence."""
    if scenario.quality is not None:
        return jpeg_roundtrip(np.ascontiguousarray(crops.images), scenario.quality)
    assert scenario.crf is not None
    sent = np.empty_like(crops.images)
    for video in np.unique(crops.video_ids):
        rows = np.flatnonzero(crops.video_ids == video)
        sent[rows] = h264_roundtrip(np.ascontiguousarray(crops.images[rows]), scenario.crf)
    return sent


def _passes(scenario: Scenario) -> int:
    return 1 + (scenario.steps or 1) * (scenario.restarts or 1)


def _to_tensor(images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 255


def _derive_seed(seed: int, *names: str) -> int:
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big")
