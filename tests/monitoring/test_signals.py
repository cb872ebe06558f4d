"""Squeezers, features and band energies, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage import data

from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.monitoring.signals import BANDS, SQUEEZERS, band_energies, look, squeezed
from dfcore.preprocessing import jpeg_roundtrip

IMAGES = torch.rand((3, 3, 24, 20), generator=torch.Generator().manual_seed(0))
KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16


def test_squeezers_do_what_they_say() -> None:
    pixels = np.ascontiguousarray(data.astronaut()[None, 32:160, 160:288])
    photograph, theirs = (
        torch.from_numpy(image).permute(0, 3, 1, 2) / 255 for image in (pixels, jpeg_roundtrip(pixels, 75))
    )
    assert (SQUEEZERS["jpeg_75"](photograph) - theirs).abs().mean() < 1 / 255
    expected = convolve(IMAGES.numpy(), KERNEL[None, None], mode="nearest")
    torch.testing.assert_close(SQUEEZERS["blur"](IMAGES), torch.from_numpy(expected))
    coarse = SQUEEZERS["bits_4"](IMAGES) * 15
    assert len(coarse.round().unique()) == 16
    torch.testing.assert_close(coarse, coarse.round())
    assert (SQUEEZERS["bits_4"](IMAGES) - IMAGES).abs().max() <= 0.5 / 15 + 1e-6


def test_squeezed_is_one_batch_in_order() -> None:
    batch = squeezed(IMAGES, ("blur", "bits_4"))
    torch.testing.assert_close(
        batch, torch.cat([IMAGES, *(SQUEEZERS[name](IMAGES) for name in ("blur", "bits_4"))])
    )
    assert torch.equal(squeezed(IMAGES, ()), IMAGES)


def test_proxies_give_the_gradient_and_nothing_else() -> None:
    pixels = IMAGES.clone().requires_grad_()
    batch = squeezed(pixels, ("bits_4",), {"bits_4": lambda images: 3 * images})
    torch.testing.assert_close(batch[3:], SQUEEZERS["bits_4"](IMAGES))
    (slope,) = torch.autograd.grad(batch[3:].sum(), pixels)
    torch.testing.assert_close(slope, torch.full_like(slope, 3))


@pytest.mark.parametrize("backbone", ["resnet10_narrow", "mobilenetv3_small_050"])
def test_look_is_forward_and_features(backbone: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=32), seed=1).eval()
    detector.calibrate(1.7, -0.3)
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, features = look(detector, images)
        torch.testing.assert_close(logits, detector(images))
        torch.testing.assert_close(features, detector.features(images))


def test_look_of_a_detector_of_our_own(trained: Detector) -> None:
    images = torch.rand((2, 3, 24, 24))
    logits, features = look(trained, images)
    torch.testing.assert_close(logits, trained(images))
    torch.testing.assert_close(features, trained.features(images))


def test_band_energies_against_scipy() -> None:
    red, green, blue = IMAGES.double().numpy().transpose(1, 0, 2, 3)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    level = np.stack([bright, blue - bright, red - bright], axis=1)
    columns = []
    for _ in range(3):
        residual = level - convolve(level, KERNEL[None, None], mode="nearest")
        columns.append(np.log((residual**2).mean(axis=(2, 3)) + 1 / (12 * 255**2)))
        height, width = (side // 2 * 2 for side in level.shape[2:])
        level = level[:, :, :height, :width].reshape(3, 3, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    expected = np.concatenate(columns, axis=1)
    assert expected.shape == (3, len(BANDS))
    np.testing.assert_allclose(band_energies(IMAGES).numpy(), expected, rtol=1e-4)


def test_band_energies_have_the_right_gradient() -> None:
    images = torch.rand((1, 3, 8, 8), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(band_energies, images.requires_grad_())


def test_a_perturbation_of_signs_shows_in_the_finest_colours() -> None:
    smooth = torch.full((1, 3, 24, 24), 0.5)
    signs = torch.randint(0, 2, smooth.shape, generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    moved = (band_energies(smooth + signs * 4 / 255) - band_energies(smooth))[0]
    assert moved[BANDS.index("blue_1")] > moved[BANDS.index("blue_3")] > 0
