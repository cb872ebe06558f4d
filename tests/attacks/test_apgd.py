from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dfcore.attacks import APGD, FGSM, PGD, TorchAttacks, margin
from dfcore.attacks.apgd import checkpoints
from dfcore.models import Detector
from tests.attacks.conftest import faces


class Ridge(nn.Module):
    """A logit with its summit inside the ball: steps that never shrink jump over it for ever."""

    def __init__(self, summit: torch.Tensor) -> None:
        super().__init__()
        self.summit = summit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images - self.summit).abs() * torch.linspace(0.5, 2, 75).view(1, 3, 5, 5)).flatten(1).sum(1)


class Waves(nn.Module):
    """A logit full of local summits."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn((40, 75), generator=generator) * 6
        self.phases = torch.rand(40, generator=generator) * 6

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cos(images.flatten(1) @ self.weights.T + self.phases).sum(1)


def tiny_batch(count: int = 6) -> torch.Tensor:
    return torch.rand((count, 3, 5, 5), generator=torch.Generator().manual_seed(9)) * 0.6 + 0.2


def margins(
    attack: APGD | PGD | FGSM, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    found = attack(detector, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return margin(detector, found, labels, 0.5)


def as_published(detector: nn.Module, start: torch.Tensor, clean: torch.Tensor, attack: APGD) -> float:
    """Algorithm 1 of the paper for one image of label 0, with plain lists; returns the best value."""
    epsilon, steps = attack.epsilon, attack.steps

    def ask(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        point = point.clone().requires_grad_()
        value = detector(point[None])[0]
        (slope,) = torch.autograd.grad(value, point)
        return float(value.detach()), slope

    def inside(point: torch.Tensor) -> torch.Tensor:
        return torch.maximum(torch.minimum(point, clean + epsilon), clean - epsilon).clamp(0, 1)

    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    places = [math.ceil(round(share * steps, 6)) for share in shares]
    points, values, size = [start], [], 2 * epsilon
    value, slope = ask(start)
    values.append(value)
    best, best_value, best_slope = start, value, slope
    sizes, bests = (
        [size, size],
        [value, value],
    )  # at the checkpoints; the first can't be judged by the second rule
    rises = 0
    for step in range(1, steps + 1):
        here = points[-1]
        new = inside(here + size * slope.sign())
        if step > 1:
            new = inside(here + 0.75 * (new - here) + 0.25 * (here - points[-2]))
        points.append(new)
        value, slope = ask(new)
        rises += value > values[-1]
        values.append(value)
        if value > best_value:
            best, best_value, best_slope = new, value, slope
        if step in places[1:]:
            place = places.index(step)
            few = rises < 0.75 * (step - places[place - 1])
            stuck = place > 1 and sizes[-1] == sizes[-2] and best_value == bests[-1]
            sizes.append(size)
            bests.append(best_value)
            rises = 0
            if few or stuck:
                size /= 2
                points[-1], slope = best, best_slope
            sizes[-1] = size
            if place == 1:
                sizes[-2] = 2 * epsilon
    return best_value


@pytest.mark.parametrize("detector", [Ridge(tiny_batch() + 0.013), Waves()], ids=["ridge", "waves"])
def test_equals_the_published_algorithm(detector: nn.Module) -> None:
    images = tiny_batch()
    attack = APGD(epsilon=8 / 255, steps=50)
    start = attack.start(images, torch.Generator().manual_seed(0))
    found = margins(attack, detector, images, torch.zeros(6, dtype=torch.long))
    for row in range(6):
        single = Ridge(detector.summit[row : row + 1]) if isinstance(detector, Ridge) else detector
        expected = as_published(single, start[row], images[row], attack)
        assert math.isclose(float(found[row]), expected, rel_tol=1e-4, abs_tol=1e-4)


def test_checkpoints_are_the_published_ones() -> None:
    assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    for steps in (1, 2, 3, 7, 10):
        found = checkpoints(steps)
        assert sum(found.values()) == max(found) <= steps
        assert all(window >= 1 for window in found.values())


def test_finds_a_summit_inside_the_ball() -> None:
    images = tiny_batch()
    summit = images + 0.013
    found = margins(APGD(epsilon=8 / 255, steps=100), Ridge(summit), images, torch.zeros(6, dtype=torch.long))
    assert float(found.min()) > -0.2  # no halving: below -1
    fixed = PGD(epsilon=8 / 255, step_size=16 / 255, steps=100)
    assert float(margins(fixed, Ridge(summit), images, torch.zeros(6, dtype=torch.long)).max()) < -0.5


def test_stronger_than_pgd_stronger_than_fgsm(trained: Detector) -> None:
    images, labels = faces(50, 24)
    epsilon = 5 / 255
    by_apgd = margins(APGD(epsilon=epsilon, steps=40), trained, images, labels)
    by_pgd = margins(PGD(epsilon=epsilon, step_size=epsilon / 4, steps=40), trained, images, labels)
    by_fgsm = margins(FGSM(epsilon=epsilon), trained, images, labels)
    assert by_apgd.mean() >= by_pgd.mean() - 0.02
    assert by_pgd.mean() > by_fgsm.mean() + 0.1
    assert (by_apgd > 0).sum() >= (by_pgd > 0).sum() >= (by_fgsm > 0).sum()


def test_restarts_never_help_the_detector(trained: Detector) -> None:
    images, labels = faces(51, 12)
    once = margins(APGD(epsilon=5 / 255, steps=8), trained, images, labels)
    often = margins(APGD(epsilon=5 / 255, steps=8, restarts=3), trained, images, labels)
    assert bool((often >= once - 1e-6).all())
    assert often.mean() > once.mean()


def test_until_fooled_turns_the_same_decisions(trained: Detector) -> None:
    images, labels = faces(52, 16)
    attack = APGD(epsilon=5 / 255, steps=10, restarts=3)
    lazy = attack.model_copy(update={"until_fooled": True})
    full, short = (margins(each, trained, images, labels) for each in (attack, lazy))
    assert (short > 0).sum() >= (full > 0).sum() - 1  # other draws
    assert (full > 0).any()
    assert short.mean() <= full.mean() + 0.3


@pytest.mark.parametrize(("norm", "name", "epsilon"), [("linf", "Linf", 5 / 255), ("l2", "L2", 0.6)])
def test_at_least_as_strong_as_torchattacks(norm: str, name: str, epsilon: float, trained: Detector) -> None:
    images, labels = faces(53, 24)
    attack = APGD.parse({"norm": norm, "epsilon": epsilon, "steps": 30})
    referee = TorchAttacks.parse(
        {"norm": norm, "epsilon": epsilon, "name": "APGD", "settings": {"norm": name, "steps": 30}}
    )
    ours = margins(attack, trained, images, labels)
    theirs = margins(referee, trained, images, labels)  # type: ignore[arg-type]  # any attack will do
    assert (ours > 0).sum() >= (theirs > 0).sum() - 1
    assert (theirs > 0).any()
