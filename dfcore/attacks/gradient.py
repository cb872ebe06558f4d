"""White-box attacks that follow the gradient: one step, many, with momentum, from several starts."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from dfcore.attacks.norms import Budget
from dfcore.attacks.template import Found, NormAttack, Search, search_again

__all__ = ["BIM", "FGSM", "MIFGSM", "PGD"]


class FGSM(NormAttack):
    """One step of size epsilon.

    Source: Goodfellow et al., arXiv:1412.6572.
    """

    kind: Literal["fgsm"] = "fgsm"
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,  # nothing is random here
    ) -> torch.Tensor:
        """Step once from the clean image."""
        _, slope = self.gradient(detector, images, labels, threshold)
        return self.clamp(self.project(self.step(images, slope, self.epsilon), images))


class Ascent(NormAttack):
    """Gradient ascent on the margin, step by step; projection is around the clean image."""

    step_size: Budget = Field(default=2 / 255)
    steps: int = Field(default=20, ge=1)
    keep_best: bool = True

    def begin(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return where one climb begins: at the clean images."""
        return images

    def accumulate(self, velocity: torch.Tensor | None, slope: torch.Tensor) -> torch.Tensor:
        """Return the direction to step in, from the last one and the gradient."""
        return slope

    def advance(self, current: torch.Tensor, slope: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Step, then return to the ball and the box."""
        return self.clamp(self.project(self.step(current, slope, self.step_size), images))

    def repeat(self, climb: Search, images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
        """Climb as often as the family does: once."""
        return climb(images, labels, found)

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Climb from each start and keep what is worst for the detector."""
        if not self.keep_best:
            return self._last(detector, images, labels, threshold, generator)

        def climb(images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
            current, velocity = self.begin(images, generator), None
            for _ in range(self.steps):
                value, slope = self.gradient(detector, current, labels, threshold)
                found = self.keep(found, current, value)
                velocity = self.accumulate(velocity, slope)
                current = self.advance(current, velocity, images)
            return self.keep(found, current, self.value(detector, current, labels, threshold))

        clean = (images, self.value(detector, images, labels, threshold))
        return self.repeat(climb, images, labels, clean)[0]

    def _last(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        current, velocity = self.begin(images, generator), None
        for _ in range(self.steps):
            _, slope = self.gradient(detector, current, labels, threshold)
            velocity = self.accumulate(velocity, slope)
            current = self.advance(current, velocity, images)
        return current


class RestartedAscent(Ascent):
    """Gradient ascent from random points of the ball."""

    restarts: int = Field(default=1, ge=1)
    random_start: bool = True
    until_fooled: bool = False

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and not (self.random_start and self.keep_best):
            raise ValueError(
                f"expected random_start and keep_best with {self.restarts} restarts, got {self.random_start} "
                f"and {self.keep_best}; the climbs would be the same, or all but one be lost"
            )
        if self.until_fooled and not self.keep_best:
            raise ValueError("expected keep_best with until_fooled, got false; nothing is judged without it")
        return self

    def begin(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return where one climb begins."""
        return self.start(images, generator) if self.random_start else images

    def repeat(self, climb: Search, images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
        """Climb from each start."""
        return search_again(climb, self.restarts, images, labels, found, until_fooled=self.until_fooled)


class BIM(Ascent):
    """Steps from the clean image.

    Attributes:
        step_size: in the norm's units.
        steps: gradient steps.
        keep_best: return the worst point met, the clean image included; otherwise the last.

    Source: Kurakin et al., arXiv:1607.02533.
    """

    kind: Literal["bim"] = "bim"
    restarts: ClassVar[int] = 1


class MIFGSM(Ascent):
    """Steps from the clean image with momentum, which transfers better to other detectors.

    Attributes:
        step_size: in the norm's units.
        steps: gradient steps.
        keep_best: return the worst point met, the clean image included; otherwise the last.
        decay: share of the accumulated gradient that is kept at each step.

    Source: Dong et al., arXiv:1710.06081.
    """

    kind: Literal["mi-fgsm"] = "mi-fgsm"
    restarts: ClassVar[int] = 1
    decay: float = Field(default=1.0, ge=0)

    def accumulate(self, velocity: torch.Tensor | None, slope: torch.Tensor) -> torch.Tensor:
        """Add the gradient, at mean size one, to what is left of the sum."""
        size = slope.abs().mean(dim=(1, 2, 3), keepdim=True)
        direction = slope / size.clamp_min(1e-30)
        return direction if velocity is None else self.decay * velocity + direction


class PGD(RestartedAscent):
    """Projected gradient ascent from random points of the ball.

    Attributes:
        step_size: in the norm's units; in pixel units for "linf".
        steps: gradient steps of each restart.
        keep_best: return the worst point met, the clean image included, for two more forward passes.
            Otherwise the last point of one start, as training takes it.
        restarts: independent starts; the worst result counts, for each image.
        random_start: start at a uniform point of the ball; otherwise at the clean image.
        until_fooled: a restart leaves out the images whose decision has turned. That is enough for accuracy;
            rankings (AUC) want each image pushed as far as it goes, and training never stops early.

    Source: Madry et al., arXiv:1706.06083.
    """

    kind: Literal["pgd"] = "pgd"
