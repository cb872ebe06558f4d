from __future__ import annotations

import torch

from dfcore.defences import MART
from tests.defences.toys import assert_same_slopes, settled, state_for, toy


def test_loss_is_that_of_two_softmax_logits() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector, weights=(1.5, 0.5))
    attacked = images.flip(0)
    value, _ = MART(beta=3.0).loss(detector, images, labels, (attacked,), state)

    def probabilities(pixels: torch.Tensor) -> torch.Tensor:
        logit = detector(pixels).double()
        return torch.stack([torch.zeros_like(logit), logit], dim=1).softmax(1)

    clean, adversarial = probabilities(images), probabilities(attacked)
    rows = torch.arange(8)
    boosted = -adversarial[rows, labels].log() - (1 - adversarial[rows, 1 - labels]).log()
    divergence = (clean * (clean / adversarial).log()).sum(1)
    weights = state.class_weights[labels].double()
    expected = (weights * (boosted + 3 * divergence * (1 - clean[rows, labels]))).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_slopes(value, expected, detector)


def test_without_a_price_it_is_twice_the_attacked_loss() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector, smoothing=0.1)
    value, scalars = MART(beta=0.0).loss(detector, images, labels, (images.flip(0),), state)
    torch.testing.assert_close(value, 2 * state.bce(detector(images.flip(0)), labels))
    torch.testing.assert_close(scalars["boosted_loss"], value.detach())


def test_what_the_detector_gets_wrong_weighs_more() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector)
    detector.calibrate(1.0, 12.0)  # everything is called fake
    divergences = [
        MART().loss(detector, images, torch.full((8,), label), (images.flip(0),), state)[1]["divergence"]
        for label in (0, 1)
    ]
    assert divergences[0] > 50 * divergences[1]
    assert len(labels) == 8
