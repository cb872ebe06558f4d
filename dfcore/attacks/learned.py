"""The template of learned attackers: a network that is trained against the detector, alone or in a game."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import distributed, nn

from dfcore.attacks.template import Attack, check_batch
from dfcore.errors import ConfigError, DataError, WorkFailed
from dfcore.models import crafting_mode, save_tensors

__all__ = ["JointMove", "LearnedAttack", "Player"]

_CLIP = 1.0  # of the gradient's norm; an early step far off would saturate the gate that bounds the output


class LearnedAttack(Attack):
    """An attack that a network makes in one pass, without asking the detector.

    It must be fitted first: against the detector under test, on training identities.

    `gate`, `pull` and `clamp` are hooks, so that a test can take one out and see the property checks fail.

    Attributes:
        fit_steps: updates of the network in `fit`.
        batch_size: images of one update in `fit`.
        learning_rate: of AdamW.
        weights: safetensors file with a fitted network, as `save` writes it.
    """

    fit_steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weights: Path | None = None
    _network: nn.Module | None = PrivateAttr(default=None)

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a network with fresh weights."""

    @abstractmethod
    def generate(
        self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attacked images (N, 3, H, W) in the box, and what each pays for looking unreal (N,)."""

    def pull(self, slope: torch.Tensor) -> torch.Tensor:
        """Turn the margin's gradient into the loss's.

        The loss is minus the margin of each image in units of the gradient's L1 norm: what it would gain, to
        first order, if every pixel moved by one unit in the best direction. Only so do the weights of the
        other terms mean the same for every detector, whatever the scale of its logits.

        Args:
            slope: (N, 3, H, W), gradient of each image's margin to its pixels.

        Returns:
            (N, 3, H, W), gradient of the mean loss.
        """
        size = slope.abs().sum((1, 2, 3), keepdim=True)
        return -(slope / size.clamp_min(1e-30)) / len(slope)

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Run the fitted network once; neither the detector nor chance is asked."""
        with torch.no_grad():
            return self.generate(self.network(images.device), images, labels)[0]

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
        """Train a fresh network against a detector.

        Args:
            detector: left exactly as it was.
            images: (N, 3, H, W) float32 in [0, 1], of both classes and of identities that no test uses.
            labels: (N,), real = 0, fake = 1.
            threshold: the deployed threshold on the score, in (0, 1).
            generator: of the first weights and the batches.
            progress: called with updates done and updates in all.

        Returns:
            The same attack, fitted.

        Raises:
            ShapeError: images or labels do not fit.
            ConfigError: the threshold is not in (0, 1).
            DataError: one class is missing.
            WorkFailed: the network's weights are no longer finite.
        """
        check_batch(images, labels, threshold)
        if len(torch.unique(labels)) < 2:
            raise DataError("expected images of both classes to fit an attack, got one; add the other")
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        player = Player(self, images.device, seed)
        order = torch.Generator().manual_seed(seed)
        for done in range(self.fit_steps):
            rows = torch.randint(len(images), (self.batch_size,), generator=order).to(images.device)
            batch = images[rows].to(memory_format=torch.channels_last)  # as training has them: read fastest
            player.step(detector, batch, labels[rows], threshold=threshold)
            if progress is not None:
                progress(done + 1, self.fit_steps)
        if not all(bool(value.isfinite().all()) for value in player.network.parameters()):
            raise WorkFailed(
                f"expected finite weights after fitting {self.kind}, got NaN or infinity; lower learning_rate"
            )
        fitted: Self = player.fitted()
        return fitted

    def network(self, device: torch.device) -> nn.Module:
        """Return the fitted network on a device.

        Raises:
            ConfigError: it was never fitted, or its file does not fit.
        """
        if self._network is None:
            if self.weights is None:
                raise ConfigError(
                    f"expected a fitted {self.kind} attack, got one without a network; call fit() with "
                    "training images, or set weights"
                )
            network = self.build()
            try:
                network.load_state_dict(load_file(self.weights))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise ConfigError(
                    f"expected the weights of a {self.kind} attack in {self.weights}, got: {error}"
                ) from error
            self._network = network.requires_grad_(False).eval()
        return self._network.to(device)

    def save(self, path: Path) -> Self:
        """Write the fitted network as safetensors.

        Returns:
            The same attack, with `weights` set to the file.

        Raises:
            ConfigError: it was never fitted.
        """
        save_tensors(path, self.network(torch.device("cpu")).state_dict())
        return self.model_copy(update={"weights": path})


class JointMove:
    """One attack in a pass that trains both sides.

    Attributes:
        images: (N, 3, H, W) attacked, with a graph to the attacker's parameters.
    """

    def __init__(self, attack: LearnedAttack, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = images
        self._harms = (1 - 2 * labels).to(images.dtype)
        self._sign: torch.Tensor | None = None

        def turn(slope: torch.Tensor) -> torch.Tensor:
            slope = slope.float() if self._sign is None else slope.float() * self._sign.view(-1, 1, 1, 1)
            return attack.pull(slope).to(images.dtype)

        images.register_hook(turn)  # type: ignore[no-untyped-call]  # torch's own

    def watch(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the same logits (N,) for the loss, and note which way the loss pushes each.

        A smoothed label punishes confidence beyond it, and the loss's gradient then points the wrong way for
        an attacker. Needed only where the loss is not monotone in the margin.
        """

        def note(gradient: torch.Tensor) -> None:
            self._sign = (gradient * self._harms).sign().float()

        watched = logits.view_as(logits)
        watched.register_hook(note)  # type: ignore[no-untyped-call]  # torch's own
        return watched


class Player:
    """A learned attacker in a training game: its network and its optimiser.

    Alternating: `step` updates it against the detector as it is, `attack` gives fresh images to train on.
    Joint: `joint` gives images whose graph reaches its parameters; the detector's own backward pass then
    trains both sides, one descending and one ascending, and `update` takes the attacker's step.

    Args:
        attack: what it plays.
        device: where.
        seed: of the first weights.
    """

    def __init__(self, attack: LearnedAttack, device: torch.device, seed: int = 0) -> None:
        self._attack = attack
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            torch.manual_seed(seed)
            self.network = attack.build().to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=attack.learning_rate)

    def step(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        updates: int = 1,
    ) -> torch.Tensor:
        """Update the attacker against a detector that stands still.

        Args:
            detector: left exactly as it was.
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,), real = 0, fake = 1.
            threshold: the deployed threshold on the score.
            updates: steps of the attacker.

        Returns:
            (N, 3, H, W) attacked images of the last step's pass, without a graph.
        """
        attacked = images
        for _ in range(updates):
            with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
                attacked, unreal = self._attack.generate(self.network, images, labels)
                _, slope = self._attack.gradient(detector, attacked, labels, threshold)
                self.optimiser.zero_grad()
                pull = self._attack.pull(slope)
                # one pass through the network for both terms
                torch.autograd.backward((attacked * pull).sum() + unreal.mean())
            self.update()
        return attacked.detach()

    def attack(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return attacked images (N, 3, H, W) by the network as it is now, without a graph."""
        with torch.no_grad():
            return self._attack.generate(self.network, images, labels)[0]

    def joint(self, images: torch.Tensor, labels: torch.Tensor) -> JointMove:
        """Return attacked images through which the next backward pass also reaches the attacker.

        The pass may carry any loss of these images' logits that grows with their margins. Its gradient
        arrives here turned round and scaled as in `step`; what is paid for realism is already counted. Call
        `update` after the backward pass.
        """
        self.optimiser.zero_grad()
        attacked, unreal = self._attack.generate(self.network, images, labels)
        if unreal.requires_grad:
            torch.autograd.backward(unreal.mean(), retain_graph=True)
        return JointMove(self._attack, attacked, labels)

    def update(self) -> None:
        """Take one optimiser step on the gradients that are there: their mean over processes, if many."""
        gradients = [value.grad for value in self.network.parameters() if value.grad is not None]
        if distributed.is_available() and distributed.is_initialized():
            together = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(together)
            together /= distributed.get_world_size()
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, mean in zip(gradients, torch.split(together, sizes), strict=True):
                gradient.copy_(mean.view_as(gradient))
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.optimiser.step()
        # within autocast the next pass would still go by the cast copies of the weights before this step
        torch.clear_autocast_cache()

    def fitted(self) -> Any:
        """Return the attack with a copy of the network as it is now."""
        attack = self._attack.model_copy()
        attack._network = copy.deepcopy(self.network).requires_grad_(False).eval()
        return attack

    def state_dict(self) -> dict[str, Any]:
        """Return network and optimiser, for a checkpoint."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        # the optimiser would keep the very tensors, and two players write to them
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
