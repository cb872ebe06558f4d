from __future__ import annotations

import pytest
import torch

from dfcore.defences import FGSMAdversarialTraining, weighted_bce
from dfcore.models import Detector
from tests.defences.toys import settled, state_for, toy

EPSILON = 8 / 255


def uphill(detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    pixels = images.clone().requires_grad_()
    margins = (1 - 2 * labels) * detector(pixels)
    return torch.autograd.grad(margins.sum(), pixels)[0].sign()


def crafted(noise: str, detector: Detector, seed: int = 0) -> torch.Tensor:
    images, labels = toy(0, 8)
    defence = FGSMAdversarialTraining(noise=noise, epsilon=EPSILON)
    return defence.craft(images, labels, state_for(detector, seed=seed))[0]


def draw(seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand((8, 3, 16, 16), generator=torch.Generator().manual_seed(seed)) - 1


def test_fgsm_is_one_step_from_the_clean_image() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    expected = (images + EPSILON * uphill(detector, images, labels)).clamp(0, 1)
    agrees = (crafted("none", detector) - expected).abs() < 1e-6
    assert agrees.float().mean() > 0.999  # folding may turn the sign of a gradient of almost 0
    assert torch.equal(crafted("none", detector, seed=1), crafted("none", detector))


def test_fgsm_rs_returns_to_the_ball() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    start = (images + EPSILON * draw()).clamp(0, 1)
    stepped = start + 1.25 * EPSILON * uphill(detector, start, labels)
    expected = (images + (stepped - images).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    found = crafted("uniform", detector)
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999
    assert (found - images).abs().max() <= EPSILON + 1e-6
    assert not torch.equal(found, crafted("uniform", detector, seed=1))


def test_n_fgsm_steps_from_strong_noise_and_stays_there() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    start = (images + 2 * EPSILON * draw()).clamp(0, 1)
    expected = (start + EPSILON * uphill(detector, start, labels)).clamp(0, 1)
    found = crafted("n-fgsm", detector)
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999
    change = (found - images).abs().max()
    assert 2.5 * EPSILON < change <= 3 * EPSILON + 1e-6
    assert not torch.equal(found, crafted("n-fgsm", detector, seed=1))


def test_n_fgsm_steps_from_within_the_box() -> None:
    detector = settled()
    labels = torch.arange(8) % 2
    images = torch.rand((8, 3, 16, 16), generator=torch.Generator().manual_seed(0)).round()
    start = (images + 2 * EPSILON * draw()).clamp(0, 1)
    expected = (start + EPSILON * uphill(detector, start, labels)).clamp(0, 1)
    defence = FGSMAdversarialTraining(noise="n-fgsm", epsilon=EPSILON)
    (found,) = defence.craft(images, labels, state_for(detector))
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999


@pytest.mark.parametrize("noise", ["none", "uniform", "n-fgsm"])
def test_the_box_holds(noise: str) -> None:
    images = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).round()
    defence = FGSMAdversarialTraining(noise=noise, epsilon="64/255")
    (found,) = defence.craft(images, torch.arange(4) % 2, state_for(settled()))
    assert found.min() >= 0
    assert found.max() <= 1


def test_both_forms_are_the_formula() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector, weights=(1.2, 0.8), smoothing=0.1)
    both = FGSMAdversarialTraining(attacked_weight=0.7)
    attacked = both.craft(images, labels, state)
    clean, robust = (
        weighted_bce(detector(item), labels, state.class_weights, 0.1) for item in (images, attacked[0])
    )
    value, scalars = both.loss(detector, images, labels, attacked, state)
    torch.testing.assert_close(value, clean + 0.7 * robust)
    assert set(scalars) == {"clean_loss", "robust_loss"}
    value, scalars = FGSMAdversarialTraining(attacked_weight=None).loss(
        detector, images, labels, attacked, state
    )
    torch.testing.assert_close(value, robust)
    assert set(scalars) == {"robust_loss"}
    value, _ = FGSMAdversarialTraining(attacked_weight=0).loss(detector, images, labels, attacked, state)
    torch.testing.assert_close(value, clean)


def test_a_budget_of_the_whole_range_is_no_error() -> None:
    assert FGSMAdversarialTraining(noise="uniform", epsilon=1.0).attack_at(9).step_size == 1
