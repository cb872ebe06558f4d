"""The generative game: detector against a generator that blurs."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from dfcore.attacks import BlurGenerator, LearnedAttack
from dfcore.attacks.blur import Window
from dfcore.attacks.generator import Width
from dfcore.defences.template import Defence, TrainingState
from dfcore.defences.terms import Term, weighted_terms

__all__ = ["GenerativeGame"]

_PLAYER = "generator"


class GenerativeGame(Defence):
    """min over the detector, max over the generator of L(x) + L(G(x)).

    The generator is two networks, one for reals and one for fakes. It takes its steps against the detector as
    it stands; the detector then learns from a fresh pass of it.

    Attributes:
        max_sigma: largest standard deviation of the blur that it paints, in pixels.
        window: odd side of the neighbourhood, in pixels.
        width: channels of the generator's networks at full size; 64 as published.
        generator_steps: of the generator for each step of the detector.
        generator_learning_rate: of the generator.
        clean_weight: share of the clean loss, 0..1; at 0 clean images are not passed at all.

    Source: Wang et al., arXiv:2103.13567 (generative form).
    """

    adversarial: ClassVar[bool] = True
    kind: Literal["generative_game"] = "generative_game"
    max_sigma: float = Field(default=2.0, ge=0, le=16)
    window: Window = 3
    width: Width = 16
    generator_steps: int = Field(default=3, ge=1)
    generator_learning_rate: float = Field(default=2e-3, gt=0)
    clean_weight: float = Field(default=0.5, ge=0, lt=1)

    def attackers(self) -> dict[str, LearnedAttack]:
        """Return the generator."""
        return {
            _PLAYER: BlurGenerator(
                max_sigma=self.max_sigma,
                window=self.window,
                width=self.width,
                learning_rate=self.generator_learning_rate,
            )
        }

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Let the generator learn, then return the batch as it blurs it now, (N, 3, H, W)."""
        player = state.players[_PLAYER]
        player.step(state.crafting, images, labels, updates=self.generator_steps)
        return (player.attack(images, labels),)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and blurred loss."""
        terms = {
            "clean": Term(self.clean_weight, images),
            _PLAYER: Term(1 - self.clean_weight, attacked[0]),
        }
        return weighted_terms(detector, labels, terms, state)
