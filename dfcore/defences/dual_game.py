"""The dual-attacker game: detector against PGD and a U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks import LearnedAttack, UNetAttack
from dfcore.config import Epsilon
from dfcore.defences.inner_attack import InnerPGD
from dfcore.defences.template import TrainingState
from dfcore.defences.terms import Term, weighted_terms

__all__ = ["DualAttackerGame"]

_PLAYER = "unet"


class DualAttackerGame(InnerPGD):
    """Train on clean images, on PGD's and on those of a U-Net that learns beside the detector.

    When alternating, all three versions go through the detector in one forward pass. In training mode its
    batch norm then normalises with the statistics of the mixture, where three passes would each use their own
    and have the running statistics follow the last; both attackers see the running ones. Without batch
    norm, or with it in eval, the losses are those of the loop that passes the three one after the other.

    In joint mode clean images and PGD's share a pass, and the U-Net's have one in which batch norm uses its
    running statistics: through those of the batch, the gradient to its images is mostly their influence on
    everybody else's loss, and it never learns. Smooth the labels there: without that, the loss of an image
    of which the detector is sure (a logit of 17) has no gradient for the U-Net either.

    Cost of a step, for PGD of K steps, in forward passes F and U-Net passes U: alternating (11 + 2K)F + 4U,
    joint (9 + 2K)F + 5U.

    Attributes:
        mode: "alternating": the U-Net takes a step against the detector as it stands, then paints anew for
            the detector to learn from; "joint": the detector's own backward pass trains both sides at once,
            one descending and one ascending, so that no pass is made for the U-Net alone. The U-Net then
            lags by a step.
        epsilon: final budget of both attackers.
        warmup_epochs: epochs over which PGD's budget grows from 0; 0 means the full budget from the start.
            The U-Net's does not grow: it paints nothing at first.
        attack: "pgd" or "apgd".
        step_size: of PGD at the final budget; it grows with the budget.
        steps: of PGD.
        random_start: start PGD inside the ball; APGD always does.
        clean_weight: of the loss on clean images.
        pgd_weight: of the loss on PGD's images.
        unet_weight: of the loss on the U-Net's images.
        tv_weight: what the U-Net pays for roughness, see `UNetAttack`.
        frequency_weight: what it pays for broad washes.
        unet_learning_rate: of its AdamW.

    Source: the dual-attacker loop with its published budget, steps and learning rate, projection around the
    clean image, and realism weights that bind.
    """

    kind: Literal["dual_game"] = "dual_game"
    mode: Literal["alternating", "joint"] = "alternating"
    epsilon: Epsilon = Field(default=8 / 255)
    warmup_epochs: float = Field(default=0.0, ge=0)
    steps: int = Field(default=10, ge=1)
    clean_weight: float = Field(default=1.0, ge=0)
    pgd_weight: float = Field(default=1.0, gt=0)
    unet_weight: float = Field(default=1.0, gt=0)
    tv_weight: float = Field(default=UNetAttack().tv_weight, ge=0)
    frequency_weight: float = Field(default=UNetAttack().frequency_weight, ge=0)
    unet_learning_rate: float = Field(default=1e-4, gt=0)

    def attackers(self) -> dict[str, LearnedAttack]:
        """Return the U-Net."""
        return {
            _PLAYER: UNetAttack(
                epsilon=self.epsilon,
                tv_weight=self.tv_weight,
                frequency_weight=self.frequency_weight,
                learning_rate=self.unet_learning_rate,
            )
        }

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return PGD's images, and when alternating the U-Net's after its step, (N, 3, H, W) each."""
        (ascended,) = super().craft(images, labels, state)
        if self.mode == "joint":
            return (ascended,)
        player = state.players[_PLAYER]
        player.step(state.crafting, images, labels)
        return ascended, player.attack(images, labels)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh the three losses; in joint mode the backward pass reaches the U-Net as well."""
        terms = {"clean": Term(self.clean_weight, images), "pgd": Term(self.pgd_weight, attacked[0])}
        if self.mode == "alternating":
            terms[_PLAYER] = Term(self.unet_weight, attacked[1])
            return weighted_terms(detector, labels, terms, state)
        # first, as it moves the statistics that the backward pass of the other one reads again
        value, scalars = weighted_terms(detector, labels, terms, state)
        joint = self._joint_loss(detector, images, labels, state)
        return value + self.unet_weight * joint, {**scalars, f"{_PLAYER}_loss": joint.detach()}

    def _joint_loss(
        self, detector: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> torch.Tensor:
        move = state.players[_PLAYER].joint(images, labels)
        with _running_statistics(detector):
            logits = detector(move.images)
        # only a smoothed label can turn the attacker round
        return state.bce(move.watch(logits) if state.label_smoothing > 0 else logits, labels)

    def finish(self, state: TrainingState) -> None:
        """Take the U-Net's step, where the backward pass was its too."""
        if self.mode == "joint":
            state.players[_PLAYER].update()


@contextmanager
def _running_statistics(detector: torch.nn.Module) -> Iterator[None]:
    """Let batch norm use its running statistics and leave them; what it scales and shifts by still learns."""
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.training = False  # of the module itself: eval() would reach what it holds
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True
