from __future__ import annotations

import torch
from torch import nn

from dfcore.attacks import PGD, RandomNoise, Square, TorchAttacks, margin
from dfcore.attacks.square import square_side
from dfcore.models import Detector
from tests.attacks.conftest import faces

EPSILON = 20 / 255


class Counting(nn.Module):
    """Counts the images that it is asked about, and has no gradient to give."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.asked = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.asked += len(images)
        return self.detector(images)


def margins(attack: object, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found = attack(detector, images, labels, generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
    with torch.no_grad():
        return margin(detector, found, labels, 0.5)


def test_beats_noise_and_not_the_gradient(trained: Detector) -> None:
    images, labels = faces(70, 12)
    by_noise = margins(RandomNoise(epsilon=EPSILON), trained, images, labels)
    few = margins(Square(epsilon=EPSILON, queries=50), trained, images, labels)
    many = margins(Square(epsilon=EPSILON, queries=200), trained, images, labels)
    by_pgd = margins(PGD(epsilon=EPSILON, step_size=EPSILON / 5, steps=20), trained, images, labels)
    assert by_noise.mean() < few.mean() < many.mean() < by_pgd.mean()


def test_asks_no_more_than_its_queries_and_stops_when_fooled(trained: Detector) -> None:
    images, labels = faces(71, 8)
    asked = []
    for lazy in (False, True):
        counting = Counting(trained)
        Square(epsilon=EPSILON, queries=150, until_fooled=lazy)(
            counting, images, labels, generator=torch.Generator().manual_seed(0)
        )
        asked.append(counting.asked)
    assert asked[0] == 8 * (150 + 1)  # and the clean image once
    assert asked[1] < asked[0]


def test_each_proposal_changes_one_square_to_the_faces_of_the_ball() -> None:
    images = torch.full((64, 3, 24, 24), 0.5)
    attack = Square(epsilon=EPSILON, queries=10_000)
    generator = torch.Generator().manual_seed(0)
    for query in (1, 100, 3000):
        side = square_side(query, 10_000, 24 * 24)
        changed = attack.propose(images, images, query, generator) - images
        torch.testing.assert_close(changed.abs().amax((1, 2, 3)), torch.full((64,), EPSILON))
        area = (changed.abs().amax(1) > 0).flatten(1)
        assert torch.equal(area.sum(1), torch.full((64,), side**2))
        rows = area.view(64, 24, 24).any(2).sum(1)
        assert torch.equal(rows, torch.full((64,), side))
        # the same signs twice in one square would waste a query
        again = attack.propose(images, (images + EPSILON * changed.sign()), query, generator)
        assert bool(((again - images - changed).abs().flatten(1).amax(1) > 0).all())


def test_squares_shrink_as_published() -> None:
    sides = [square_side(query, 5000, 100**2) for query in (0, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001)]
    assert sides == [89, 63, 45, 32, 22, 16, 11, 8, 6, 4]
    assert square_side(5000, 5000, 16) == 1


def test_as_strong_as_torchattacks(trained: Detector) -> None:
    images, labels = faces(72, 12)
    ours = margins(Square(epsilon=EPSILON, queries=300, until_fooled=True), trained, images, labels)
    referee = TorchAttacks(name="Square", epsilon=EPSILON, settings={"n_queries": 300})
    theirs = margins(referee, trained, images, labels)
    assert (ours > 0).sum() >= (theirs > 0).sum() - 2
    assert (theirs > 0).any()
