"""Class-conditional Gaussians as plain numbers: fitted in NumPy, measured in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Gaussian", "Projection", "fit_gaussian", "fit_projection"]

Floats = NDArray[np.float64]

_SMALLEST = 1e-12


class Projection:
    """Principal components, and how much of a vector they leave out.

    A perturbed image moves features where clean ones hardly vary; what is left out is therefore kept as one
    number, the logarithm of its squared length.

    Args:
        document: from `fit_projection`.
        device: where features are.
    """

    def __init__(self, document: Mapping[str, Any], device: torch.device) -> None:
        self._mean = torch.tensor(document["mean"], dtype=torch.float32, device=device)
        self._basis = torch.tensor(document["basis"], dtype=torch.float32, device=device)
        self._floor = float(document["floor"])

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return coordinates (N, K + 1), or (N, K) where nothing is left out, of features (N, D)."""
        centred = features - self._mean
        inside = centred @ self._basis
        if self._basis.shape[0] == self._basis.shape[1]:
            return inside
        left = centred.square().sum(dim=1) - inside.square().sum(dim=1)
        return torch.cat([inside, (left.clamp_min(0) + self._floor).log().unsqueeze(1)], dim=1)


def fit_projection(features: Floats, components: int) -> dict[str, Any]:
    """Find the directions in which features (n, D) vary most; at most a quarter as many as there are rows.

    Returns:
        Plain numbers: `mean` (D,), `basis` (D, K) orthonormal to four digits, `floor`.
    """
    mean = features.mean(axis=0)
    centred = features - mean
    count = min(components, features.shape[1], max(1, len(features) // 4))
    _, lengths, rows = np.linalg.svd(centred, full_matrices=False)
    left = float((lengths[count:] ** 2).sum()) / len(features)
    return {
        "mean": _rounded(mean, 6),
        "basis": [_rounded(row, 4) for row in rows[:count].T],
        "floor": float(f"{max(1e-3 * left, _SMALLEST):.6g}"),
    }


class Gaussian:
    """The squared Mahalanobis distance to the nearest class mean, under one precision for all classes.

    Args:
        document: from `fit_gaussian`.
        device: where values are.

    Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
        Attacks" (NeurIPS 2018).
    """

    def __init__(self, document: Mapping[str, Any], device: torch.device) -> None:
        self._means = torch.tensor(document["means"], dtype=torch.float32, device=device)
        self._root = torch.tensor(document["root"], dtype=torch.float32, device=device)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the distance (N,), at least 0, of values (N, D)."""
        away = (
            values.unsqueeze(1) - self._means
        ) @ self._root  # whitened first: a sum of squares stays positive
        return away.square().sum(dim=2).amin(dim=1)


def fit_gaussian(values: Floats, classes: NDArray[np.int64]) -> dict[str, Any]:
    """Fit class means and one shrunk precision.

    Args:
        values: (n, D).
        classes: (n,), any integers; means are stored in their order.

    Returns:
        Plain numbers: `means` (C, D), `root` (D, D) with root @ root.T the precision, `shrinkage`.

    Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
    """
    from sklearn.covariance import ledoit_wolf  # here: the server reads references, it never builds one

    means = {label: values[classes == label].mean(axis=0) for label in np.unique(classes).tolist()}
    centred = values - np.stack([means[label] for label in classes.tolist()])
    spread = np.sqrt(
        (centred**2).mean(axis=0) + _SMALLEST
    )  # else the largest unit would decide the shrinkage
    covariance, shrinkage = ledoit_wolf(centred / spread, assume_centered=True)
    precision = np.linalg.inv(covariance + 1e-6 * np.eye(len(covariance)))
    root = np.linalg.cholesky(precision) / spread[:, None]
    return {
        "means": [_rounded(mean, 6) for mean in means.values()],
        "root": [_rounded(row, 6) for row in root],
        "shrinkage": float(f"{shrinkage:.6g}"),
    }


def _rounded(values: Floats, digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
