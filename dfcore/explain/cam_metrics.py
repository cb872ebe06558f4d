"""How far one attention map is from another: clean and attacked, baseline and robust, CAM and mask.

All take maps (N, h, w) in [0, 1] and compare the i-th with the i-th.

Definitions:
    iinc          1 / (3 - |U|) * (0 if both maps are empty; 1 if one is; else 2 - |I| / |A| - |I| / |B|):
                  A, B what is at least .5, I their intersection, U their union, |.| shares of the area.
                  Lower is nearer: 0 for equal maps, 2 / (3 - |U|) for disjoint ones, at most 1
    ssim          mean structural similarity of the two maps: Gaussian window of sigma 1.5, data range 1
    cosine        of the angle between the maps as vectors: at least 0, as no map is negative
    top_iou       intersection over union of the pixels that belong to each map's highest share

Source: iinc: Dang et al., arXiv:1910.01717; ssim: Wang et al., IEEE TIP 13 (2004), by scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from dfcore.errors import ConfigError, ShapeError

__all__ = ["CamComparison", "cam_cosine", "cam_ssim", "compare_cams", "iinc", "top_iou"]

Maps = NDArray[np.floating] | NDArray[np.bool_]
Figures = NDArray[np.float64]
_SIGMA, _WINDOW = 1.5, 11
_TOP_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class CamComparison:
    """Four figures for each pair of maps, each (N,) float64; defined above."""

    iinc: Figures
    ssim: Figures
    cosine: Figures
    top_iou: Figures

    def means(self) -> dict[str, float]:
        """Return the mean of each figure over the pairs; NaN without pairs."""
        return {
            name: float(np.mean(values)) if len(values) else float("nan")
            for name, values in vars(self).items()
        }


def compare_cams(reference: Maps, other: Maps, share: float = _TOP_SHARE) -> CamComparison:
    """Compare CAMs of the same faces by every measure.

    Args:
        reference: (N, h, w) in [0, 1], such as the CAMs of clean images, or of the baseline.
        other: the same shape, such as the CAMs of attacked images, or of the robust detector.
        share: of the pixels that count as the top, in (0, 1].

    Raises:
        ShapeError: maps of different shapes, outside [0, 1] or smaller than SSIM's window of 11 pixels.
        ConfigError: a share outside (0, 1].
    """
    return CamComparison(
        iinc(reference, other),
        cam_ssim(reference, other),
        cam_cosine(reference, other),
        top_iou(reference, other, share),
    )


def iinc(reference: Maps, attention: Maps, level: float = 0.5) -> Figures:
    """Return the Inverse Intersection Non-Containment of two maps.

    Args:
        reference: (N, h, w) in [0, 1]: the CAM of the clean image, or a manipulation mask (bool, or 1 where
            pixels are manipulated).
        attention: the same shape: the CAM that is judged.
        level: from which a pixel belongs to its map.

    Returns:
        (N,) in [0, 1]; lower is nearer. It is symmetric.

    Raises:
        ShapeError: maps of different shapes or outside [0, 1].

    Source: Dang et al., arXiv:1910.01717.
    """
    first, second = (maps >= level for maps in _checked(reference, attention))
    both = (first & second).mean((1, 2))
    union = (first | second).mean((1, 2))
    areas = first.mean((1, 2)), second.mean((1, 2))
    # where a map is empty so is the intersection: the quotient is 0 whatever it is divided by
    outside = 2 - sum(both / np.where(area > 0, area, 1) for area in areas)
    empty = np.minimum(*areas) == 0
    outside = np.where(empty, np.where(union > 0, 1.0, 0.0), outside)
    return np.asarray(outside / (3 - union), dtype=np.float64)


def cam_ssim(reference: Maps, other: Maps) -> Figures:
    """Return the mean structural similarity, (N,) in [-1, 1]; 1 for equal maps.

    Raises:
        ShapeError: maps of different shapes, outside [0, 1] or smaller than the window of 11 pixels.
    """
    first, second = _checked(reference, other)
    if min(first.shape[1:]) < _WINDOW:
        raise ShapeError(
            f"expected maps of at least {_WINDOW} px for SSIM, got {first.shape[1:]}; "
            "compare CAMs at the size of their images"
        )
    values = [
        structural_similarity(  # type: ignore[no-untyped-call]  # ships no types
            one, two, data_range=1.0, gaussian_weights=True, sigma=_SIGMA, use_sample_covariance=False
        )
        for one, two in zip(first, second, strict=True)
    ]
    return np.array(values, dtype=np.float64)


def cam_cosine(reference: Maps, other: Maps) -> Figures:
    """Return the cosine similarity, (N,) in [0, 1]; two empty maps are equal, an empty one is like no other.

    Raises:
        ShapeError: maps of different shapes or outside [0, 1].
    """
    first, second = (_rows(maps) for maps in _checked(reference, other))
    norms = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    product = norms[0] * norms[1]
    cosine = (first * second).sum(1) / np.where(product > 0, product, 1)
    alike = np.where(product > 0, cosine, norms[0] == norms[1])
    return np.asarray(np.clip(alike, 0, 1), dtype=np.float64)


def top_iou(reference: Maps, other: Maps, share: float = _TOP_SHARE) -> Figures:
    """Return the intersection over union of the highest pixels.

    To a map's top belong the pixels that reach its k-th highest value, k being `share` of all pixels, and
    are above 0: pixels with equal values belong together, and an empty map has no top.

    Args:
        reference, other: (N, h, w) in [0, 1].
        share: of the pixels, in (0, 1].

    Returns:
        (N,) in [0, 1]; two empty maps are equal.

    Raises:
        ShapeError: maps of different shapes or outside [0, 1].
        ConfigError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share of the pixels in (0, 1], got {share}")
    first, second = (_top(maps, share) for maps in _checked(reference, other))
    union = (first | second).sum(1)
    overlap = (first & second).sum(1) / np.where(union > 0, union, 1)
    return np.asarray(np.where(union > 0, overlap, 1.0), dtype=np.float64)


def _top(maps: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    flat = _rows(maps)
    place = flat.shape[1] - max(1, round(share * flat.shape[1]))
    level = np.partition(flat, place, axis=1)[:, place, None]
    return np.asarray((flat >= level) & (flat > 0))


def _rows(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    # not -1, which no maps at all would leave open
    return maps.reshape(len(maps), maps.shape[1] * maps.shape[2])


def _checked(reference: Maps, other: Maps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if reference.ndim != 3 or reference.shape != other.shape or 0 in reference.shape[1:]:
        raise ShapeError(f"expected two times maps (N, h, w), got {reference.shape} and {other.shape}")
    for maps in (reference, other):
        if not bool(((maps >= 0) & (maps <= 1)).all()):
            raise ShapeError(f"expected maps in [0, 1], got {maps.min():.4g} to {maps.max():.4g}")
    return reference.astype(np.float64), other.astype(np.float64)
