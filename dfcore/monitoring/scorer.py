"""Attack scores for each crop, from the same forward pass as its score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from dfcore.errors import BundleError, ConfigError, ShapeError
from dfcore.models import Detector
from dfcore.monitoring.buckets import SCORE_BUCKETS
from dfcore.monitoring.calibration import Calibration
from dfcore.monitoring.gaussian import Gaussian, Projection
from dfcore.monitoring.signals import BANDS, Squeezer, band_energies, look, squeezed

__all__ = [
    "ATTACK_SCORES_VERSION",
    "COMBINED",
    "VARIANTS",
    "AttackScorer",
    "Judgement",
    "Measured",
    "Statistics",
    "affordable",
    "combination",
]

ATTACK_SCORES_VERSION = 1
COMBINED = "combined"
VARIANTS: tuple[tuple[str, ...], ...] = ((), ("jpeg_75",), ("jpeg_75", "blur", "bits_4"))
"""Squeezers that a reference is fitted for: each is one more image in the forward pass."""

_SHARE = 0.2  # of a request's cost that the squeezed copies may add where each image costs the same
_REQUEST_FLOPS = 0.5e9  # decoding and finding faces in 512 x 512: 18 ms where EfficientNet-B0's .8e9 take 27
_BATCH = 64
_SHARPNESS = BANDS.index("luma_2")
_LARGEST = 30.0  # of a surprise, where it becomes a share: exp(-30) is nothing in float64


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found of N crops.

    Attributes:
        scores: P(fake), float64 (N,).
        features: penultimate features, float32 (N, D), for the payload log.
        parts: each sign (N,) in [0, 1): the share of clean crops of like quality that show less of it.
        combined: the same of the combination of all signs.
        flags: where a sign (`parts` and "combined") is beyond its threshold, bool (N,).
    """

    scores: NDArray[np.float64]
    features: NDArray[np.float32]
    parts: Mapping[str, NDArray[np.float64]]
    combined: NDArray[np.float64]
    flags: Mapping[str, NDArray[np.bool_]]

    def pooled(self) -> Judgement:
        """Return one judgement of all frames of a video: mean score and features, the median of each sign.

        A sign is raised if it is on more than half of the frames: rarer on clean videos than the stated rate
        of single crops, where the largest of many frames would be far more common.
        """
        return Judgement(
            self.scores.mean(keepdims=True),
            self.features.mean(axis=0, keepdims=True),
            {part: np.median(values, keepdims=True) for part, values in self.parts.items()},
            np.median(self.combined, keepdims=True),
            {part: raised.mean(keepdims=True) > 0.5 for part, raised in self.flags.items()},
        )


class Statistics:
    """The raw signs of images, from statistics of clean crops.

    Args:
        document: `projection`, `features`, `bands` as plain numbers.
        squeezers: names of the copies that the network sees.
        device: of the detector.
    """

    def __init__(self, document: Mapping[str, Any], squeezers: Sequence[str], device: torch.device) -> None:
        self.squeezers = tuple(squeezers)
        self.parts = (*self.squeezers, "mahalanobis", "frequency")
        self._project = Projection(document["projection"], device)
        self._features = Gaussian(document["features"], device)
        self._bands = Gaussian(document["bands"], device)

    def raw(self, logits: torch.Tensor, features: torch.Tensor, energies: torch.Tensor) -> torch.Tensor:
        """Return raw signs (N, P) by `parts`; more is more suspicious.

        Args:
            logits: ((1 + K) * N,) of `squeezed` images.
            features: (N, D) of the images themselves.
            energies: (N, 9), their `band_energies`.
        """
        clean, copies = logits[: len(features)], logits[len(features) :]
        moved = (
            copies.view(len(self.squeezers), len(features)) - clean
        ).abs()  # (K, N); the score's sigmoid would saturate
        far = torch.stack([self._features(self._project(features)), self._bands(energies)])
        return torch.cat([moved, far]).T.log1p()


def combination(squeezers: Sequence[str]) -> str:
    """Return the key of a variant's combination in the reference."""
    return f"{COMBINED}_{len(squeezers)}"


def affordable(detector: Detector) -> tuple[str, ...]:
    """Choose the squeezers that add at most a fifth to an image request.

    On an accelerator a forward pass of four images takes about as long as one, and all are chosen. On a CPU
    each copy costs as much as the image itself, which only a small network can afford beside decoding and
    finding faces; the other signs cost a few percent and stay.

    Returns:
        One of `VARIANTS`.
    """
    if detector.mean.device.type != "cpu":
        return VARIANTS[-1]
    side = detector.config.image_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        detector(detector.mean.new_zeros((1, 3, side, side)))
    flops = counter.get_total_flops()
    within = [one for one in VARIANTS if len(one) * flops <= _SHARE * (_REQUEST_FLOPS + flops)]
    return within[-1]


class Measured(NamedTuple):
    """Tensors on the detector's device: logits (N,), features (N, D), surprise and raised (N, P + 1).

    The last column is the combination.
    """

    logits: torch.Tensor
    features: torch.Tensor
    surprise: torch.Tensor
    raised: torch.Tensor


