"""The template of an attack: checks, modes, criterion; a family adds the loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field

from dfcore.config import Config, Epsilon
from dfcore.errors import ConfigError
from dfcore.models import Detector, crafting_mode
from dfcore.shapes import check_images, check_labels

__all__ = ["Attack", "margin"]


def margin(detector: Detector, images: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """How far each image is on the wrong side of the deployed threshold; what an attacker maximises.

    The logit is used as it is: with two classes every monotone loss has the same gradient sign, and the
    logit does not saturate as cross-entropy does.

    Args:
        detector: the detector attacked.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,), real = 0, fake = 1.
        threshold: deployed threshold on the score.

    Returns:
        (N,) float32; above 0 the decision is wrong.
    """
    logits: torch.Tensor = detector(images)
    offset = math.log(threshold) - math.log1p(-threshold)
    return (1 - 2 * labels).to(logits.dtype) * (logits - offset)


class Attack(Config, ABC):
    """An L-infinity attack on [0, 1] pixels.

    A family implements `perturb`. `project`, `clamp` and `step` are hooks, so that a test can take one out
    and see the property checks fail.

    Attributes:
        kind: the family's name.
        epsilon: budget in pixel units of [0, 1], such as "8/255".
    """

    kind: str
    epsilon: Epsilon = Field(default=8 / 255)

    def __call__(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Attack a batch.

        Args:
            detector: left exactly as it was: modes, gradients, flags.
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,), real = 0, fake = 1; both classes are attacked.
            threshold: the deployed threshold on the score, in (0, 1).
            generator: of the random start; the same seed gives the same result.

        Returns:
            (N, 3, H, W) float32 in [0, 1], within epsilon of `images`.

        Raises:
            ShapeError: images or labels do not fit.
            ConfigError: the threshold is not in (0, 1).
        """
        check_images(images)
        check_labels(labels, images)
        if not 0 < threshold < 1:
            raise ConfigError(f"expected a threshold in (0, 1), got {threshold}")
        return self.craft(detector, images, labels, threshold=threshold, generator=generator)

    def craft(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Attack a batch known to fit: as `__call__`, without checks and without waiting for the device."""
        with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
            # a clone is a normal tensor even if the caller is in inference mode
            clean = images.detach().clone()
            return self.perturb(detector, clean, labels.clone(), threshold, generator).detach()

    @abstractmethod
    def perturb(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Return attacked images; the detector is in crafting mode."""

    def start(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return a uniform point of the ball around the clean images, within the box."""
        device = images.device if generator is None else generator.device
        noise = torch.rand(images.shape, generator=generator, device=device).to(images.device)
        return self.clamp(self.project(images + self.epsilon * (2 * noise - 1), images))

    def project(self, candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the nearest points in the ball around the clean images."""
        return images + (candidates - images).clamp(-self.epsilon, self.epsilon)

    def clamp(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the nearest points in the box [0, 1]."""
        return candidates.clamp(0, 1)

    def step(self, candidates: torch.Tensor, gradient: torch.Tensor, size: float) -> torch.Tensor:
        """Go uphill on the margin."""
        return candidates + size * gradient.sign()

    def gradient(
        self, detector: Detector, candidates: torch.Tensor, labels: torch.Tensor, threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the margin (N,) and its gradient to the pixels (N, 3, H, W)."""
        pixels = candidates.detach().requires_grad_()
        value = margin(detector, pixels, labels, threshold)
        (slope,) = torch.autograd.grad(value.sum(), pixels)
        return value.detach(), slope

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON-able data, epsilon as a fraction."""
        return self.model_dump(mode="json")
