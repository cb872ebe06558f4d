from __future__ import annotations

import numpy as np
import pytest
import torch

from dfcore.defences import Lipschitz
from dfcore.errors import ConfigError
from dfcore.models import Detector, DetectorConfig, build_detector
from tests.defences.toys import LinearNet, fresh, settled, state_for, toy


def term(setting: Lipschitz, detector: Detector, images: torch.Tensor) -> torch.Tensor:
    moved = setting.moved(images, state_for(detector))
    watched = setting.watched(images)
    return setting.penalty(watched, detector(watched), *(detector(item) for item in moved))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_exact_term_of_a_linear_detector_is_the_formula(power: float) -> None:
    detector = fresh(LinearNet)
    detector.calibrate(3.0, 0.5)
    slope = 3 * detector.backbone.head.weight.detach().numpy().reshape(3, 16, 16)
    slope = slope / detector.std.numpy()[0]
    found = term(Lipschitz(weight=7.0, power=power), detector, toy(0, 4)[0])
    np.testing.assert_allclose(found.item(), 7 * np.mean(np.abs(slope) ** power), rtol=1e-5)


@pytest.mark.parametrize("step", [0.2 / 255, 1 / 255, 8 / 255])
def test_finite_difference_of_a_linear_detector_is_the_exact_term(step: float) -> None:
    detector = fresh(LinearNet)
    images = toy(0, 4)[0]
    both = [
        term(setting, detector, images)
        for setting in (Lipschitz(), Lipschitz(mode="finite_difference", step=step))
    ]
    torch.testing.assert_close(both[1], both[0], rtol=1e-3, atol=0)
    slopes = [torch.autograd.grad(value, detector.backbone.head.weight)[0] for value in both]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-3 * slopes[0].abs().max().item())


def test_finite_difference_is_close_for_a_smooth_detector() -> None:
    detector = settled()
    images = toy(0, 8)[0]
    exact = term(Lipschitz(), detector, images)
    near = term(Lipschitz(mode="finite_difference", step="0.2/255"), detector, images)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0)
    weights = list(detector.parameters())
    slopes = [
        torch.cat([item.flatten() for item in torch.autograd.grad(value, weights, materialize_grads=True)])
        for value in (exact, near)
    ]
    assert torch.cosine_similarity(*slopes, dim=0) > 0.98


def test_the_exact_term_is_differentiated_right() -> None:
    images = torch.rand((2, 3, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).requires_grad_()

    def value(weight: torch.Tensor) -> torch.Tensor:
        watched = Lipschitz().watched(images)
        return Lipschitz(power=3.0).penalty(watched, torch.tanh(watched.flatten(1) @ weight))

    assert torch.autograd.gradcheck(value, (weight,))


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_a_flat_detector_pays_nothing(mode: str) -> None:
    detector = fresh(LinearNet)
    torch.nn.init.zeros_(detector.backbone.head.weight)
    value = term(Lipschitz(mode=mode), detector, toy(0, 4)[0])
    value.backward()
    assert value == 0
    assert bool(detector.backbone.head.weight.grad.isfinite().all())


def test_the_direction_costs_no_gradient_of_the_weights() -> None:
    detector = fresh()
    state = state_for(detector)
    (moved,) = Lipschitz(mode="finite_difference").moved(toy(0, 4)[0], state)
    assert not moved.requires_grad
    assert all(parameter.grad is None for parameter in state.crafting.parameters())
    change = (moved - toy(0, 4)[0]).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(change, torch.full((4,), 1 / 255), rtol=1e-3, atol=0)
    assert Lipschitz().moved(toy(0, 4)[0], state) == ()


@pytest.mark.parametrize("backbone", ["efficientvit", "vit_tiny_patch16_224"])
def test_attention_has_a_second_derivative(backbone: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=32))
    setting = Lipschitz()
    watched = setting.watched(torch.rand((2, 3, 32, 32)))
    with setting.passing():
        logits = detector(watched)
    setting.penalty(watched, logits).backward()
    assert all(
        parameter.grad is None or bool(parameter.grad.isfinite().all()) for parameter in detector.parameters()
    )


def test_a_step_along_the_gradient_measures_no_other_norm() -> None:
    with pytest.raises(ConfigError, match="expected power 2 with mode finite_difference, got 1"):
        Lipschitz.parse({"mode": "finite_difference", "power": 1})
    with pytest.raises(ConfigError, match="step"):
        Lipschitz.parse({"step": 0})


def test_the_defaults_are_the_published_setting() -> None:
    assert Lipschitz().model_dump(include={"mode", "weight", "power"}) == {
        "mode": "exact", "weight": 1000.0, "power": 2.0
    }  # fmt: skip
