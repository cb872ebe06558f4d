"""Logits that must not move: an upgrade of timm or torch that changes a network fails here.

Made by
    detector = golden_detector(backbone, size); print(detector(golden_images(3, size)).tolist())
with timm 1.0.31 and torch 2.14.1, in float64 on a CPU.
"""

from __future__ import annotations

import pytest
import torch

from tests.models.golden import golden_detector, golden_images

GOLDEN = {
    ("efficientnet_b0", 64): (-1.92484, 2.31299, 0.29117),
    ("efficientvit", 64): (1.73086, 0.21212, -0.64457),
    ("efficientvit", 96): (2.13553, 2.61791, 2.59640),
    ("efficientvit_published", 64): (0.47615, 0.27243, -0.00421),
    ("resnet10_narrow", 64): (-0.37686, -0.15458, -0.38891),
    ("resnet10t", 64): (0.80610, 1.05111, 1.45777),
    ("xception", 96): (0.59487, 0.95751, 0.56302),
}


@pytest.mark.parametrize(("backbone", "size"), GOLDEN)
def test_logits_of_fixed_weights_and_images(backbone: str, size: int) -> None:
    with torch.no_grad():
        logits = golden_detector(backbone, size)(golden_images(3, size))
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[backbone, size]), atol=2e-5, rtol=0)
