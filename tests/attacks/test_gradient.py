from __future__ import annotations

import math

import pytest
import torch
import torchattacks
from torch import nn

from dfcore.attacks import FGSM, PGD, RandomNoise, build_attack, margin
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import Detector
from tests.attacks.properties import attacked, batch
from tests.tolerances import TOLERANCE


class TwoLogits(nn.Module):
    """What attack libraries expect; its cross-entropy is the detector's at threshold 0.5."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logit = self.detector(images)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FGSM(epsilon=4 / 255), lambda model: torchattacks.FGSM(model, eps=4 / 255)),
        (
            PGD(epsilon=4 / 255, step_size=1 / 255, steps=6, random_start=False, keep_best=False),
            lambda model: torchattacks.PGD(model, eps=4 / 255, alpha=1 / 255, steps=6, random_start=False),
        ),
    ],
)
def test_agrees_with_torchattacks(ours: FGSM | PGD, theirs: object, detector: Detector) -> None:
    images, labels = batch(3)
    reference = theirs(TwoLogits(detector).eval())(images, labels)  # type: ignore[operator]  # ships no types
    found = attacked(ours, detector, images, labels)
    # a gradient that rounds to the other side of 0 flips a whole step: compare nearly all pixels
    assert float(((found - reference).abs() < 1e-5).float().mean()) > 0.999


def test_margin_says_what_the_detector_decides(detector: Detector) -> None:
    images, labels = batch(4, 64)
    for threshold in (0.2, 0.5, 0.9):
        scores = torch.sigmoid(detector(images))
        wrong = (scores >= threshold).long() != labels
        assert torch.equal(margin(detector, images, labels, threshold) > 0, wrong)


def test_success_agrees_with_the_detector_at_the_deployed_threshold(detector: Detector) -> None:
    images, labels = batch(5, 32)
    attack = PGD(epsilon=8 / 255, step_size=2 / 255, steps=10)
    found = attack(detector, images, labels, threshold=0.7)
    wrong = (torch.sigmoid(detector(found)) >= 0.7).long() != labels
    clean_wrong = (torch.sigmoid(detector(images)) >= 0.7).long() != labels
    assert bool((wrong | ~clean_wrong).all()), "an image already wrong was made right"
    assert wrong.sum() > clean_wrong.sum()
    assert torch.equal(margin(detector, found, labels, 0.7) > 0, wrong)


def test_more_budget_and_restarts_never_help_the_detector(detector: Detector) -> None:
    images, labels = batch(6, 16)
    weak = PGD(epsilon=2 / 255, step_size=0.5 / 255, steps=8)
    strong = weak.model_copy(update={"restarts": 3})
    first = margin(detector, attacked(weak, detector, images, labels), labels, 0.5)
    worst = margin(detector, attacked(strong, detector, images, labels), labels, 0.5)
    assert bool((worst >= first - 1e-5).all())
    larger = weak.model_copy(update={"epsilon": 8 / 255, "step_size": 2 / 255})
    assert margin(detector, attacked(larger, detector, images, labels), labels, 0.5).mean() > first.mean()


def test_saturated_scores_are_still_attacked(detector: Detector) -> None:
    """Cross-entropy has no gradient here; the margin has."""
    images, labels = batch(7)
    detector.calibrate(500.0, 0.0)
    try:
        found = attacked(FGSM(epsilon=4 / 255), detector, images, labels)
    finally:
        detector.calibrate(1.0, 0.0)
    torch.testing.assert_close(
        found, attacked(FGSM(epsilon=4 / 255), detector, images, labels), **TOLERANCE[torch.float32]
    )
    assert not torch.equal(found, images)


def test_starts_differ_with_the_seed(detector: Detector) -> None:
    images, labels = batch(8)
    draws = [
        RandomNoise(epsilon=0.1)(detector, images, labels, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    assert not torch.equal(*draws)
    inside = (images > 0.1) & (images < 0.9)
    delta = (draws[0] - images)[inside]
    assert math.isclose(float(delta.std()), 0.1 / math.sqrt(3), rel_tol=0.05)


def test_bad_input_is_refused(detector: Detector) -> None:
    images, labels = batch(0)
    with pytest.raises(ShapeError, match="divide by 255"):
        FGSM()(detector, images * 255, labels)
    with pytest.raises(ShapeError, match="labels"):
        FGSM()(detector, images, labels[:-1])
    for threshold in (0.0, 1.0):
        with pytest.raises(ConfigError, match="threshold"):
            FGSM()(detector, images, labels, threshold=threshold)


def test_build_attack() -> None:
    attack = build_attack({"kind": "pgd", "epsilon": "4/255", "steps": 3})
    assert attack == PGD(epsilon=4 / 255, steps=3)
    assert build_attack(attack.describe()) == attack
    with pytest.raises(ConfigError, match="did you mean 'pgd'"):
        build_attack({"kind": "pdg"})
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        build_attack({"kind": "pgd", "epsilom": 1})
