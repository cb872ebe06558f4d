from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfcore.attacks import ATTACKS, FGSM, PGD, Attack, RandomNoise
from dfcore.models import Detector
from tests.attacks.properties import attacked, batch, check_ball, check_box, check_harm

GRADIENT = [
    FGSM(epsilon=4 / 255),
    PGD(epsilon=4 / 255, step_size=1 / 255, steps=5),
    PGD(epsilon=4 / 255, step_size=3 / 255, steps=4, restarts=2),
    PGD(epsilon=4 / 255, step_size=1 / 255, steps=5, random_start=False),
    PGD(epsilon=4 / 255, step_size=2 / 255, steps=5, keep_best=False),
]
ALL = [*GRADIENT, RandomNoise(epsilon=4 / 255)]


def test_every_kind_is_tested() -> None:
    assert {attack.kind for attack in ALL} == set(ATTACKS)


@pytest.mark.parametrize("attack", ALL, ids=repr)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), grey=st.floats(0, 32))
def test_stays_in_ball_and_box(attack: Attack, detector: Detector, seed: int, grey: float) -> None:
    sized = attack.model_copy(update={"epsilon": grey / 255})
    images, labels = batch(seed, 4)
    check_ball(sized, detector, images, labels)
    check_box(sized, detector, images, labels)


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_epsilon_zero_is_identity(attack: Attack, detector: Detector) -> None:
    images, labels = batch(0)
    found = attacked(attack.model_copy(update={"epsilon": 0.0}), detector, images, labels)
    assert torch.equal(found, images)


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_same_seed_same_result_and_input_untouched(attack: Attack, detector: Detector) -> None:
    images, labels = batch(1)
    before = images.clone()
    first = attacked(attack, detector, images, labels)
    assert torch.equal(first, attacked(attack, detector, images, labels))
    assert torch.equal(images, before)


@pytest.mark.parametrize("attack", GRADIENT, ids=repr)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_hurts(attack: Attack, detector: Detector, seed: int) -> None:
    check_harm(attack, detector, *batch(seed))


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_leaves_no_trace_on_the_detector(attack: Attack, detector: Detector) -> None:
    images, labels = batch(2)
    modes = [module.training for module in detector.modules()]
    statistics = detector.backbone.body[1].running_mean.clone()
    try:
        detector.train()
        with torch.inference_mode():
            found = attacked(attack, detector, images, labels)
        assert all(module.training for module in detector.modules())
        assert all(p.requires_grad and p.grad is None for p in detector.parameters())
    finally:
        for module, flag in zip(detector.modules(), modes, strict=True):
            module.training = flag
    assert torch.equal(found, attacked(attack, detector, images, labels)), "dropout was active"
    assert torch.equal(detector.backbone.body[1].running_mean, statistics)
    assert not found.requires_grad
