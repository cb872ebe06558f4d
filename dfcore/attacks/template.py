"""The template of an attack: checks, modes, criterion, distance; a family adds the loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from dfcore.attacks.norms import NORMS, Budget, Norm, NormName, draw
from dfcore.config import Config, format_epsilon
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import crafting_mode, gradient_scale
from dfcore.shapes import check_images, check_labels

__all__ = ["Attack", "Knowledge", "NormAttack", "Threat", "draw", "log_odds", "margin"]

Knowledge = Literal["none", "black-box", "transfer", "white-box"]


def log_odds(score: float) -> float:
    """Return the logit whose score it is, in (0, 1)."""
    return math.log(score) - math.log1p(-score)


def margin(detector: nn.Module, images: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """How far each image is on the wrong side of the deployed threshold; what an attacker maximises.

    The logit is used as it is: with two classes every monotone loss has the same gradient sign, and the
    logit does not saturate as cross-entropy does.

    Args:
        detector: the detector attacked, or anything that returns logits as it does.
        images: (N, 3, H, W) float32 in [0, 1].
        labels: (N,), real = 0, fake = 1.
        threshold: deployed threshold on the score.

    Returns:
        (N,) float32; above 0 the decision is wrong.

    Raises:
        ShapeError: the detector gives anything but one logit for each image.
    """
    logits: torch.Tensor = detector(images)
    if logits.shape != labels.shape:
        raise ShapeError(f"expected logits ({len(labels)},), one for each image, got {tuple(logits.shape)}")
    return (1 - 2 * labels).to(logits.dtype) * (logits - log_odds(threshold))


class Threat(Config):
    """What a figure under an attack holds against, for the evidence.

    Attributes:
        knowledge: "white-box" (weights), "black-box" (scores), "transfer" (other detectors), "none" (blind).
        norm: in which the budget is measured, or None where no norm bounds the change.
        epsilon: the budget, written "8/255".
        steps, restarts, queries: of the search, where it has them.
    """

    knowledge: Knowledge
    norm: NormName | None = None
    epsilon: Budget | None = None
    steps: int | None = None
    restarts: int | None = None
    queries: int | None = None


class Attack(Config, ABC):
    """An attack on [0, 1] pixels; a family implements `perturb`.

    The detector may be any module that maps images (N, 3, H, W) to logits (N,), such as a detector behind
    random transformations. `gradient` is the only place that differentiates it.

    Attributes:
        kind: the family's name.
        knowledge: what the attacker knows.
    """

    knowledge: ClassVar[Knowledge] = "white-box"
    kind: str

    def __call__(
        self,
        detector: nn.Module,
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
            generator: of everything random; the same seed gives the same result.

        Returns:
            (N, 3, H, W) float32 in [0, 1].

        Raises:
            ShapeError: images or labels do not fit.
            ConfigError: the threshold is not in (0, 1).
        """
        check_batch(images, labels, threshold)
        return self.craft(detector, images, labels, threshold=threshold, generator=generator)

    def craft(
        self,
        detector: nn.Module,
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
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Return attacked images; the detector is in crafting mode."""

    def clamp(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the nearest points in the box [0, 1]."""
        return candidates.clamp(0, 1)

    def gradient(
        self, detector: nn.Module, candidates: torch.Tensor, labels: torch.Tensor, threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the margin (N,) and its gradient to the pixels (N, 3, H, W)."""
        pixels = candidates.detach().requires_grad_()
        value = margin(detector, pixels, labels, threshold)
        scale = gradient_scale(pixels.device)
        (slope,) = torch.autograd.grad(scale * value.sum(), pixels)
        return value.detach(), slope if scale == 1 else slope / scale

    def value(
        self, detector: nn.Module, candidates: torch.Tensor, labels: torch.Tensor, threshold: float
    ) -> torch.Tensor:
        """Return the margin (N,) alone."""
        with torch.no_grad():
            return margin(detector, candidates, labels, threshold)

    @property
    def threat_model(self) -> Threat:
        """What a figure under this attack holds against."""
        names = ("norm", "epsilon", "steps", "restarts", "queries")
        return Threat(knowledge=self.knowledge, **{name: getattr(self, name, None) for name in names})

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON-able data, epsilon as a fraction."""
        return self.model_dump(mode="json")


class NormAttack(Attack):
    """An attack whose change of each image is bounded in a norm.

    `project`, `clamp` and `step` are hooks, so that a test can take one out and see the property checks fail.

    Attributes:
        norm: in which the budget is measured.
        epsilon: the budget: for "linf" in pixel units of [0, 1], such as "8/255"; for "l2" a distance.
    """

    norm: NormName = "linf"
    epsilon: Budget = Field(default=8 / 255)

    @model_validator(mode="after")
    def _sizes_fit_the_norm(self) -> Self:
        fields = type(self).model_fields
        if self.norm != fields["norm"].default:
            for name in ("epsilon", "step_size"):
                if name in fields and getattr(self, name) == fields[name].default:
                    raise ValueError(
                        f"expected {name} in units of norm {self.norm} beside it, got the default of "
                        f"{fields['norm'].default}, {format_epsilon(getattr(self, name))}; give one that fits"
                    )
        return self

    @property
    def distance(self) -> Norm:
        """The norm's functions."""
        return NORMS[self.norm]

    def start(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return a uniform point of the ball around the clean images, within the box."""
        delta = self.distance.random_start(images, self.epsilon, generator)
        return self.clamp(self.project(images + delta, images))

    def project(self, candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the nearest points in the ball around the clean images."""
        return images + self.distance.project(candidates - images, self.epsilon)

    def step(
        self, candidates: torch.Tensor, gradient: torch.Tensor, size: float | torch.Tensor
    ) -> torch.Tensor:
        """Go uphill on the margin; `size` is a number or broadcasts over the images."""
        return candidates + size * self.distance.normalise(gradient)

    def keep(self, found: Found, candidates: torch.Tensor, value: torch.Tensor) -> Found:
        """Replace what was found where the candidate is worse for the detector."""
        better = value > found[1]
        # where, and no branch: a branch would wait for the device
        point = torch.where(better.view(-1, 1, 1, 1), candidates, found[0])
        return point, torch.where(better, value, found[1])


Found = tuple[torch.Tensor, torch.Tensor]
"""The worst point reached for each image (N, 3, H, W), and its margin (N,)."""

Search = Callable[[torch.Tensor, torch.Tensor, Found], Found]
"""(images, labels, found before) -> found now, at least as bad for the detector."""


def search_again(
    search: Search,
    count: int,
    images: torch.Tensor,
    labels: torch.Tensor,
    found: Found,
    *,
    until_fooled: bool,
) -> Found:
    """Run a search several times, each starting from what was found before.

    Args:
        search: one run; what is random in it makes the runs differ.
        count: how many runs.
        images: (N, 3, H, W), clean.
        labels: (N,).
        found: before the first run.
        until_fooled: leave out the images whose decision has turned; waits for the device once a run.
    """
    for _ in range(count):
        if not until_fooled:
            found = search(images, labels, found)
            continue
        rows = (found[1] <= 0).nonzero().squeeze(1)
        if not len(rows):
            break
        worst, value = search(images[rows], labels[rows], (found[0][rows], found[1][rows]))
        found = found[0].index_copy(0, rows, worst), found[1].index_copy(0, rows, value)
    return found


def check_batch(images: torch.Tensor, labels: torch.Tensor, threshold: float) -> None:
    """Require images, labels and a threshold that fit.

    Raises:
        ShapeError: images or labels do not fit.
        ConfigError: the threshold is not in (0, 1).
    """
    check_images(images)
    check_labels(labels, images)
    if not 0 < threshold < 1:
        raise ConfigError(f"expected a threshold in (0, 1), got {threshold}")
