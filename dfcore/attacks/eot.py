"""Expectation over transformations: an attack against a detector behind random channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import nn

from dfcore.attacks.channels import JPEG, AnyChannel
from dfcore.attacks.gradient import PGD
from dfcore.attacks.learned import LearnedAttack
from dfcore.attacks.template import Attack, Threat
from dfcore.attacks.transfer import Transfer
from dfcore.attacks.universal import Universal
from dfcore.attacks.video import VideoAttack

__all__ = ["EOT", "EOTDetector"]


class EOTDetector(nn.Module):
    """A detector behind random channels; its logit is the mean over several draws.

    Draws are fresh on each call, so that an iterative attack sees new ones at every step. They are made on
    the CPU from a seed taken once, so that no call waits for the accelerator.

    Args:
        detector: maps images (N, 3, H, W) to logits (N,).
        channels: each maps (images, generator) to images; used in turn, from a random one on.
        samples: draws for one logit; with as many as channels, each channel is met once.
        generator: gives the seed; the same one gives the same draws.

    Source: Athalye et al., arXiv:1707.07397.
    """

    def __init__(
        self,
        detector: nn.Module,
        channels: Sequence[Callable[[torch.Tensor, torch.Generator], torch.Tensor]],
        samples: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.channels = tuple(channels)
        self.samples = samples
        device = "cpu" if generator is None else generator.device
        seed = torch.randint(2**31, (), generator=generator, device=device)
        self.draws = torch.Generator().manual_seed(int(seed))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean logit (N,) of images (N, 3, H, W) in [0, 1]."""
        first = int(torch.randint(len(self.channels), (), generator=self.draws))
        logits = [
            self.detector(self.channels[(first + sample) % len(self.channels)](images, self.draws))
            for sample in range(self.samples)
        ]
        return torch.stack(logits).mean(0)


def _read_attack(value: object) -> object:
    from dfcore.attacks import build_attack  # the registry holds this family too

    return build_attack(value) if isinstance(value, dict) else value


class EOT(Attack):
    """Another attack, run against the detector's mean logit over channels.

    Success is judged on the channels: what fools the bare detector is not sought.

    Attributes:
        attack: what climbs; any attack on single images that asks the detector.
        channels: what may happen on the way.
        samples: draws for one gradient.
    """

    kind: Literal["eot"] = "eot"
    attack: Annotated[SerializeAsAny[Attack], BeforeValidator(_read_attack)] = PGD()
    channels: tuple[AnyChannel, ...] = Field(default=(JPEG(),), min_length=1)
    samples: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _asks_the_detector(self) -> Self:
        if isinstance(self.attack, EOT | LearnedAttack | Transfer | Universal | VideoAttack):
            raise ValueError(
                "expected an attack on single images that asks the detector at each step, such as pgd, got "
                f"{self.attack.kind}; run it without eot"
            )
        return self

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Put the channels in front and run the attack."""
        behind = EOTDetector(detector, self.channels, self.samples, generator)
        return self.attack.perturb(behind, images, labels, threshold, generator)

    @property
    def threat_model(self) -> Threat:
        """The inner attack's."""
        return self.attack.threat_model