class AttackScorer:
    """Scores crops for signs of an attack, as calibrated when the bundle was built.

    A server that batches by itself, or runs the network in another engine, calls `batch`, runs it, and calls
    `judge`; `score` does all three.

    Args:
        detector: in eval mode, calibrated.
        reference: the content of reference.json.
        squeezers: one of `VARIANTS`; None takes what is `affordable`.

    Attributes:
        parts: names of the single signs.
        copies: how many images go through the network for each crop.
        histograms: of the calibrated signs on the reference's clean crops, as `histograms` in the reference.

    Raises:
        BundleError: the reference has no attack scores, or is of another version.
        ConfigError: squeezers that no reference is fitted for.
    """

    def __init__(
        self, detector: Detector, reference: Mapping[str, Any], squeezers: Sequence[str] | None = None
    ) -> None:
        self.detector = detector
        self.device = detector.mean.device
        chosen = affordable(detector) if squeezers is None else tuple(squeezers)
        if chosen not in VARIANTS:
            raise ConfigError(f"expected squeezers as one of {VARIANTS}, got {chosen}")
        document = reference.get("attack_scores")
        if not isinstance(document, dict) or document.get("version") != ATTACK_SCORES_VERSION:
            raise BundleError(
                f"expected attack_scores of version {ATTACK_SCORES_VERSION} in the reference, got none or "
                "another; build the bundle again with this version"
            )
        try:
            self._statistics = Statistics(document, chosen, self.device)
            self.calibration = Calibration(document, self.device)
            self.parts = self._statistics.parts
            self._together = combination(chosen)
            weights = [document["weights"][self._together][part] for part in self.parts]
            counts = [document["histograms"][name] for name in (*self.parts, self._together)]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"expected attack scores as `build_reference` writes them, got: {error!r}; rebuild the bundle"
            ) from error
        self._weights = torch.tensor(weights, dtype=torch.float32, device=self.device)
        self.copies = 1 + len(self._statistics.squeezers)
        self.histograms = {
            f"attack_score_{name}": {"le": [*SCORE_BUCKETS, None], "counts": count}
            for name, count in zip((*self.parts, COMBINED), counts, strict=True)
        }

    @classmethod
    def load(cls, detector: Detector, path: Path, squeezers: Sequence[str] | None = None) -> Self:
        """Read reference.json.

        Raises:
            BundleError: there is no such file, or it has no attack scores of this detector.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"expected a reference at {path}, got: {error}; rebuild the bundle") from error
        return cls(detector, document if isinstance(document, dict) else {}, squeezers)

    def batch(self, images: torch.Tensor, proxies: Mapping[str, Squeezer] | None = None) -> torch.Tensor:
        """Return what the network has to see for images (N, 3, H, W): (copies * N, 3, H, W)."""
        return squeezed(images, self._statistics.squeezers, proxies)

    def judge(self, images: torch.Tensor, logits: torch.Tensor, features: torch.Tensor) -> Measured:
        """Judge what the network said.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].
            logits: (copies * N,), calibrated, of `batch`.
            features: (N or copies * N, D).
        """
        features = features[: len(images)]
        energies = band_energies(images)
        raw = self._statistics.raw(logits, features, energies)
        bins = self.calibration.bins(energies[:, _SHARPNESS])
        single = self.calibration.surprise(raw, bins, self.parts)
        together = (single @ self._weights).unsqueeze(1)
        surprise = self.calibration.surprise(together, bins, [self._together])
        raised = torch.cat([
            self.calibration.raised(raw, bins, self.parts),
            self.calibration.raised(together, bins, [self._together]),
        ], dim=1)  # fmt: skip
        return Measured(logits[: len(images)], features, torch.cat([single, surprise], dim=1), raised)

    def measure(self, images: torch.Tensor, proxies: Mapping[str, Squeezer] | None = None) -> Measured:
        """Look at images (N, 3, H, W) once, with a gradient if they ask for one; see `squeezed`."""
        logits, features = look(self.detector, self.batch(images, proxies))
        return self.judge(images, logits, features)

    def score(self, crops: NDArray[np.uint8]) -> Judgement:
        """Score crops.

        Args:
            crops: uint8 (N, H, W, 3) RGB, made with the detector's preprocessing.

        Raises:
            ShapeError: another shape or type.
        """
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise ShapeError(f"expected crops uint8 (N, H, W, 3), got {crops.dtype} {crops.shape}")
        found = []
        with torch.inference_mode():
            for start in range(0, max(1, len(crops)), _BATCH):
                chunk = torch.from_numpy(np.ascontiguousarray(crops[start : start + _BATCH])).to(self.device)
                found.append(self.measure(chunk.permute(0, 3, 1, 2).float() / 255))
        return self.report(Measured(*(torch.cat(columns) for columns in zip(*found, strict=True))))

    def report(self, found: Measured) -> Judgement:
        """Bring what was measured to the host."""
        surprise = found.surprise.double().clamp_max(_LARGEST)
        shares = (-torch.expm1(-surprise)).cpu().numpy().T
        raised = found.raised.cpu().numpy().T
        names = (*self.parts, COMBINED)
        return Judgement(
            scores=found.logits.double().sigmoid().cpu().numpy(),
            features=found.features.float().cpu().numpy(),
            parts=dict(zip(self.parts, shares, strict=False)),
            combined=shares[-1],
            flags=dict(zip(names, raised, strict=True)),
        )
