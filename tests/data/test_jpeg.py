from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from dfcore.data.jpeg import jpeg
from dfcore.preprocessing import jpeg_roundtrip

FACES = np.stack([astronaut()[12 * i : 12 * i + 120, 160 + 8 * i : 256 + 8 * i] for i in range(4)])


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def grey_levels(images: torch.Tensor) -> np.ndarray:
    return (images * 255).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("quality", [5, 40, 60, 75, 90, 100])
def test_agrees_with_libjpeg(quality: int) -> None:
    found = grey_levels(jpeg(tensor(FACES), torch.full((4,), float(quality))))
    np.testing.assert_allclose(found, found.round(), atol=1e-3)
    reference = jpeg_roundtrip(FACES, quality).astype(float)
    error = np.abs(found - reference)
    assert error.mean() < 0.7
    # far less than what compression itself changes, but where that is next to nothing
    assert error.mean() < 0.25 * np.abs(reference - FACES).mean() or quality == 100


def test_each_image_has_its_own_quality() -> None:
    images = tensor(FACES[:1].repeat(4, axis=0))
    qualities = torch.tensor([10.0, 40.0, 70.0, 100.0])
    together = jpeg(images, qualities)
    for i in range(4):
        assert torch.equal(together[i : i + 1], jpeg(images[:1], qualities[i : i + 1]))
    error = (together - images).abs().mean((1, 2, 3))
    assert bool((error.diff() < 0).all()), "a higher quality is farther off"


def test_sizes_that_fill_no_block() -> None:
    images = tensor(FACES[:, :41, :23])
    found = jpeg(images, torch.full((4,), 95.0))
    assert found.shape == images.shape
    assert float((found - images).abs().mean()) < 0.02
