"""The dual-attacker game as it is usually written: what `benchmarks.adversarial_training` compares with.

`loss.backward()` everywhere, so that crafting also pays for the gradients of all weights and throws them
away; three forward passes; the U-Net's step through the detector itself. Objective, budgets, clipping and
order are those of `DualAttackerGame` in alternating mode, so that both have the same loss curves. The
mathematics of PGD and of the training losses is written out here on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dfcore.attacks import Player
from dfcore.defences import DualAttackerGame

__all__ = ["NaiveDualGame"]


@dataclass
class NaiveDualGame:
    """A naive loop over one game.

    Attributes:
        game: budgets and weights; `mode` and `warmup_epochs` are ignored.
        detector: trained in whichever mode it is, crafting included.
        optimiser: of the detector.
        player: the U-Net and its optimiser; its own methods are not used.
        gradient_clip: largest gradient norm of the detector.
    """

    game: DualAttackerGame
    detector: nn.Module
    optimiser: torch.optim.Optimizer
    player: Player
    gradient_clip: float = 1.0

    def step(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Train on one batch.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,) int64, real = 0, fake = 1.
            generator: of PGD's start.

        Returns:
            The losses as `DualAttackerGame.loss` names them, detached.
        """
        game = self.game
        clean = self._loss(images, labels)
        pgd = self._loss(self._pgd(images, labels, generator), labels)
        self._train_unet(images, labels)
        with torch.no_grad():
            painted, _ = game.attackers()["unet"].generate(self.player.network, images, labels)
        unet = self._loss(painted, labels)
        total = game.clean_weight * clean + game.pgd_weight * pgd + game.unet_weight * unet
        self.optimiser.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.detector.parameters(), self.gradient_clip)
        self.optimiser.step()
        return {"clean_loss": clean.detach(), "pgd_loss": pgd.detach(), "unet_loss": unet.detach()}

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self.detector(images), labels.float())

    def _margins(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        margins: torch.Tensor = (1 - 2 * labels) * self.detector(images)
        return margins

    def _pgd(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        game, attacked = self.game, images
        if game.random_start:
            noise = torch.rand(images.shape, generator=generator, device=images.device)
            attacked = (images + game.epsilon * (2 * noise - 1)).clamp(0, 1)
        for _ in range(game.steps):
            attacked = attacked.detach().requires_grad_()
            torch.autograd.backward(self._margins(attacked, labels).sum())
            assert attacked.grad is not None
            delta = attacked.detach() + game.step_size * attacked.grad.sign() - images
            attacked = (images + delta.clamp(-game.epsilon, game.epsilon)).clamp(0, 1)
        return attacked.detach()

    def _train_unet(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step on minus the margin in its own unit plus realism, through the detector."""
        attack, player = self.game.attackers()["unet"], self.player
        painted, unreal = attack.generate(player.network, images, labels)
        painted.register_hook(attack.pull)  # type: ignore[no-untyped-call]  # torch's own
        player.optimiser.zero_grad()
        torch.autograd.backward(self._margins(painted, labels).sum() + unreal.mean())
        nn.utils.clip_grad_norm_(player.network.parameters(), 1.0)
        player.optimiser.step()
