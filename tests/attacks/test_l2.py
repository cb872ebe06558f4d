from __future__ import annotations

import pytest
import torch

from dfcore.attacks import CWL2, FGSM, PGD, PGDL2, TorchAttacks, margin
from dfcore.errors import ShapeError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.test_fab import Linear


def test_pgd_l2_is_pgd_in_l2(trained: Detector) -> None:
    images, labels = faces(90, 6)
    one, other = (
        PGDL2(epsilon=0.5, step_size=0.1, steps=5),
        PGD(norm="l2", epsilon=0.5, step_size=0.1, steps=5),
    )
    found = [
        attack(trained, images, labels, generator=torch.Generator().manual_seed(0)) for attack in (one, other)
    ]
    assert torch.equal(*found)


def test_pgd_l2_beats_one_step_and_matches_torchattacks(trained: Detector) -> None:
    images, labels = faces(91, 16)
    epsilon = 0.6
    attacks = [
        PGDL2(epsilon=epsilon, step_size=epsilon / 5, steps=20),
        TorchAttacks(name="PGDL2", norm="l2", epsilon=epsilon, settings={"alpha": epsilon / 5, "steps": 20}),
        FGSM(norm="l2", epsilon=epsilon),
    ]
    ours, theirs, single = (
        margin(
            trained, each(trained, images, labels, generator=torch.Generator().manual_seed(0)), labels, 0.5
        )
        for each in attacks
    )
    assert ours.mean() >= theirs.mean() - 0.2  # each started elsewhere
    assert ours.mean() > single.mean()


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_carlini_wagner_finds_a_linear_detectors_exact_distances(threshold: float) -> None:
    # far from the box's edges, so that the distance is |margin| / |w|
    images = 0.5 + 0.1 * torch.rand((6, 3, 5, 5), generator=torch.Generator().manual_seed(1))
    detector = Linear(2)
    logits = detector(images) - torch.logit(torch.tensor(threshold))
    labels = (logits >= 0).long()
    found, distance = CWL2(steps=150).nearest(detector, images, labels, threshold=threshold)
    expected = logits.abs() / detector.weight.norm()
    assert bool((distance >= expected * (1 - 1e-5)).all()), "nearer than possible"
    torch.testing.assert_close(distance, expected, rtol=0.05, atol=1e-4)
    torch.testing.assert_close((found - images).flatten(1).norm(dim=1), distance)
    assert bool((margin(detector, found, labels, threshold) > 0).all())


def test_carlini_wagner_at_both_ends(trained: Detector) -> None:
    images, labels = faces(92, 4)
    quick = CWL2(steps=10, searches=3)
    _, distance = quick.nearest(trained, images, 1 - labels)
    assert torch.equal(distance, torch.zeros(4))
    small = images[:, :, :5, :5]
    found, distance = quick.nearest(Linear(1, bias=1e4), small, torch.ones(4).long())
    assert torch.isinf(distance).all()
    assert torch.equal(found, small)
    with pytest.raises(ShapeError, match="images"):
        quick.nearest(trained, images[0], labels)


def test_carlini_wagner_is_as_near_as_pgd_must_go(trained: Detector) -> None:
    images, labels = faces(93, 4)
    _, distance = CWL2(steps=50, searches=8).nearest(trained, images, labels)
    assert torch.isfinite(distance).all()
    for share, wins in ((0.8, 0), (1.25, 4)):
        turned = 0
        for row in range(4):
            budget = share * float(distance[row])
            one, label = images[row : row + 1], labels[row : row + 1]
            found = PGDL2(epsilon=budget, step_size=budget / 5, steps=20)(trained, one, label)
            turned += int((margin(trained, found, label, 0.5) > 0).sum())
        assert abs(turned - wins) <= 1
