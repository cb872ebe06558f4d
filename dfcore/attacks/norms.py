"""Distances of a perturbation: a new norm is these few functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, PlainSerializer, ValidationInfo

from dfcore.config import format_epsilon, parse_epsilon

__all__ = ["NORMS", "Budget", "Norm", "NormName"]

NormName = Literal["linf", "l2"]

_TINY = 1e-30


class Norm(ABC):
    """How the size of a perturbation (N, C, H, W) is measured, image by image."""

    limit: float | None
    """The largest budget that means anything, or None."""

    @abstractmethod
    def size(self, delta: torch.Tensor) -> torch.Tensor:
        """Return the size (N,) of each perturbation."""

    @abstractmethod
    def random_start(
        self, like: torch.Tensor, epsilon: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return uniform points of the ball, of the same shape."""

    @abstractmethod
    def project(self, delta: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Return the nearest perturbation of at most that size."""

    @abstractmethod
    def normalise(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the direction of size one that goes uphill fastest; where the gradient is 0, 0."""


class _LInf(Norm):
    limit = 1.0

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        return delta.abs().flatten(1).amax(dim=1)

    def random_start(
        self, like: torch.Tensor, epsilon: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        return epsilon * (2 * draw(like, generator) - 1)

    def project(self, delta: torch.Tensor, epsilon: float) -> torch.Tensor:
        return delta.clamp(-epsilon, epsilon)

    def normalise(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()


class _L2(Norm):
    limit = None

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        size: torch.Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def random_start(
        self, like: torch.Tensor, epsilon: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        # a normal direction is uniform on the sphere; volume grows with the radius to the dimension
        normal = torch.special.ndtri(draw(like, generator).clamp(1e-7, 1 - 1e-7))
        radius = draw(like[:, :1, :1, :1], generator) ** (1 / math.prod(like.shape[1:]))
        return self.normalise(normal) * (epsilon * radius)

    def project(self, delta: torch.Tensor, epsilon: float) -> torch.Tensor:
        shrink = (epsilon / self.size(delta).clamp_min(_TINY)).clamp_max(1)
        return delta * shrink.view(-1, 1, 1, 1)

    def normalise(self, gradient: torch.Tensor) -> torch.Tensor:
        # by the largest value first: the squares of a tiny gradient would be 0
        scaled = gradient / gradient.abs().flatten(1).amax(dim=1).clamp_min(_TINY).view(-1, 1, 1, 1)
        return scaled / self.size(scaled).clamp_min(_TINY).view(-1, 1, 1, 1)


NORMS: dict[NormName, Norm] = {"linf": _LInf(), "l2": _L2()}


def draw(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Return uniform noise in [0, 1) of the same shape, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _parse_budget(value: object, info: ValidationInfo) -> float:
    """Read a size: a pixel's in [0, 1] for L-infinity, a distance for L2; the field `norm` comes before."""
    norm = NORMS.get(info.data.get("norm") or "linf", NORMS["linf"])
    if norm.limit is not None:
        return parse_epsilon(value)
    numerator, _, denominator = str(value).partition("/")
    try:
        number = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"expected a distance such as 0.5 or 128/255, got {value!r}") from error
    if not 0 <= number < float("inf"):
        raise ValueError(f"expected a finite distance of at least 0, got {value}")
    return number


Budget = Annotated[
    float, BeforeValidator(_parse_budget), PlainSerializer(format_epsilon, when_used="json-unless-none")
]
"""A size in the units of the field `norm` before it, written as a fraction of 255."""
