"""Fit attack scores: statistics of clean crops, thresholds, and weights against attacked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from dfcore.config import Config
from dfcore.errors import DataError
from dfcore.models import Detector
from dfcore.monitoring.buckets import SCORE_BUCKETS, bucket_counts
from dfcore.monitoring.calibration import Calibration, fit_calibration
from dfcore.monitoring.gaussian import Projection, fit_gaussian, fit_projection
from dfcore.monitoring.scorer import ATTACK_SCORES_VERSION, VARIANTS, Statistics, combination
from dfcore.monitoring.signals import BANDS, band_energies, look, squeezed

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = [
    "FEWEST_CROPS",
    "SIGNS",
    "STATIC_ATTACKERS",
    "AttackScoreConfig",
    "Attacker",
    "fit_attack_scores",
    "to_bytes",
]

STATIC_ATTACKERS: tuple[Mapping[str, Any], ...] = (
    {"kind": "pgd", "epsilon": "2/255", "step_size": "0.5/255", "steps": 10},
    {"kind": "pgd", "epsilon": "4/255", "step_size": "1/255", "steps": 10},
    {"kind": "apgd", "epsilon": "8/255", "steps": 10},
)
"""What the combination is fitted against, as settings for `dfcore.attacks.build_attack`."""

SIGNS = (*VARIANTS[-1], "mahalanobis", "frequency")
_FOLDS = 5
_BATCH = 64
_ATTACKED = 128  # crops that each attacker gets; the combination has a handful of weights
FEWEST_CROPS = 16
_SHARPNESS = BANDS.index("luma_2")
_RIDGE = 1e-2

Floats = NDArray[np.float64]


class Attacker(Protocol):
    """What `dfcore.attacks.Attack` does; attacks stand above this package."""

    def __call__(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return attacked images."""


class AttackScoreConfig(Config):
    """What attack scores are made of.

    Attributes:
        false_positive_rate: of each sign, and of the combination, on clean crops of each source quality.
        components: principal components of the features that are kept.
        quality_bins: bins of sharpness that have thresholds of their own.
    """

    false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5)
    components: int = Field(default=32, ge=1)
    quality_bins: int = Field(default=3, ge=1)


class _Seen(NamedTuple):
    logits: torch.Tensor  # (1 + K, n)
    features: Floats  # (n, D)
    energies: Floats  # (n, 9)


