"""Frequency curves: Parseval, detectors and attackers that know one frequency, and what theory predicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dfcore.errors import ConfigError, ShapeError
from dfcore.explain import (
    FrequencyConfig,
    FrequencySensitivity,
    band_energies,
    delta_spectrum,
    frequency_sensitivity,
)
from dfcore.models import Detector, DetectorConfig, build_detector
from tests.tolerances import TOLERANCE

SIDE = 32


def _images(n: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(0))


def _wave(cycles_down: int, cycles_across: int, side: int = SIDE) -> torch.Tensor:
    """A plane wave (side, side) of this many cycles an image."""
    rows, columns = torch.arange(side)[:, None], torch.arange(side)[None]
    return torch.cos(2 * math.pi * (cycles_down * rows + cycles_across * columns) / side)


class _Linear(nn.Module):
    """Reads one pattern, the same in every channel."""

    def __init__(self, pattern: torch.Tensor) -> None:
        super().__init__()
        self.pattern = nn.Parameter(pattern)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.pattern).sum((1, 2, 3)).unsqueeze(1)


def _linear(pattern: torch.Tensor) -> Detector:
    detector = Detector(DetectorConfig(image_size=SIDE), _Linear(pattern))
    detector.std.fill_(1)  # in a pixel's own units
    return detector


def _band(curve: FrequencySensitivity, frequency: float) -> int:
    return int(np.searchsorted(curve.edges, frequency, side="right")) - 1


@pytest.mark.parametrize(("height", "width", "bands"), [(32, 32, 16), (17, 40, 5), (8, 8, 64)])
def test_energies_of_the_bands_are_the_energy_of_the_pixels(height: int, width: int, bands: int) -> None:
    maps = torch.randn((4, 3, height, width), generator=torch.Generator().manual_seed(1))
    energies = band_energies(maps, bands)
    assert energies.shape == (4, bands)
    torch.testing.assert_close(
        energies.sum(1), maps.double().square().sum((1, 2, 3)), **TOLERANCE[torch.float32]
    )


@pytest.mark.parametrize(("down", "across"), [(0, 0), (0, 5), (11, 0), (7, 9), (16, 16)])
def test_a_wave_is_in_its_own_band(down: int, across: int) -> None:
    energies = band_energies(_wave(down, across).expand(1, 3, -1, -1), 16)[0]
    found = int(energies.argmax())
    assert energies[found] / energies.sum() > 0.9999
    assert found == min(15, int(math.hypot(down, across) / SIDE / math.sqrt(0.5) * 16))


def test_autocast_leaves_the_transform_alone() -> None:
    maps = _images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(band_energies(maps.bfloat16()), band_energies(maps.bfloat16().float()))


@pytest.mark.parametrize(("down", "across"), [(0, 3), (6, 6), (14, 3)])
def test_a_detector_that_reads_one_frequency_reacts_to_its_band(down: int, across: int) -> None:
    detector = _linear(_wave(down, across))
    curve = frequency_sensitivity(detector, _images())
    band = _band(curve, math.hypot(down, across) / SIDE)
    others = np.delete(np.arange(16), band)
    assert (curve.response[:, band] > 100 * curve.response[:, others].max()).all()
    share = curve.gradient_energy / curve.gradient_energy.sum(1, keepdims=True)
    np.testing.assert_allclose(share[:, band], 1, atol=1e-5)


def test_a_linear_detector_reacts_as_theory_says() -> None:
    pattern = torch.randn((SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    curve = frequency_sensitivity(_linear(pattern), _images(1), FrequencyConfig(bands=4, draws=400))
    assert curve.l2 == pytest.approx(2 / 255 * math.sqrt(3 * SIDE**2))
    np.testing.assert_allclose(curve.response, curve.expected, rtol=0.15)
    np.testing.assert_allclose(curve.gradient_energy.sum(), 3 * pattern.square().sum().item(), rtol=1e-4)
    assert curve.modes.sum() == SIDE**2


def test_images_average_the_draws_out() -> None:
    pattern = torch.randn((SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    curve = frequency_sensitivity(_linear(pattern), _images(64), FrequencyConfig(bands=4, draws=1))
    found = np.sqrt(np.square(curve.response).mean(0))
    np.testing.assert_allclose(found, curve.expected[0], rtol=0.25)


def test_response_grows_with_the_perturbation() -> None:
    detector = _linear(_wave(3, 4))
    small = frequency_sensitivity(detector, _images(1), FrequencyConfig(rms=1 / 255))
    large = frequency_sensitivity(detector, _images(1), FrequencyConfig(rms=4 / 255))
    np.testing.assert_allclose(large.response.max(), 4 * small.response.max(), rtol=1e-3)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector(DetectorConfig(backbone="resnet10t", image_size=SIDE))


def test_curves_depend_on_the_image_its_number_and_the_seed(detector: Detector) -> None:
    config = FrequencyConfig(bands=6, draws=2)
    images = _images()
    together = frequency_sensitivity(detector, images, config)
    again = frequency_sensitivity(detector, images[:2], config.model_copy(update={"batch_size": 5}))
    np.testing.assert_allclose(together.response[:2], again.response, rtol=1e-3)
    np.testing.assert_allclose(together.gradient_energy[:2], again.gradient_energy, rtol=1e-3)
    same = frequency_sensitivity(detector, images, config)
    np.testing.assert_array_equal(together.response, same.response)
    other = frequency_sensitivity(detector, images, config.model_copy(update={"seed": 1}))
    assert not np.allclose(together.response, other.response)


def test_detector_is_left_as_it_was(detector: Detector) -> None:
    detector.train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    with torch.inference_mode():
        frequency_sensitivity(detector, _images(1), FrequencyConfig(bands=2, draws=1))
    assert all(module.training for module in detector.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in detector.parameters())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_band_without_frequencies_has_no_response() -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10t", image_size=16))
    curve = frequency_sensitivity(detector, _images(1, 16), FrequencyConfig(bands=64, draws=1))
    assert (curve.modes == 0).any()
    np.testing.assert_array_equal(np.isnan(curve.response[0]), curve.modes == 0)
    np.testing.assert_array_equal(np.isnan(curve.expected[0]), curve.modes == 0)


def test_no_images(detector: Detector) -> None:
    curve = frequency_sensitivity(detector, _images(0), FrequencyConfig(bands=4))
    assert curve.response.shape == curve.gradient_energy.shape == (0, 4)


def test_spectrum_of_white_noise_is_flat() -> None:
    clean = torch.full((32, 3, SIDE, SIDE), 0.5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3)) * 0.02
    spectrum = delta_spectrum(clean, clean + noise, bands=8)
    np.testing.assert_allclose(spectrum.density.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(spectrum.share.sum(1), 1)


def test_spectrum_shows_the_attackers_frequency() -> None:
    clean = torch.full((2, 3, SIDE, SIDE), 0.5)
    attacked = clean + 0.03 * _wave(10, 2)
    attacked[1] = 0.5
    spectrum = delta_spectrum(clean, attacked)
    assert np.diff(spectrum.edges) == pytest.approx(math.sqrt(0.5) / 16)
    assert spectrum.share[0].argmax() == int(math.hypot(10, 2) / SIDE / math.sqrt(0.5) * 16)
    assert spectrum.share[0].max() > 0.999
    assert np.isnan(spectrum.share[1]).all()


def test_wrong_input_is_refused(detector: Detector) -> None:
    with pytest.raises(ShapeError, match="divide by 255"):
        frequency_sensitivity(detector, _images() * 255)
    with pytest.raises(ShapeError, match="clean and attacked images of one shape"):
        delta_spectrum(_images(2), _images(3))
    with pytest.raises(ConfigError, match="bands"):
        FrequencyConfig.parse({"bands": 1})
    with pytest.raises(ConfigError, match="rms"):
        FrequencyConfig.parse({"rms": 0})
    assert FrequencyConfig.parse({"rms": "4/255"}).rms == pytest.approx(4 / 255)
