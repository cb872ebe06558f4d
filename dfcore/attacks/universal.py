"""One perturbation for every image: made once, then added to whatever is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dfcore.attacks.norms import Budget, draw
from dfcore.attacks.template import NormAttack, check_batch
from dfcore.errors import ConfigError, DataError, ShapeError
from dfcore.models import crafting_mode
from dfcore.storage import write_atomic

__all__ = ["Universal"]

_TENSOR = "delta"


class _Delta:
    """Holds the fitted tensor; compared by identity, as tensors have no single truth."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Universal(NormAttack):
    """One change for all fakes and one for all reals, fitted on some images and applied to others.

    An attacker knows what he sends, so that each class has its own change; a single one for both would have
    to push the same logit both ways.

    Attributes:
        step_size: in the norm's units.
        steps: gradient steps, each on one batch.
        batch_size: images of a step, drawn with replacement.
        weights: safetensors file of a fitted change, or None before `fit`.

    Source: Moosavi-Dezfooli et al., arXiv:1610.08401; by gradient: Shafahi et al., arXiv:1811.11304.
    """

    kind: Literal["universal"] = "universal"
    step_size: Budget = Field(default=1 / 255)
    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=32, ge=1)
    weights: Path | None = None
    _delta: _Delta | None = PrivateAttr(default=None)

    def fit(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Return the same attack, fitted.

        Args:
            detector: left exactly as it was.
            images: (N, 3, H, W) float32 in [0, 1]; not those that it will be measured on.
            labels: (N,), both classes.
            threshold: the deployed threshold on the score, in (0, 1).
            generator: of the batches.
            progress: called with the steps done and all steps.

        Raises:
            ShapeError: images or labels do not fit.
            ConfigError: the threshold is not in (0, 1), or a class is missing.
        """
        check_batch(images, labels, threshold)
        for label, name in enumerate(("real", "fake")):
            if not bool((labels == label).any()):
                raise ConfigError(f"expected images of both classes to fit on, got no {name} one")
        with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
            fitted = self._fit(
                detector, images.clone(), labels.clone(), threshold, generator, progress
            )  # fmt: skip
        copy = self.model_copy()
        copy._delta = _Delta(fitted)
        return copy

    def _fit(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
        progress: Callable[[int, int], None] | None,
    ) -> torch.Tensor:
        delta = torch.zeros((2, *images.shape[1:]), device=images.device)
        count = min(self.batch_size, len(images))
        for step in range(self.steps):
            chosen = (draw(images[:1, 0, 0, :1].expand(1, count), generator)[0] * len(images)).long()
            batch, side = images[chosen], labels[chosen].long()
            _, slope = self.gradient(detector, self.clamp(batch + delta[side]), side, threshold)
            # each image counts the same, however steep the detector is there
            slope = slope / slope.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
            climb = torch.zeros_like(delta).index_add_(0, side, slope)
            origin = torch.zeros_like(delta)
            delta = self.project(self.step(delta, climb, self.step_size), origin)
            if progress is not None:
                progress(step + 1, self.steps)
        return delta

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Add the fitted change; the detector is not asked."""
        delta = self.delta.to(images.device)
        if delta.shape[1:] != images.shape[1:]:
            raise ShapeError(
                f"expected images {tuple(delta.shape[1:])} as the universal attack was fitted on, "
                f"got {tuple(images.shape[1:])}; fit it on images of this size"
            )
        return self.clamp(self.project(images + delta[labels.long()], images))

    @property
    def delta(self) -> torch.Tensor:
        """The fitted change (2, 3, H, W): that of reals, then that of fakes.

        Raises:
            ConfigError: it was neither fitted nor loaded.
            DataError: `weights` holds no such tensor.
        """
        if self._delta is None:
            if self.weights is None:
                raise ConfigError("expected a fitted universal attack; call fit(...) or give weights=FILE")
            self._delta = _Delta(_read(self.weights))
        return self._delta.tensor

    def save(self, path: Path) -> Self:
        """Write the fitted change as safetensors; returns the attack that reads it back.

        Raises:
            ConfigError: it was not fitted.
        """
        write_atomic(path, save({_TENSOR: self.delta.cpu().contiguous()}))
        return self.model_copy(update={"weights": path})


def _read(path: Path) -> torch.Tensor:
    try:
        delta = load_file(path).get(_TENSOR)
    except (OSError, SafetensorError) as error:
        raise DataError(f"expected a safetensors file at {path}, got: {error}") from error
    if delta is None or delta.ndim != 4 or delta.shape[:2] != (2, 3):
        raise DataError(f"expected a tensor {_TENSOR!r} (2, 3, H, W) in {path}; fit and save it again")
    return delta
