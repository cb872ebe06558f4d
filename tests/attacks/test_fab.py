from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dfcore.attacks import FAB, PGD, TorchAttacks, margin
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import Detector
from tests.attacks.conftest import faces


class Linear(nn.Module):
    """Logit w . x + b; its distances are known exactly."""

    def __init__(self, seed: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.randn(75, generator=torch.Generator().manual_seed(seed))
        self.bias = bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1) - 0.5) @ self.weight + self.bias


def points(seed: int, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand((count, 3, 5, 5), generator=generator) * 1.4 - 0.2).clamp(0, 1)


def exact(images: torch.Tensor, slope: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """Bisect, in double precision, the least size t at which a move within t and the box reaches the gap."""
    x, w, wanted = images.double().flatten(1), slope.double().flatten(1), gap.double()
    direction = (w * wanted[:, None]).sign()
    low, high = torch.zeros(len(x), 1).double(), torch.ones(len(x), 1).double()
    for _ in range(60):
        middle = (low + high) / 2
        moved = (x + direction * middle).clamp(0, 1) - x
        enough = ((w * moved).sum(1).abs() >= wanted.abs())[:, None]
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high[:, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 5))
def test_the_projection_is_exact(seed: int, scale: float) -> None:
    images = points(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    slope = torch.randn(images.shape, generator=generator)
    gap = scale * torch.randn(len(images), generator=generator)
    move = FAB().hyperplane(images, slope, gap)
    assert float((images + move).min()) >= -1e-6
    assert float((images + move).max()) <= 1 + 1e-6
    torch.testing.assert_close((slope * move).flatten(1).sum(1), gap, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        move.abs().flatten(1).amax(1).double(), exact(images, slope, gap), rtol=1e-3, atol=1e-5
    )


def test_out_of_reach_moves_as_far_as_the_box() -> None:
    images = points(3, 2)
    move = FAB().hyperplane(images, torch.ones_like(images), torch.tensor([1e6, -1e6]))
    torch.testing.assert_close(images[0] + move[0], torch.ones(3, 5, 5))
    torch.testing.assert_close(images[1] + move[1], torch.zeros(3, 5, 5))
    flat = FAB().hyperplane(images, torch.zeros_like(images), torch.ones(2))
    assert torch.equal(flat, torch.zeros_like(images))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_finds_a_linear_detectors_exact_distances(threshold: float) -> None:
    detector, images = Linear(0), points(4)
    offset = torch.logit(torch.tensor(threshold))
    logits = detector(images) - offset
    labels = (logits >= 0).long()
    found, distance = FAB(steps=10).nearest(detector, images, labels, threshold=threshold)
    expected = exact(images, detector.weight.expand(len(images), -1), -logits)
    torch.testing.assert_close(distance.double(), expected, rtol=0.01, atol=1e-5)
    assert bool((distance.double() >= expected - 1e-6).all()), "nearer than possible"
    torch.testing.assert_close((found - images).abs().flatten(1).amax(1), distance)
    assert bool(((detector(found) >= offset).long() != labels).all())


def test_zero_where_wrong_already_and_infinite_where_nothing_turns() -> None:
    images = points(5)
    detector = Linear(1)
    wrong = 1 - (detector(images) >= 0).long()
    found, distance = FAB(steps=3).nearest(detector, images, wrong)
    assert torch.equal(found, images)
    assert torch.equal(distance, torch.zeros(len(images)))
    found, distance = FAB(steps=3).nearest(Linear(1, bias=1e4), images, torch.ones(len(images)).long())
    assert torch.equal(found, images)
    assert torch.isinf(distance).all()


def test_restarts_come_no_further_and_steps_come_nearer(trained: Detector) -> None:
    images, labels = faces(60, 8)
    few = FAB(steps=2).nearest(trained, images, labels)[1]
    more = FAB(steps=15).nearest(trained, images, labels)[1]
    again = FAB(steps=15, restarts=3).nearest(
        trained, images, labels, generator=torch.Generator().manual_seed(0)
    )[1]
    assert bool((again <= more).all())
    assert more.mean() < few.mean()


def test_distances_are_those_at_which_pgd_begins_to_win(trained: Detector) -> None:
    images, labels = faces(61, 8)
    found, distance = FAB(steps=30).nearest(trained, images, labels)
    with torch.no_grad():
        assert bool((margin(trained, found, labels, 0.5) > 0).all())
        for share, wins in ((0.8, False), (1.25, True)):
            for row in range(len(images)):
                budget = share * float(distance[row])
                attack = PGD(epsilon=budget, step_size=budget / 5, steps=30)
                one = attack(trained, images[row : row + 1], labels[row : row + 1])
                assert bool(margin(trained, one, labels[row : row + 1], 0.5) > 0) == wins


def test_as_near_as_torchattacks(trained: Detector) -> None:
    images, labels = faces(62, 16)
    epsilon = 5 / 255
    referee = TorchAttacks(name="FAB", epsilon=epsilon, settings={"steps": 15, "n_classes": 2})
    turned = []
    for attack in (FAB(epsilon=epsilon, steps=15), referee):
        found = attack(trained, images, labels, generator=torch.Generator().manual_seed(0))
        turned.append(int((margin(trained, found, labels, 0.5) > 0).sum()))
    assert turned[0] >= turned[1] - 1
    assert turned[1] > 0


def test_bad_input_is_refused(trained: Detector) -> None:
    images, labels = faces(0, 2)
    with pytest.raises(ShapeError, match="divide by 255"):
        FAB().nearest(trained, images * 255, labels)
    with pytest.raises(ConfigError, match="threshold"):
        FAB().nearest(trained, images, labels, threshold=1.0)
    with pytest.raises(ConfigError, match="norm"):
        FAB.parse({"norm": "l2"})
