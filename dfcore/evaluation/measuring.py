"""From outcomes to records: every figure on every slice, and a row for every crop."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dfcore.data import Crops
from dfcore.evaluation.corpus import Corpus, slices, video_keys
from dfcore.evaluation.evidence import Interval, ScenarioResult
from dfcore.evaluation.metrics import Estimate, measure, measure_mean, scores_from_logits
from dfcore.evaluation.outcomes import CorpusRun, Outcome
from dfcore.evaluation.videos import VIDEO_AGGREGATES, video_scores
from dfcore.explain import band_shares

__all__ = ["measure_outcome", "samples_table"]

Scores = NDArray[np.float64]
Keys = NDArray[np.int64]


class _Meter:
    """Measures one outcome's scores; scores that are no numbers give results without metrics."""

    def __init__(self, run: CorpusRun, outcome: Outcome, resamples: int, seed: int) -> None:
        self._run = run
        self._outcome = outcome
        self._resamples = resamples
        self._seed = seed
        self._attacked = int((~np.isnan(outcome.own)).sum()) if outcome.scenario.attack is not None else 0
        self._finite = bool(np.isfinite(outcome.logits).all() and np.isfinite(outcome.rounded).all())

    def figures(self, scores: Scores, labels: NDArray[np.int64], videos: Keys) -> dict[str, Estimate]:
        if not self._finite:
            return {}
        return measure(
            scores, labels, videos,
            threshold=self._run.threshold, resamples=self._resamples, seed=self._seed,
        )  # fmt: skip

    def mean(self, values: NDArray[np.float32], labels: NDArray[np.int64], videos: Keys) -> Estimate:
        return measure_mean(values, labels, videos, resamples=self._resamples, seed=self._seed)

    def result(self, name: str, videos: Keys, n: int, metrics: Mapping[str, Estimate]) -> ScenarioResult:
        scenario = self._outcome.scenario
        return ScenarioResult(
            scenario=scenario.name,
            role=scenario.role,
            corpus=self._run.name,
            slice=name,
            threat_model=scenario.threat_model(self._seed),
            n=n,
            videos=len(np.unique(videos)),
            attacked=self._attacked,
            metrics={key: Interval(**_rounded(value)) for key, value in metrics.items()},
            spectrum=self._spectrum() if name == "all" else [],
        )

    def _spectrum(self) -> list[float | None]:
        energies = self._outcome.energies
        if energies is None or self._outcome.scenario.channel is not None:
            return []  # through a channel it is the same attack's
        changed = energies[np.isfinite(energies).all(axis=1) & (energies.sum(axis=1) > 0)]
        if not len(changed):
            return []
        share = (changed / changed.sum(axis=1, keepdims=True)).mean(axis=0)
        expected = band_shares(self._run.crops.images.shape[1:3], len(share))
        return [
            float(f"{value / white:.6g}") if white > 0 else None
            for value, white in zip(share, expected, strict=True)
        ]


def measure_outcome(run: CorpusRun, outcome: Outcome, *, resamples: int, seed: int) -> list[ScenarioResult]:
    """Measure one scenario on all crops, on videos by each aggregate, then on every slice of crops."""
    meter = _Meter(run, outcome, resamples, seed)
    corpus = _part(run.corpus, outcome.indices)
    crops, videos = corpus.crops, video_keys(corpus.crops)
    scores = scores_from_logits(outcome.logits)
    found = []
    for name, mask in slices(corpus):
        metrics = meter.figures(scores[mask], crops.labels[mask], videos[mask])
        if name == "all" and metrics:
            metrics |= _extra(run, outcome, meter, crops, videos)
        found.append(meter.result(name, videos[mask], int(mask.sum()), metrics))
        if outcome.scenario.role == "guard":
            return found
    for place, (name, aggregate) in enumerate(VIDEO_AGGREGATES.items()):
        values, labels, keys = video_scores(scores, crops.labels, videos, aggregate)
        found.insert(1 + place, meter.result(name, keys, len(keys), meter.figures(values, labels, keys)))
    return found


def _extra(
    run: CorpusRun, outcome: Outcome, meter: _Meter, crops: Crops, videos: Keys
) -> dict[str, Estimate]:
    if outcome.scenario.attack is not None:
        rounded = meter.figures(scores_from_logits(outcome.rounded), crops.labels, videos)
        return {f"{key}_8_bit": rounded[key] for key in ("auc", "accuracy") if key in rounded}
    if outcome is run.clean and run.lipschitz is not None:
        return {"local_lipschitz": meter.mean(run.lipschitz, crops.labels, videos)}
    return {}


def _part(corpus: Corpus, indices: NDArray[np.int64]) -> Corpus:
    if len(indices) == len(corpus.crops):
        return corpus
    return Corpus(
        corpus.crops.subset(indices), {name: values[indices] for name, values in corpus.qualities.items()}
    )


def _rounded(estimate: Estimate) -> dict[str, float]:
    # beyond nine digits a figure depends on the order of summation
    return {key: round(value, 9) for key, value in estimate._asdict().items()}


def samples_table(run: CorpusRun, outcome: Outcome) -> pa.Table:
    """Return a row for every crop of one scenario: what it is, what it scored, how far it was moved."""
    crops, rows = run.crops, outcome.indices
    count = len(rows)
    return pa.table(
        {
            "corpus": pa.array([run.name] * count).dictionary_encode(),
            "scenario": pa.array([outcome.scenario.name] * count).dictionary_encode(),
            "crop": pa.array(rows, pa.int64()),
            "video_id": pa.array(crops.video_ids[rows].tolist(), pa.string()),
            "label": pa.array(crops.labels[rows], pa.int8()),
            "method": pa.array(crops.methods[rows].tolist(), pa.string()),
            "compression": pa.array(crops.compressions[rows].tolist(), pa.string()),
            "group_id": pa.array(crops.group_ids[rows].tolist(), pa.string()),
            "logit": pa.array(outcome.logits, pa.float32()),
            "own_logit": pa.array(outcome.own, pa.float32(), from_pandas=True),
            "score": pa.array(scores_from_logits(outcome.logits), pa.float64()),
            "score_8_bit": pa.array(scores_from_logits(outcome.rounded), pa.float64()),
            "size": pa.array(outcome.size, pa.float32()),
            "threshold": pa.array([run.threshold] * count, pa.float64()),
        }
    )
