"""The standard ensemble of attacks, for two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.apgd import APGD
from dfcore.attacks.fab import FAB
from dfcore.attacks.square import Square
from dfcore.attacks.template import Found, NormAttack, check_batch, search_again
from dfcore.models import crafting_mode

__all__ = ["AutoAttackBinary", "AutoAttackResult"]


@dataclass(frozen=True)
class AutoAttackResult:
    """What the ensemble reached.

    Attributes:
        images: (N, 3, H, W), the worst point over all parts for each image.
        fooled: how many decisions each part turned that stood before it; "clean" counts those wrong without
            any attack.
        standing: how many decisions stood to the end.
    """

    images: torch.Tensor
    fooled: dict[str, int]
    standing: int


class AutoAttackBinary(NormAttack):
    """APGD on the margin, FAB and Square, one after another; the worst case counts, image by image.

    The standard ensemble's DLR loss needs three classes and its targeted attacks four, so that two classes
    need this one. Untargeted APGD on the margin is all that cross-entropy and DLR could be here: with two
    classes every monotone loss has the same gradient sign.

    Attributes:
        steps: of APGD and FAB.
        restarts: of APGD and FAB.
        queries: of Square.
        until_fooled: each part and restart attacks only the images that still stand. Otherwise all attack
            all, which costs more, and the worst margin over the parts counts.

    Source: Croce & Hein, arXiv:2003.01690.
    """

    kind: Literal["autoattack-binary"] = "autoattack-binary"
    norm: Literal["linf"] = "linf"
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=5, ge=1)
    queries: int = Field(default=5000, ge=1)
    until_fooled: bool = True

    @property
    def parts(self) -> tuple[APGD, FAB, Square]:
        """What is in it, in the order in which it runs."""
        search = {"epsilon": self.epsilon, "until_fooled": self.until_fooled}
        gradient = {**search, "steps": self.steps, "restarts": self.restarts}
        return APGD(**gradient), FAB(**gradient), Square(**search, queries=self.queries)

    def run(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> AutoAttackResult:
        """Attack a batch and say what each part achieved; arguments and errors are those of `__call__`."""
        check_batch(images, labels, threshold)
        with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
            clean = images.detach().clone()
            return self._run(detector, clean, labels.clone(), threshold, generator)

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Run every part."""
        return self._run(detector, images, labels, threshold, generator).images

    def _run(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> AutoAttackResult:
        found: Found = (images, self.value(detector, images, labels, threshold))
        wrong = int((found[1] > 0).sum())
        fooled = {"clean": wrong}
        for part in self.parts:

            def search(
                images: torch.Tensor, labels: torch.Tensor, found: Found, part: NormAttack = part
            ) -> Found:
                point = part.perturb(detector, images, labels, threshold, generator)
                return self.keep(found, point, self.value(detector, point, labels, threshold))

            found = search_again(search, 1, images, labels, found, until_fooled=self.until_fooled)
            now = int((found[1] > 0).sum())
            fooled[part.kind] = now - wrong
            wrong = now
        return AutoAttackResult(found[0], fooled, len(images) - wrong)
