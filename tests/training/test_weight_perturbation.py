from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.training.weight_perturbation import perturbed


def made() -> tuple[Detector, torch.Tensor, torch.Tensor]:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=0).train()
    images = torch.rand((6, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return detector, images, torch.arange(6) % 2


def nothing(_: list[torch.Tensor]) -> None:
    """One process has nothing to average."""


def test_each_layer_moves_uphill_by_its_share_and_comes_back_exactly() -> None:
    detector, images, labels = made()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    reference = copy.deepcopy(detector)

    def loss(network: Detector) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(network(images), labels.float())

    loss(reference).backward()
    slopes = {name: value.grad for name, value in reference.named_parameters()}
    clean = float(loss(reference).detach())
    with perturbed(detector, 0.01, lambda: loss(detector), nothing):
        inside = dict(detector.named_parameters())
        for name, value in inside.items():
            old, slope = before[name], slopes[name]
            assert slope is not None
            # a fresh residual branch is multiplied by zero, and so is its gradient
            direction = slope / slope.norm().clamp_min(1e-12)
            moved = old + 0.01 * old.norm() * direction if old.ndim > 1 else old
            torch.testing.assert_close(value.detach(), moved)
        for name, value in detector.named_buffers():
            assert torch.equal(value, before[name]), f"{name} saw the pass that finds the direction"
        raised = loss(detector)
        assert float(raised.detach()) > clean
        raised.backward()
    for name, parameter in detector.named_parameters():
        assert torch.equal(parameter, before[name]), name
    # taken where the weights were moved to
    moved_slopes = [value.grad for value in detector.parameters() if value.grad is not None]
    assert any(
        not torch.allclose(mine, theirs)
        for mine, theirs in zip(moved_slopes, slopes.values(), strict=True)
        if theirs is not None
    )


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    detector, images, _ = made()
    before = [value.clone() for value in detector.parameters()]
    with perturbed(detector, 0.01, lambda: detector(images).sum() * float("inf"), nothing):
        assert all(torch.equal(a, b) for a, b in zip(before, detector.parameters(), strict=True))


def test_weights_come_back_where_the_loss_fails() -> None:
    detector, images, _ = made()
    before = [value.clone() for value in detector.parameters()]
    try:
        with perturbed(detector, 0.01, lambda: detector(images).sum(), nothing):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, detector.parameters(), strict=True))
