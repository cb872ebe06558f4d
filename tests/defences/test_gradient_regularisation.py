from __future__ import annotations

import pytest
import torch

from dfcore.defences import GradientRegularisation
from dfcore.errors import ConfigError
from dfcore.models import Detector, DetectorConfig, build_detector
from tests.defences.toys import fresh, settled, state_for, toy

Found = tuple[torch.Tensor, torch.Tensor]


def by_hand(detector: Detector, radius: float, alpha: float) -> tuple[torch.Tensor, torch.Tensor, Found]:
    """The paper's formulas, with mean and spread as leaves of their own."""
    images, labels = toy(0, 8)
    bce = state_for(detector, weights=(1.5, 0.5), smoothing=0.1).bce
    split = detector.split_forward(2)
    maps = split.shallow(images)
    mean = maps.mean((2, 3), keepdim=True)
    spread = (((maps - mean) ** 2).mean((2, 3), keepdim=True) + 1e-8).sqrt()
    standard = (maps - mean) / spread
    leaves = mean.detach().requires_grad_(), spread.detach().requires_grad_()
    first = bce(split.deep(standard.detach() * leaves[1] + leaves[0]), labels)
    slopes = torch.autograd.grad(first, leaves)
    length = (slopes[0].square().sum() + slopes[1].square().sum()).sqrt()
    d_mean, d_spread = (radius * slope / length for slope in slopes)
    moved = split.deep(standard * (spread + d_spread) + (mean + d_mean))
    clean, perturbed = bce(detector(images), labels), bce(moved, labels)
    return (1 - alpha) * clean + alpha * perturbed, perturbed, (d_mean, d_spread)


def test_gradient_mode_is_the_formula() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector, weights=(1.5, 0.5), smoothing=0.1)
    value, scalars = GradientRegularisation(radius=0.5, alpha=0.3).loss(detector, images, labels, (), state)
    expected, perturbed, _ = by_hand(detector, 0.5, 0.3)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(scalars["perturbed_loss"], perturbed.detach())
    assert scalars["perturbed_loss"] > scalars["clean_loss"]
    parameters = list(detector.parameters())
    for one, other in zip(
        *(torch.autograd.grad(item, parameters) for item in (value, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_random_mode_is_the_formula() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    defence = GradientRegularisation(mode="random", radius=0.2, alpha=0.3)
    value, scalars = defence.loss(detector, images, labels, (), state_for(detector, seed=3))
    split = detector.split_forward(2)
    maps = split.shallow(images)
    mean, spread = (
        maps.mean((2, 3), keepdim=True),
        (maps.var((2, 3), keepdim=True, unbiased=False) + 1e-8).sqrt(),
    )
    generator = torch.Generator().manual_seed(3)
    d_mean, d_spread = (0.2 * torch.randn(mean.shape, generator=generator) for _ in range(2))
    moved = split.deep((maps - mean) / spread * (spread + d_spread) + (mean + d_mean))
    bce = state_for(detector).bce
    expected = 0.7 * bce(detector(images), labels) + 0.3 * bce(moved, labels)
    torch.testing.assert_close(value, expected)
    again, _ = defence.loss(detector, images, labels, (), state_for(detector, seed=3))
    other, _ = defence.loss(detector, images, labels, (), state_for(detector, seed=4))
    assert torch.equal(again, value)
    assert not torch.equal(other, value)
    assert set(scalars) == {"clean_loss", "perturbed_loss"}


@pytest.mark.parametrize("mode", ["gradient", "random"])
@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"radius": 0.0}])
def test_without_a_share_or_a_radius_it_is_plain_training(mode: str, change: dict[str, float]) -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector)
    value, _ = GradientRegularisation(mode=mode, **change).loss(detector, images, labels, (), state)
    torch.testing.assert_close(value, state.bce(detector(images), labels), rtol=1e-5, atol=1e-6)


def test_the_gradient_goes_to_the_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fresh()
    images, labels = toy(0, 8)
    asked: list[int] = []
    grad = torch.autograd.grad

    def noted(
        loss: torch.Tensor, inputs: tuple[torch.Tensor, ...], **options: bool
    ) -> tuple[torch.Tensor, ...]:
        asked.extend(item.numel() for item in inputs)
        return grad(loss, inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    GradientRegularisation().loss(detector, images, labels, (), state_for(detector))
    assert asked == [8 * 16, 8 * 16]
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_a_flat_loss_moves_nothing() -> None:
    detector = settled()
    torch.nn.init.zeros_(detector.backbone.classifier.weight)
    images, labels = toy(0, 8)
    value, scalars = GradientRegularisation().loss(detector, images, labels, (), state_for(detector))
    assert scalars["perturbed_loss"] == scalars["clean_loss"]
    value.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in detector.parameters())


@pytest.mark.parametrize("mode", ["gradient", "random"])
@pytest.mark.parametrize(
    "backbone", ["efficientnet_b0", "efficientvit", "xception", "resnet10_narrow", "convnext_atto"]
)
def test_every_chain_of_blocks_trains(backbone: str, mode: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=64)).train()
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    loss, _ = GradientRegularisation(mode=mode).loss(
        detector, images, torch.tensor([0, 1]), (), state_for(detector)
    )
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in detector.parameters())


def test_what_is_no_chain_is_refused() -> None:
    detector = build_detector(DetectorConfig(backbone="vit_tiny_patch16_224", image_size=32))
    images = torch.rand((2, 3, 32, 32))
    with pytest.raises(ConfigError, match="chain of blocks, got vit_tiny"):
        GradientRegularisation().check(detector)
    with pytest.raises(ConfigError, match="chain of blocks, got vit_tiny"):
        GradientRegularisation().loss(detector, images, torch.tensor([0, 1]), (), state_for(detector))


def test_the_split_is_tried_once_for_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fresh()
    images, labels = toy(0, 8)
    calls: list[int] = []
    split = Detector.split_forward

    def noted(self: Detector, blocks: int = 2) -> object:
        calls.append(blocks)
        return split(self, blocks)

    monkeypatch.setattr(Detector, "split_forward", noted)
    for _ in range(3):
        GradientRegularisation(blocks=1).loss(detector, images, labels, (), state_for(detector))
    assert calls == [1]
