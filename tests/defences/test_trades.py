from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from dfcore.defences import TRADES, weighted_bce
from dfcore.defences.trades import bernoulli_kl
from tests.defences.toys import assert_same_slopes, settled, state_for, toy


def test_divergence_is_the_formula() -> None:
    logits, others = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([1.0, 3.0, 5.0])
    p, q = torch.sigmoid(logits.double()), torch.sigmoid(others.double())
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(bernoulli_kl(logits, others).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sign", [1, -1])
def test_divergence_keeps_its_precision_where_probabilities_are_one(sign: int) -> None:
    logits, others = torch.tensor([20.0, 30.0, 90.0]), torch.tensor([18.0, 20.0, -90.0])
    # written out for the smaller of the two probabilities, whose complement is 1 but for itself
    small = torch.exp(-logits.double()), torch.exp(-others.double())
    expected = small[0] * (small[0] / small[1]).log() - small[0] + small[1]
    expected[2] = 90.0
    found = bernoulli_kl(sign * logits, sign * others)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


def test_divergence_has_finite_gradients_everywhere() -> None:
    values = torch.tensor([-1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4])
    logits, others = (
        item.flatten().clone().requires_grad_() for item in torch.meshgrid(values, values, indexing="ij")
    )
    found = bernoulli_kl(logits, others)
    found.sum().backward()
    assert bool(found.isfinite().all())
    assert bool((found >= -1e-6).all())
    assert bool(logits.grad.isfinite().all())
    torch.testing.assert_close(others.grad, torch.sigmoid(others.detach()) - torch.sigmoid(logits.detach()))


def test_divergence_is_differentiated_right() -> None:
    both = torch.tensor([[0.2, -1.0], [3.0, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda item: bernoulli_kl(item[0], item[1]), (both,))


def test_the_inner_attack_maximises_the_divergence() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    defence = TRADES(epsilon="4/255", step_size="1/255", steps=3)
    (found,) = defence.craft(images, labels, state_for(detector))
    # by hand, on the divergence itself
    with torch.no_grad():
        clean = detector(images)
    start = 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1
    current = (images + 4 / 255 * start).clamp(0, 1)
    for _ in range(3):
        pixels = current.clone().requires_grad_()
        slope = torch.autograd.grad(bernoulli_kl(clean, detector(pixels)).sum(), pixels)[0]
        delta = (current + 1 / 255 * slope.sign() - images).clamp(-4 / 255, 4 / 255)
        current = (images + delta).clamp(0, 1)
    assert ((found - current).abs() < 1e-6).float().mean() > 0.98
    assert torch.equal(found, defence.craft(images, 1 - labels, state_for(detector))[0])
    with torch.no_grad():
        assert (detector(found) - clean).abs().min() > (detector((images + found) / 2) - clean).abs().min()


def test_the_inner_attack_does_not_stop_at_confident_images() -> None:
    detector = settled()
    detector.calibrate(1.0, 110.0)
    images, labels = toy(0, 8)
    (found,) = TRADES(epsilon="4/255", step_size="4/255", steps=2).craft(images, labels, state_for(detector))
    assert ((found - images).abs() > 3.9 / 255).float().mean() > 0.9


@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_the_ball_and_the_box_hold(attack: str) -> None:
    images = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    (found,) = TRADES(attack=attack, epsilon="16/255", steps=4).craft(
        images, torch.arange(4) % 2, state_for(settled())
    )
    assert (found - images).abs().max() <= 16 / 255 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_loss_is_the_formula() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector, weights=(1.5, 0.5), smoothing=0.1)
    attacked = (images.flip(0),)
    value, scalars = TRADES(beta=3.0).loss(detector, images, labels, attacked, state)
    clean, logits = detector(images), detector(images.flip(0))
    p, q = torch.sigmoid(clean), torch.sigmoid(logits)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = weighted_bce(clean, labels, state.class_weights, 0.1)
    torch.testing.assert_close(scalars["clean_loss"], expected.detach())
    expected = expected + 3 * (state.class_weights[labels] * divergence).mean()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert_same_slopes(value, expected, detector)


def test_without_a_price_it_is_plain_training() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector)
    value, _ = TRADES(beta=0.0).loss(detector, images, labels, (images.flip(0),), state)
    torch.testing.assert_close(value, state.bce(detector(images), labels))


def test_a_start_at_the_clean_image_is_refused() -> None:
    with pytest.raises(ValidationError, match="random_start"):
        TRADES(random_start=False)
    assert math.isclose(TRADES().beta, 6.0)
