"""Has what comes in drifted from what the detector was accepted on? By slice; effect sizes decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from dfcore.config import Config
from dfcore.errors import DataError
from dfcore.monitoring.buckets import SCORE_BUCKETS, bucket_counts, psi
from dfcore.monitoring.mmd import median_distance, mmd_test
from dfcore.monitoring.two_sample import classifier_test

__all__ = ["DriftConfig", "DriftReport", "SliceDrift", "holm", "measure_drift"]

Floats = NDArray[np.float64]

ALL = "all"


class DriftConfig(Config):
    """What counts as drift.

    An effect must be as large as stated and, after Holm's correction over all tests of all slices, unlikely
    by chance. A p-value alone never decides: with enough rows every difference is significant.

    Attributes:
        auc: of the classifier that tells current from reference embeddings; 0.65 is what a shift of a mean by
            half a standard deviation in one direction gives.
        mmd: effect of the discrepancy, in [0, 1].
        psi: population stability index of the score, or of an attack score; it has no p-value, and counts
            only for slices of at least 200 rows, where chance reaches about 0.2.
        significance: of all tests together.
        fewest: rows that a slice needs on both sides.
        most: rows taken of each side, drawn evenly at random.
        seed: of draws and permutations.
    """

    auc: float = Field(default=0.65, gt=0.5, le=1)
    mmd: float = Field(default=0.05, gt=0, le=1)
    psi: float = Field(default=0.25, gt=0)
    significance: float = Field(default=0.05, gt=0, lt=1)
    fewest: int = Field(default=50, ge=10)
    most: int = Field(default=2000, ge=10)
    seed: int = 0


class SliceDrift(Config):
    """One slice.

    Attributes:
        slice: "all", or "key=value" of the log's slices.
        reference, current: rows.
        auc, auc_p: of the classifier two-sample test; p corrected over all tests.
        mmd, mmd_p: effect of the maximum mean discrepancy.
        psi: by score: "score", and each attack score.
        reasons: what was beyond its bound; empty where nothing drifted.
    """

    slice: str
    reference: int
    current: int
    auc: float | None = None
    auc_p: float | None = None
    mmd: float | None = None
    mmd_p: float | None = None
    psi: dict[str, float] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()


class DriftReport(Config):
    """All slices; `skipped` names those with too few rows or without a reference."""

    drifted: bool
    config: DriftConfig
    slices: tuple[SliceDrift, ...]
    skipped: dict[str, str] = Field(default_factory=dict)
    kind: Literal["drift"] = "drift"


_PSI_ROWS = 200


def measure_drift(
    reference: pa.Table,
    current: pa.Table,
    config: DriftConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DriftReport:
    """Compare two payload logs.

    A slice is compared with the same slice of the reference: more clients of one kind are no drift in it.

    Args:
        reference: rows by `PAYLOAD_SCHEMA`, such as `rampart monitor score --data` writes them.
        current: rows of what came since.
        config: what counts as drift.
        progress: called with (done, total) slices.

    Raises:
        DataError: neither side has a slice in common with enough rows, or embeddings of other detectors.
    """
    config = config or DriftConfig()
    sides = (_Side(reference), _Side(current))
    if len(weights := sorted(sides[0].weights | sides[1].weights)) > 1:
        raise DataError(
            f"expected logs of one detector, got those of weights {', '.join(one[:12] for one in weights)}; "
            "score the reference again with the weights that are served"
        )
    names, skipped = _choose(sides, config)
    if not names:
        raise DataError(f"expected {config.fewest} rows on both sides, got too few: {skipped}")
    # enough permutations for the smallest corrected p-value to be able to count
    permutations = max(200, math.ceil(2 * 2 * len(names) / config.significance))
    found = []
    for done, name in enumerate(names):
        found.append(_measure(name, sides, config, permutations))
        if progress is not None:
            progress(done + 1, len(names))
    judged = _judge(found, config)
    drifted = any(one.reasons for one in judged)
    return DriftReport(drifted=drifted, config=config, slices=tuple(judged), skipped=skipped)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being many: the chance of any false one among them stays as stated.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


class _Side:
    """The columns of one log as arrays."""

    def __init__(self, table: pa.Table) -> None:
        self.weights = set(table["weights"].to_pylist())
        self.scores = table["score"].to_numpy().astype(np.float64)
        self._attack = [dict(row or ()) for row in table["attack"].to_pylist()]
        self._slices = [dict(row or ()) for row in table["slices"].to_pylist()]
        self._embedding = table["embedding"].combine_chunks()
        self._described = self._embedding.is_valid().to_numpy(zero_copy_only=False)

    def rows(self, name: str) -> NDArray[np.int64]:
        """Return the rows of a slice."""
        if name == ALL:
            return np.arange(len(self.scores))
        key, _, value = name.partition("=")
        return np.flatnonzero([slices.get(key) == value for slices in self._slices])

    def names(self) -> set[str]:
        """Return the slices."""
        return {ALL, *(f"{key}={value}" for row in self._slices for key, value in row.items())}

    def attack(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, Floats]]:
        """Yield each attack score that all of these rows have."""
        kinds = set.intersection(*(set(self._attack[row]) for row in rows)) if len(rows) else set()
        for kind in sorted(kinds):
            yield kind, np.array([self._attack[row][kind] for row in rows])

    def embeddings(self, rows: NDArray[np.int64], most: int, seed: int) -> Floats:
        """Return embeddings (n, D) of at most so many rows that have one."""
        rows = rows[self._described[rows]]
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        taken = self._embedding.take(pa.array(rows))
        flat = taken.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        widths = set(np.diff(taken.offsets.to_numpy()).tolist())
        if len(widths) > 1:
            raise DataError(f"expected embeddings of one length, got {sorted(widths)}; give one model's log")
        return flat.reshape(len(rows), -1) if len(rows) else np.zeros((0, 0))


def _choose(sides: tuple[_Side, _Side], config: DriftConfig) -> tuple[list[str], dict[str, str]]:
    chosen, skipped = [], {}
    for name in sorted(sides[0].names() | sides[1].names(), key=lambda name: (name != ALL, name)):
        counts = [len(side.rows(name)) for side in sides]
        if min(counts) >= config.fewest:
            chosen.append(name)
        else:
            skipped[name] = f"{counts[0]} and {counts[1]} rows"
    return chosen, skipped


def _measure(name: str, sides: tuple[_Side, _Side], config: DriftConfig, permutations: int) -> SliceDrift:
    rows = [side.rows(name) for side in sides]
    indices = {"score": _psi(*(side.scores[chosen] for side, chosen in zip(sides, rows, strict=True)))}
    before, after = (dict(side.attack(chosen)) for side, chosen in zip(sides, rows, strict=True))
    indices |= {kind: _psi(before[kind], after[kind]) for kind in before if kind in after}
    found = SliceDrift(slice=name, reference=len(rows[0]), current=len(rows[1]), psi=indices)
    known, new = (
        side.embeddings(chosen, config.most, config.seed) for side, chosen in zip(sides, rows, strict=True)
    )
    if min(len(known), len(new)) < config.fewest:
        return found
    spread = np.maximum(known.std(axis=0), 1e-3 * max(float(known.std()), 1e-12))
    known, new = (known - known.mean(axis=0)) / spread, (new - known.mean(axis=0)) / spread
    told = classifier_test(known, new, permutations=permutations, seed=config.seed)
    # the reference's own width: effects of two days can then be compared, and far samples reach 1
    width = median_distance(known, np.random.default_rng(config.seed))
    apart = mmd_test(known, new, permutations=permutations, bandwidth=width, seed=config.seed)
    return found.model_copy(
        update={"auc": told.auc, "auc_p": told.p_value, "mmd": apart.effect, "mmd_p": apart.p_value}
    )


def _psi(before: Floats, after: Floats) -> float:
    return psi(bucket_counts(before, SCORE_BUCKETS), bucket_counts(after, SCORE_BUCKETS))


def _judge(found: Sequence[SliceDrift], config: DriftConfig) -> list[SliceDrift]:
    tested = [(i, name) for i, one in enumerate(found) if one.auc is not None for name in ("auc", "mmd")]
    corrected = dict(
        zip(tested, holm([getattr(found[index], f"{name}_p") for index, name in tested]), strict=True)
    )
    judged = []
    for index, one in enumerate(found):
        reasons = []
        update: dict[str, object] = {}
        for name in ("auc", "mmd"):
            if (index, name) not in corrected:
                continue
            value, bound, p_value = getattr(one, name), getattr(config, name), corrected[index, name]
            update[f"{name}_p"] = p_value
            if value >= bound and p_value <= config.significance:
                reasons.append(f"{name} {value:.3f} >= {bound:g}")
        if min(one.reference, one.current) >= _PSI_ROWS:
            reasons += [
                f"psi of {kind} {value:.3f} >= {config.psi:g}"
                for kind, value in one.psi.items() if value >= config.psi
            ]  # fmt: skip
        judged.append(one.model_copy(update={**update, "reasons": tuple(reasons)}))
    return judged
