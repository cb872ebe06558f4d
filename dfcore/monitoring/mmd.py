"""Maximum mean discrepancy: how far apart two samples of vectors are, whatever their distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError

__all__ = ["MMD", "check_samples", "median_distance", "mmd_test"]

Floats = NDArray[np.float64]

_FOR_MEDIAN = 1000  # rows; the median of half a million distances is known well enough


class MMD(NamedTuple):
    """The result.

    Attributes:
        squared: unbiased estimate of the squared discrepancy; about 0 for equal distributions, may be below.
        effect: `squared` over the mean similarity within the samples: 0 equal, 1 nothing in common.
        p_value: share of permutations with at least this discrepancy, the observed one among them.
        bandwidth: of the Gaussian kernel.
    """

    squared: float
    effect: float
    p_value: float
    bandwidth: float


def mmd_test(
    reference: Floats,
    current: Floats,
    *,
    permutations: int = 200,
    bandwidth: float | None = None,
    seed: int = 0,
    chunk: int = 1024,
) -> MMD:
    """Estimate the discrepancy with a Gaussian kernel exp(-d^2 / (2 b^2)) and test it by permutation.

    The kernel is made `chunk` rows at a time and meets all permutations at once, so that memory grows with
    n + m and not with its square.

    Args:
        reference: (n, D), n > 1.
        current: (m, D), m > 1.
        permutations: how many.
        bandwidth: b; None takes the median distance within the pooled sample.
        seed: of the permutations.
        chunk: rows of the kernel in memory.

    Raises:
        ShapeError: samples that are not finite, have other columns, or fewer than two rows.

    Source: Gretton et al., "A Kernel Two-Sample Test" (JMLR 2012), equation 3 and section 5.
    """
    check_samples(reference, current)
    pooled = np.concatenate([reference, current]).astype(np.float64)
    pooled -= pooled.mean(axis=0)  # distances by the dot product lose digits far from the origin
    rng = np.random.default_rng(seed)
    width = median_distance(pooled, rng) if bandwidth is None else bandwidth
    sides = np.zeros((len(pooled), permutations + 1))
    sides[: len(reference), 0] = 1
    for column in range(1, permutations + 1):
        sides[:, column] = rng.permutation(sides[:, 0])
    within, total_of = np.zeros(permutations + 1), np.zeros(len(pooled))
    lengths = (pooled**2).sum(axis=1)
    for start in range(0, len(pooled), chunk):
        rows = slice(start, start + chunk)
        squared = lengths[rows, None] + lengths - 2 * pooled[rows] @ pooled.T
        kernel = np.exp(-np.maximum(squared, 0) / (2 * width**2))
        kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0  # unbiased: no pair (x, x)
        within += np.einsum("np,np->p", sides[rows], kernel @ sides)
        total_of[rows] = kernel.sum(axis=1)
    n, m = len(reference), len(current)
    across = total_of @ sides - within
    same_x, same_y = within / (n * (n - 1)), (total_of.sum() - within - 2 * across) / (m * (m - 1))
    values = same_x + same_y - 2 * across / (n * m)
    p_value = float((values >= values[0] - 1e-12).mean())
    return MMD(float(values[0]), float(values[0] / max(same_x[0] + same_y[0], 1e-12)), p_value, width)


def median_distance(values: Floats, rng: np.random.Generator) -> float:
    """Return the median distance between two rows, of at most a thousand; 1 where all are equal."""
    from scipy.spatial.distance import pdist

    if len(values) > _FOR_MEDIAN:
        values = values[rng.choice(len(values), _FOR_MEDIAN, replace=False)]
    return float(np.median(pdist(values))) or 1.0


def check_samples(reference: Floats, current: Floats) -> None:
    """Require two samples (n, D) and (m, D) of finite numbers, of two rows or more.

    Raises:
        ShapeError: otherwise.
    """
    shapes = f"{reference.shape} and {current.shape}"
    if reference.ndim != 2 or current.ndim != 2 or reference.shape[1] != current.shape[1]:
        raise ShapeError(f"expected two samples (n, D) and (m, D), got {shapes}")
    if min(len(reference), len(current)) < 2 or not reference.shape[1]:
        raise ShapeError(f"expected at least two rows in both samples, got {shapes}")
    if not (np.isfinite(reference).all() and np.isfinite(current).all()):
        raise ShapeError("expected finite samples, got NaN or infinity; leave those rows out")
