from __future__ import annotations

import pytest
import torch

from dfcore.errors import ShapeError
from dfcore.shapes import check_images, check_labels


@pytest.mark.parametrize("images", [torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, 4, 5), torch.ones(1, 3, 1, 1)])
def test_images_that_fit(images: torch.Tensor) -> None:
    check_images(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"expected images \(N, 3, H, W\), got \(3, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), r"expected images \(N, 3, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "expected float32 images, got torch.uint8"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float64), "expected float32 images"),
        (torch.full((1, 3, 4, 4), 255.0), r"got 255 to 255; divide by 255"),
        (torch.full((1, 3, 4, 4), -0.001), r"expected images in \[0, 1\]"),
        (torch.full((1, 3, 4, 4), float("nan")), r"expected images in \[0, 1\]"),
    ],
)
def test_images_that_do_not_fit(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_images(images)


def test_labels() -> None:
    images = torch.zeros(2, 3, 4, 4)
    check_labels(torch.tensor([0, 1]), images)
    check_labels(torch.tensor([0.0, 1.0]), images)
    with pytest.raises(ShapeError, match=r"expected labels \(2,\), got \(3,\)"):
        check_labels(torch.zeros(3), images)
    with pytest.raises(ShapeError, match=r"expected labels 0 \(real\) or 1 \(fake\), got \[1, 2\]"):
        check_labels(torch.tensor([1, 2]), images)