def fit_attack_scores(
    detector: Detector,
    crops: Crops,
    attackers: Sequence[Attacker] = (),
    config: AttackScoreConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit attack scores on clean crops, usually of the validation split.

    The statistics that a crop is compared with come from other people's crops (five folds by `group_ids`), so
    that thresholds hold on people who were never seen.

    Args:
        detector: in eval mode, calibrated.
        crops: at least 16, of both classes if possible.
        attackers: what the weights of the combination are fitted against; without any, all signs weigh alike
            (Fisher's combination of tail probabilities).
        config: what the scores are made of.
        seed: of folds and attacks.

    Returns:
        Plain numbers, for `attack_scores` in reference.json.

    Raises:
        DataError: too few crops, or signs that are not finite.
    """
    config = config or AttackScoreConfig()
    if len(crops) < FEWEST_CROPS:
        raise DataError(f"expected at least {FEWEST_CROPS} crops to fit attack scores on, got {len(crops)}")
    folds = _folds(crops.group_ids, seed)
    seen = _see(detector, crops.images)
    known = _Known(seen, crops.labels, folds, config.components)
    quality = seen.energies[:, _SHARPNESS]
    edges = np.quantile(quality, np.arange(1, config.quality_bins) / config.quality_bins).tolist()
    whole = _statistics(seen, crops.labels, config.components)
    clean = known.raw(seen, folds)
    columns = dict(zip(SIGNS, clean.T, strict=True))
    single = fit_calibration(columns, quality, edges, config.false_positive_rate)
    surprise = _surprise(single, clean, quality)
    attacked, described = _attacked(detector, crops, attackers, seed)
    theirs = None
    if len(attacked.images):
        struck = _see(detector, attacked.images)
        theirs = _surprise(single, known.raw(struck, folds[attacked.rows]), struck.energies[:, _SHARPNESS])
    combined, weights = _combine(surprise, theirs)
    columns |= combined
    calibrated = fit_calibration(columns, quality, edges, config.false_positive_rate)
    return {
        "version": ATTACK_SCORES_VERSION,
        **calibrated,
        **whole,
        "histograms": _histograms(calibrated, np.stack(list(columns.values()), axis=1), quality),
        "weights": weights,
        "clean": len(crops),
        "attacked": len(attacked.images),
        "fitted_against": described,
    }


def to_bytes(images: torch.Tensor) -> NDArray[np.uint8]:
    """Round images (N, 3, H, W) in [0, 1] to what a client can send: uint8 (N, H, W, 3)."""
    pixels = (images.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


class _Attacked(NamedTuple):
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]


def _attacked(
    detector: Detector, crops: Crops, attackers: Sequence[Attacker], seed: int
) -> tuple[_Attacked, list[Any]]:
    count = min(_ATTACKED, len(crops))
    rows = np.arange(count) * len(crops) // count  # spread over videos and methods
    images, described = [], []
    for number, attacker in enumerate(attackers):
        generator = torch.Generator(detector.mean.device).manual_seed(seed + number)
        for start in range(0, count, _BATCH):
            chunk = rows[start : start + _BATCH]
            labels = torch.from_numpy(crops.labels[chunk]).to(detector.mean.device)
            struck = attacker(
                detector, crops.tensor(detector.mean.device, chunk), labels,
                threshold=detector.threshold, generator=generator,
            )  # fmt: skip
            images.append(to_bytes(struck))
        described.append(attacker.describe() if hasattr(attacker, "describe") else type(attacker).__name__)
    if not images:
        return _Attacked(crops.images[:0], rows[:0]), []
    return _Attacked(np.concatenate(images), np.tile(rows, len(attackers))), described


def _folds(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    names, places = np.unique(groups, return_inverse=True)
    turn = np.random.default_rng(seed).permutation(len(names)) % min(_FOLDS, len(names))
    return np.asarray(turn[places], dtype=np.int64)


@torch.inference_mode()
def _see(detector: Detector, images: NDArray[np.uint8]) -> _Seen:
    device = detector.mean.device
    logits, features, energies = [], [], []
    for start in range(0, len(images), _BATCH):
        chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).to(device)
        pixels = chunk.permute(0, 3, 1, 2).float() / 255
        answer, seen = look(detector, squeezed(pixels, VARIANTS[-1]))
        logits.append(answer.view(-1, len(pixels)).cpu())
        features.append(seen[: len(pixels)].double().cpu().numpy())
        energies.append(band_energies(pixels).double().cpu().numpy())
    return _Seen(torch.cat(logits, dim=1), np.concatenate(features), np.concatenate(energies))


def _statistics(seen: _Seen, labels: NDArray[np.int64], components: int) -> dict[str, Any]:
    projection = fit_projection(seen.features, components)
    project = Projection(projection, torch.device("cpu"))
    coordinates = project(torch.from_numpy(seen.features).float()).double().numpy()
    return {
        "projection": projection,
        "features": fit_gaussian(coordinates, labels),
        "bands": fit_gaussian(seen.energies, np.zeros_like(labels)),
    }


class _Known:
    """Statistics of clean crops, once without each fold."""

    def __init__(
        self, seen: _Seen, labels: NDArray[np.int64], folds: NDArray[np.int64], components: int
    ) -> None:
        self._without: dict[int, Statistics] = {}
        for fold in np.unique(folds).tolist():
            kept = np.flatnonzero(folds != fold)
            kept = kept if len(kept) else np.arange(len(folds))  # one person only
            others = _Seen(seen.logits[:, kept], seen.features[kept], seen.energies[kept])
            document = _statistics(others, labels[kept], components)
            self._without[fold] = Statistics(document, VARIANTS[-1], torch.device("cpu"))

    def raw(self, seen: _Seen, folds: NDArray[np.int64]) -> Floats:
        """Return raw signs (m, P), each row by the statistics of the other folds."""
        raw = np.empty((len(folds), len(SIGNS)))
        for fold, statistics in self._without.items():
            rows = np.flatnonzero(folds == fold)
            found = statistics.raw(
                seen.logits[:, rows].flatten(),
                torch.from_numpy(seen.features[rows]).float(),
                torch.from_numpy(seen.energies[rows]).float(),
            )
            raw[rows] = found.double().numpy()
        return raw


def _surprise(document: dict[str, Any], raw: Floats, quality: Floats) -> Floats:
    calibration = Calibration(document, torch.device("cpu"))
    bins = calibration.bins(torch.from_numpy(quality).float())
    values = torch.from_numpy(raw).float()
    return np.asarray(calibration.surprise(values, bins, calibration.parts).double().numpy())


def _histograms(document: dict[str, Any], raw: Floats, quality: Floats) -> dict[str, list[int]]:
    """Count the clean crops' calibrated signs into `SCORE_BUCKETS`; about even, by construction."""
    shares = -np.expm1(-_surprise(document, raw, quality))
    return {
        part: bucket_counts(column, SCORE_BUCKETS)
        for part, column in zip(document["parts"], shares.T, strict=True)
    }


def _combine(clean: Floats, attacked: Floats | None) -> tuple[dict[str, Floats], dict[str, dict[str, float]]]:
    """Return, for each choice of squeezers, clean crops' combined surprise and the weight of each sign."""
    columns, weights = {}, {}
    for squeezers in VARIANTS:
        parts = (*squeezers, *SIGNS[-2:])
        chosen = [SIGNS.index(part) for part in parts]
        fitted = _fit_weights(clean[:, chosen], None if attacked is None else attacked[:, chosen])
        columns[combination(squeezers)] = clean[:, chosen] @ fitted
        weights[combination(squeezers)] = dict(zip(parts, fitted.tolist(), strict=True))
    return columns, weights


def _fit_weights(clean: Floats, attacked: Floats | None) -> Floats:
    """Fit a logistic regression with weights of at least 0: no sign may speak for innocence.

    Classes weigh alike. Returns (P,), which sum to P, since only the ranking counts; ones without attacks.
    """
    if attacked is None:
        return np.ones(clean.shape[1])
    from scipy.optimize import minimize

    values = np.concatenate([clean, attacked])
    sides = np.r_[-np.ones(len(clean)), np.ones(len(attacked))]
    shares = np.r_[np.full(len(clean), 0.5 / len(clean)), np.full(len(attacked), 0.5 / len(attacked))]

    def loss(point: Floats) -> tuple[float, Floats]:
        margins = sides * (values @ point[:-1] + point[-1])
        slope = -sides * shares * np.exp(-np.logaddexp(0, margins))
        gradient = np.r_[values.T @ slope + 2 * _RIDGE * point[:-1], slope.sum()]
        return float(shares @ np.logaddexp(0, -margins) + _RIDGE * (point[:-1] ** 2).sum()), gradient

    count = values.shape[1]
    found = minimize(
        loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=[(0, None)] * count + [(None, None)]
    )
    weights = np.asarray(found.x[:-1], dtype=np.float64)
    if not weights.sum() > 0:
        return np.ones(count)
    return np.array([float(f"{weight:.6g}") for weight in weights * count / weights.sum()])
