"""From raw signs to rates among clean crops: thresholds and tails, for each source quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.errors import DataError

__all__ = ["Calibration", "fit_calibration"]

Floats = NDArray[np.float64]

_LEVELS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_FEWEST = 50  # clean crops in a bin of quality; with fewer, it takes the thresholds of all
_CLOSEST = 1e-6  # two knots of a tail


class Calibration:
    """How surprising a value is: minus the logarithm of the share of clean crops of like quality above it.

    Between the quantiles of the clean crops the surprise is interpolated, beyond the last it goes on with
    the tail's slope, so that it ranks and has a gradient everywhere above the lowest clean value.

    Args:
        document: from `fit_calibration`.
        device: where values are.
    """

    def __init__(self, document: Mapping[str, Any], device: torch.device) -> None:
        self.parts = tuple(document["parts"])
        self.limit = -math.log(document["false_positive_rate"])
        self._edges = torch.tensor(document["quality_edges"], dtype=torch.float32, device=device)
        levels = torch.tensor(document["levels"], dtype=torch.float32, device=device)
        knots = [document["knots"][part] for part in self.parts]
        self._knots = torch.tensor(knots, dtype=torch.float32, device=device).transpose(0, 1)  # (bins, P, L)
        thresholds = [document["thresholds"][part] for part in self.parts]
        self._thresholds = torch.tensor(thresholds, dtype=torch.float32, device=device).T  # (bins, P)
        surprise = -torch.log1p(-levels)
        gaps = self._knots.diff(dim=2).clamp_min(_CLOSEST)
        self._gaps = torch.cat([gaps, torch.full_like(gaps[..., :1], math.inf)], dim=2)
        # one slope from the median on: that of the last two quantiles is mostly noise
        tail = (surprise[-1] - surprise[1]) / (self._knots[..., -1:] - self._knots[..., 1:2]).clamp_min(
            _CLOSEST
        )
        self._slopes = torch.cat([surprise.diff() / gaps, tail], dim=2)

    def bins(self, quality: torch.Tensor) -> torch.Tensor:
        """Return the bin of each quality (N,), int64."""
        return torch.bucketize(quality.detach().contiguous(), self._edges)

    def surprise(self, values: torch.Tensor, bins: torch.Tensor, parts: Sequence[str]) -> torch.Tensor:
        """Return the surprise (N, len(parts)), at least 0, of raw values of the same shape."""
        columns = [self.parts.index(part) for part in parts]
        knots, slopes, gaps = (table[bins][:, columns] for table in (self._knots, self._slopes, self._gaps))
        climbed = (values.unsqueeze(2) - knots).clamp_min(0).minimum(gaps)
        return (climbed * slopes).sum(dim=2)

    def raised(self, values: torch.Tensor, bins: torch.Tensor, parts: Sequence[str]) -> torch.Tensor:
        """Return where raw values (N, len(parts)) are beyond the threshold of their bin, bool."""
        columns = [self.parts.index(part) for part in parts]
        return values > self._thresholds[bins][:, columns]


def fit_calibration(
    values: Mapping[str, Floats], quality: Floats, edges: Sequence[float], false_positive_rate: float
) -> dict[str, Any]:
    """Describe clean crops.

    The threshold of a bin is the order statistic that a new clean crop exceeds with at most the stated
    probability, whatever the distribution (split conformal). Where a bin holds too few crops for that rate,
    it is their largest value, and `attained` says which rate that guarantees.

    Args:
        values: raw signs of the same n clean crops, (n,), by part.
        quality: (n,).
        edges: of the bins of quality, ascending.
        false_positive_rate: of each part alone, in (0, 1).

    Returns:
        Plain numbers: `parts`, `quality_edges`, `counts`, `attained` (by bin), `levels`, `knots` (part, bin,
        level), `thresholds` (part, bin), `false_positive_rate`.

    Raises:
        DataError: no crops, or values that are not finite.

    Source: Vovk et al., "Algorithmic Learning in a Random World" (2005), chapter 4.
    """
    if not len(quality) or not all(np.isfinite(column).all() for column in (quality, *values.values())):
        raise DataError(
            f"expected finite signs of clean crops, got {len(quality)} crops; check the detector's logits"
        )
    places = np.searchsorted(np.asarray(edges), quality, side="left")
    counts = np.bincount(places, minlength=len(edges) + 1)
    rows = [
        np.flatnonzero(places == place) if count >= _FEWEST else np.arange(len(quality))
        for place, count in enumerate(counts)
    ]
    fewest = min(len(chosen) for chosen in rows)
    levels = [level for level in _LEVELS if _rank(level, fewest) <= fewest]  # the sample says nothing beyond
    return {
        "parts": list(values),
        "false_positive_rate": false_positive_rate,
        "quality_edges": [float(f"{edge:.6g}") for edge in edges],
        "counts": counts.tolist(),
        "attained": [max(false_positive_rate, 1 / (len(chosen) + 1)) for chosen in rows],
        "levels": levels,
        "knots": {
            part: [[_quantile(column[chosen], level) for level in levels] for chosen in rows]
            for part, column in values.items()
        },
        "thresholds": {
            part: [_quantile(column[chosen], 1 - false_positive_rate) for chosen in rows]
            for part, column in values.items()
        },
    }


def _quantile(values: Floats, level: float) -> float:
    """Return the smallest value that a new one exceeds with a probability of at most 1 - level."""
    rank = min(max(_rank(level, len(values)), 1), len(values))
    return float(f"{np.sort(values)[rank - 1]:.6g}")


def _rank(level: float, count: int) -> int:
    return math.ceil(level * (count + 1) - 1e-9)
