from __future__ import annotations

import math

import torch

from dfcore.attacks import RandomNoise
from tests.attacks.properties import batch
from tests.attacks.test_transfer import Secret


def test_is_blind_uniform_and_new_with_each_seed() -> None:
    images, labels = batch(8)
    draws = [
        RandomNoise(epsilon=0.1)(Secret(), images, labels, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    assert not torch.equal(*draws)
    inside = (images > 0.1) & (images < 0.9)
    delta = (draws[0] - images)[inside]
    assert math.isclose(float(delta.std()), 0.1 / math.sqrt(3), rel_tol=0.05)


def test_fills_the_euclidean_ball() -> None:
    images = torch.full((8, 3, 16, 16), 0.5)
    found = RandomNoise(norm="l2", epsilon=1.0)(Secret(), images, torch.zeros(8).long())
    sizes = (found - images).flatten(1).norm(dim=1)
    assert float(sizes.max()) <= 1 + 1e-5
    assert float(sizes.min()) > 0.95  # nearly all of the volume lies near the surface
