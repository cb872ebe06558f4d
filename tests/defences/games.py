"""A training step as the engine takes it, on a tiny detector, and what must hold for every defence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from dfcore.attacks import Player
from dfcore.defences import Defence, TrainingState
from dfcore.models import Detector, DetectorConfig, fold_batch_norm
from tests.attacks.conftest import SmallNet, faces, train_small

Losses = dict[str, float]


@cache
def _trained() -> Detector:
    return train_small(1)


def trained() -> Detector:
    """A tiny detector that has learned to tell real from fake, in training mode; a copy of its own."""
    return copy.deepcopy(_trained()).train()


class PlainNet(torch.nn.Module):
    """Without batch norm, so that one pass over three batches is three passes, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.SiLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2), torch.nn.SiLU(),
        )  # fmt: skip
        self.head = torch.nn.Linear(8, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # logits large enough that attacks matter from the first step
        return 30 * self.head(self.body(pixels).mean((2, 3)))


def fresh(network: type[torch.nn.Module] = SmallNet, seed: int = 0) -> Detector:
    """A detector with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(DetectorConfig(backbone="tiny", image_size=24), network()).train()


def players_of(defence: Defence, seed: int = 0) -> dict[str, Player]:
    """The players that the engine would make."""
    return {name: Player(attack, torch.device("cpu"), seed) for name, attack in defence.attackers().items()}


class Game:
    """One run: a detector, its optimiser and the players."""

    def __init__(self, defence: Defence, detector: Detector, seed: int = 0, smoothing: float = 0.0) -> None:
        self.defence, self.detector, self.smoothing = defence, detector, smoothing
        self.players = players_of(defence, seed)
        self.twin = fold_batch_norm(detector)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)

    def state(self, epoch: float = 10.0) -> TrainingState:
        return TrainingState(
            epoch, torch.ones(2), self.twin, self.generator, self.smoothing, self.players
        )  # fmt: skip

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> Losses:
        state = self.state()
        attacked = self.defence.craft(images, labels, state)
        loss, scalars = self.defence.loss(self.detector, images, labels, attacked, state)
        self.optimiser.zero_grad()
        loss.backward()
        self.defence.finish(state)
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), 1.0)
        self.optimiser.step()
        self.twin.refresh(self.detector)
        return {name: float(value) for name, value in scalars.items()}

    def run(self, steps: int, size: int = 16) -> list[Losses]:
        return [self.step(*faces(2000 + step, size)) for step in range(steps)]


def check_craft(defence: Defence, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Attacked images are in the box, without a graph, and repeat; the detector is as it was."""
    detector = trained()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    first, second = (Game(defence, detector) for _ in range(2))
    found = defence.craft(images, labels, first.state())
    for item in found:
        assert item.shape == images.shape
        assert item.dtype == torch.float32
        assert not item.requires_grad
        assert bool(((item >= 0) & (item <= 1)).all())
    for item, again in zip(found, defence.craft(images, labels, second.state()), strict=True):
        assert torch.equal(item, again)
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert all(p.grad is None for p in first.twin.parameters())
    assert all(module.training for module in detector.modules())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def check_loss(defence: Defence, smoothing: float = 0.0) -> None:
    """The loss reaches every parameter, in the backward pass and not before; scalars have no graph."""
    images, labels = faces(5, 8)
    game = Game(defence, trained(), smoothing=smoothing)
    attacked = defence.craft(images, labels, game.state())
    loss, scalars = defence.loss(game.detector, images, labels, attacked, game.state())
    assert loss.shape == ()
    assert not any(value.requires_grad for value in scalars.values())
    assert all(parameter.grad is None for parameter in game.detector.parameters())
    loss.backward()
    for parameter in game.detector.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


def check_autocast(defence: Defence) -> None:
    """Under bf16 everything stays finite, and attacked images keep more than a grey level's precision."""
    images, labels = faces(6, 8)
    game = Game(defence, trained(), smoothing=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attacked = defence.craft(images, labels, game.state())
        loss, scalars = defence.loss(game.detector, images, labels, attacked, game.state())
    loss.backward()
    defence.finish(game.state())
    assert loss.dtype == torch.float32
    assert all(item.dtype == torch.float32 for item in attacked)
    assert all(bool(torch.isfinite(value)) for value in scalars.values())
    for parameter in game.detector.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
    for player in game.players.values():
        assert all(bool(torch.isfinite(value).all()) for value in player.network.parameters())


def check_trains(defence: Defence, term: str, steps: int = 40, size: int = 16) -> Game:
    """From a detector that knows the clean task alone, the loss under attack falls."""
    game = Game(defence, trained())
    losses = [record[term] for record in game.run(steps, size)]
    fifth = steps // 5
    assert sum(losses[-fifth:]) < 0.8 * sum(losses[:fifth]), losses
    return game


@contextmanager
def counted(detector: Detector) -> Iterator[list[int]]:
    """Batch sizes of the detector's forward passes."""
    seen: list[int] = []
    handle = detector.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()
