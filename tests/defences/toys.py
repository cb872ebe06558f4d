"""Tiny detectors with the interface of timm's models, and data that a robust detector can tell apart."""

from __future__ import annotations

import torch
from torch import nn

from dfcore.defences import TrainingState
from dfcore.models import Detector, DetectorConfig, fold_batch_norm

SIDE = 16


def _block(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.SiLU())


class TinyNet(nn.Module):
    """A stem, three blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 8, 1)
        self.blocks = nn.Sequential(_block(8, 12, 2), _block(12, 16, 2), _block(16, 16, 1))
        self.classifier = nn.Linear(16, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(pixels))

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        features = maps.mean((2, 3))
        return features if pre_logits else self.classifier(features)

    def get_classifier(self) -> nn.Module:
        return self.classifier


class LinearNet(nn.Module):
    """A logit that is linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(pixels.flatten(1))


def fresh(network: type[nn.Module] = TinyNet, seed: int = 0) -> Detector:
    """A detector in training mode, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(DetectorConfig(backbone=network.__name__, image_size=SIDE), network()).train()


def settled(seed: int = 0) -> Detector:
    """The same in eval, with batch statistics that are not the defaults, and logits of both signs."""
    detector = fresh(seed=seed)
    with torch.no_grad():
        for number in range(3):
            detector(toy(number, 16)[0])
        detector.eval()
        logits, last = detector(toy(0, 16)[0]), detector.backbone.classifier
        last.weight *= 2 / logits.std()
        last.bias -= detector(toy(0, 16)[0]).mean()
    return detector


def state_for(
    detector: Detector,
    epoch: float = 10.0,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    smoothing: float = 0.0,
    seed: int = 0,
) -> TrainingState:
    """What the engine would hand over."""
    return TrainingState(
        epoch, torch.tensor(weights), fold_batch_norm(detector), torch.Generator().manual_seed(seed),
        smoothing,
    )  # fmt: skip


def toy(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images; fakes carry a faint fine checkerboard, and are a little brighter in a corner.

    The checkerboard is easy and lies within 4/255; the corner is robust and not quite as easy.
    """
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 + 0.05 * torch.randn((count, 3, SIDE, SIDE), generator=generator)
    labels = torch.arange(count) % 2
    signs = (2 * labels - 1).float().view(-1, 1, 1, 1)
    grid = torch.arange(SIDE)
    board = 1 - 2 * ((grid[:, None] + grid) % 2)
    corner = torch.zeros((SIDE, SIDE))
    corner[: SIDE // 2, : SIDE // 2] = 1
    strength = 0.05 + 0.03 * torch.randn((count, 1, 1, 1), generator=generator)
    return (images + signs * (0.012 * board + strength * corner)).clamp(0, 1), labels


def assert_same_slopes(value: torch.Tensor, expected: torch.Tensor, detector: Detector) -> None:
    """Compare two losses' gradients to every parameter."""
    weights = list(detector.parameters())
    found, wanted = (
        torch.cat(
            [slope.flatten().double() for slope in torch.autograd.grad(item, weights, materialize_grads=True)]
        )
        for item in (value, expected)
    )
    assert (found - wanted).norm() < 1e-3 * wanted.norm()
