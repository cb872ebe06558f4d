from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks

from dfcore.attacks import BIM, FGSM, MIFGSM, PGD, TwoLogits, build_attack, margin
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import Detector, crafting_mode
from tests.attacks.conftest import faces
from tests.attacks.properties import attacked, batch
from tests.tolerances import TOLERANCE


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FGSM(epsilon=4 / 255), lambda model: torchattacks.FGSM(model, eps=4 / 255)),
        (
            MIFGSM(epsilon=4 / 255, step_size=1 / 255, steps=6, decay=0.9, keep_best=False),
            lambda model: torchattacks.MIFGSM(model, eps=4 / 255, alpha=1 / 255, steps=6, decay=0.9),
        ),
        (
            PGD(epsilon=4 / 255, step_size=1 / 255, steps=6, random_start=False, keep_best=False),
            lambda model: torchattacks.PGD(model, eps=4 / 255, alpha=1 / 255, steps=6, random_start=False),
        ),
    ],
)
def test_agrees_with_torchattacks(ours: FGSM | MIFGSM | PGD, theirs: object, detector: Detector) -> None:
    images, labels = batch(3)
    reference = theirs(TwoLogits(detector, 0.5).eval())(images, labels)  # type: ignore[operator]  # ships no types
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
        PGD(steps=1, keep_best=False)(detector, images, labels, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    assert not torch.equal(*draws)


def test_bim_is_pgd_from_the_clean_image(detector: Detector) -> None:
    images, labels = batch(9)
    settings = {"epsilon": 4 / 255, "step_size": 1 / 255, "steps": 6}
    expected = PGD(**settings, random_start=False)(detector, images, labels)
    assert torch.equal(BIM(**settings)(detector, images, labels), expected)


def test_momentum_with_decay_zero_is_bim(detector: Detector) -> None:
    images, labels = batch(10)
    settings = {"epsilon": 4 / 255, "step_size": 1 / 255, "steps": 6}
    found = [attack(detector, images, labels) for attack in (BIM(**settings), MIFGSM(**settings, decay=0.0))]
    assert torch.equal(*found)


def as_published(
    detector: Detector, images: torch.Tensor, labels: torch.Tensor, decay: float
) -> torch.Tensor:
    """Algorithm 1 of arXiv:1710.06081, three steps of 2/255 written out, on the margin."""
    current, momentum = images, torch.zeros_like(images)
    for _ in range(3):
        pixels = current.detach().requires_grad_()
        with crafting_mode(detector):
            (slope,) = torch.autograd.grad(margin(detector, pixels, labels, 0.5).sum(), pixels)
        size = torch.stack([each.abs().mean() for each in slope]).view(-1, 1, 1, 1)
        momentum = decay * momentum + slope / size
        moved = current + 2 / 255 * momentum.sign()
        current = torch.minimum(torch.maximum(moved, images - 4 / 255), images + 4 / 255).clamp(0, 1)
    return current


def test_momentum_is_that_of_the_publication(trained: Detector) -> None:
    images, labels = faces(46, 12)
    attack = MIFGSM(epsilon=4 / 255, step_size=2 / 255, steps=3, keep_best=False)
    found = attack(trained, images, labels)

    def same(expected: torch.Tensor) -> float:
        return float(((found - expected).abs() < 1e-6).float().mean())

    assert same(as_published(trained, images, labels, attack.decay)) > 0.999
    assert same(as_published(trained, images, labels, 0.0)) < 0.99, (
        "this detector can't tell momentum from none"
    )


class Faint(torch.nn.Module):
    """Its logit moves by 1e-8 a pixel in two steps of 1e-4, which float16 has, but not their product."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1, bias=False) for _ in range(2)))
        for layer in self.body:
            torch.nn.init.constant_(layer.weight, 1e-4)  # type: ignore[arg-type]  # a layer has a weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).float().sum((1, 2, 3))


def test_float16_does_not_round_the_gradient_to_zero() -> None:
    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
    attack = FGSM(epsilon=4 / 255)
    _, expected = attack.gradient(Faint(), images, labels, 0.5)
    with torch.autocast("cpu", torch.float16):
        _, slope = attack.gradient(Faint(), images, labels, 0.5)
        found = attack(Faint(), images, labels)
    torch.testing.assert_close(slope, expected, rtol=0.02, atol=0)
    torch.testing.assert_close(found, images + 4 / 255 * expected.sign())


def test_iterating_beats_one_step(trained: Detector) -> None:
    images, labels = faces(40, 24)
    settings = {"epsilon": 5 / 255, "step_size": 1 / 255, "steps": 15}
    single = margin(trained, FGSM(epsilon=5 / 255)(trained, images, labels), labels, 0.5)
    for attack in (BIM(**settings), MIFGSM(**settings), PGD(**settings)):
        found = attack(trained, images, labels, generator=torch.Generator().manual_seed(0))
        assert margin(trained, found, labels, 0.5).mean() > single.mean()


def test_until_fooled_leaves_out_what_has_turned(trained: Detector) -> None:
    images, labels = faces(41, 24)
    asked: list[int] = []

    class Counting(PGD):
        def gradient(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            asked.append(len(arguments[1]))
            return super().gradient(*arguments)

    attack = Counting(epsilon=6 / 255, step_size=2 / 255, steps=4, restarts=3, until_fooled=True)
    found = attack(trained, images, labels, generator=torch.Generator().manual_seed(0))
    assert asked[0] == 24
    assert 0 < asked[-1] < 24
    once = attack.model_copy(update={"restarts": 1})
    first = once(trained, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (margin(trained, each, labels, 0.5) for each in (first, found))
    assert torch.equal(found[before > 0], first[before > 0])
    assert bool((after >= before - 1e-6).all())
    assert (after > before).any()
    asked.clear()
    assert torch.equal(attack(trained, images, 1 - labels), images)  # every decision is wrong already
    assert not asked


def test_bad_input_is_refused(detector: Detector) -> None:
    images, labels = batch(0)
    with pytest.raises(ShapeError, match="divide by 255"):
        FGSM()(detector, images * 255, labels)
    with pytest.raises(ShapeError, match="labels"):
        FGSM()(detector, images, labels[:-1])
    for threshold in (0.0, 1.0):
        with pytest.raises(ConfigError, match="threshold"):
            FGSM()(detector, images, labels, threshold=threshold)
    with pytest.raises(ShapeError, match=r"logits \(8,\), one for each image, got \(8, 1\)"):
        FGSM()(torch.nn.Sequential(detector, torch.nn.Unflatten(0, (-1, 1))), images, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": 3, "random_start": False}, "the same"),
        ({"restarts": 3, "keep_best": False}, "with 3 restarts"),
        ({"until_fooled": True, "keep_best": False}, "keep_best with until_fooled"),
        ({"norm": "l2", "step_size": 0.1}, "expected epsilon in units of norm l2"),
        ({"norm": "l2", "epsilon": 1}, "expected step_size in units of norm l2"),
        ({"epsilon": 1}, "write 1/255 or 255/255"),
    ],
)
def test_settings_that_would_flatter_the_detector_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_attack({"kind": "pgd", **settings})


def test_a_norm_with_sizes_of_its_own_is_taken() -> None:
    assert (
        build_attack({"kind": "pgd", "norm": "l2", "epsilon": 1, "step_size": 0.2}).threat_model.epsilon == 1
    )
    assert build_attack({"kind": "pgd-l2"}).threat_model.norm == "l2"


def test_build_attack() -> None:
    attack = build_attack({"kind": "pgd", "epsilon": "4/255", "steps": 3})
    assert attack == PGD(epsilon=4 / 255, steps=3)
    assert build_attack(attack.describe()) == attack
    with pytest.raises(ConfigError, match="did you mean 'pgd'"):
        build_attack({"kind": "pdg"})
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        build_attack({"kind": "pgd", "epsilom": 1})
