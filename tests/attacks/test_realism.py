from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dfcore.attacks.realism import low_frequency_energy, total_variation


def _wave(cycles: int, size: int = 32) -> torch.Tensor:
    return torch.cos(2 * math.pi * cycles * torch.arange(size) / size).expand(1, 1, size, size)


def test_total_variation_by_hand() -> None:
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    # downwards 0 and 2, to the right 1 and 3
    assert total_variation(maps).tolist() == [1.0 + 2.0, 0.0]


@pytest.mark.parametrize(("cycles", "inside"), [(0, 1.0), (3, 0.5), (4, 0.0), (9, 0.0), (16, 0.0)])
def test_energy_counts_the_disc_alone(cycles: int, inside: float) -> None:
    # .125 * 32 = 4 cycles; a cosine's mean square is one half
    assert float(low_frequency_energy(_wave(cycles))) == pytest.approx(inside, abs=1e-6)
    turned = _wave(cycles).transpose(2, 3)
    assert float(low_frequency_energy(turned)) == pytest.approx(inside, abs=1e-6)


def test_energy_agrees_with_numpy_off_the_square() -> None:
    maps = torch.rand((2, 3, 20, 31), generator=torch.Generator().manual_seed(0))
    spectrum = np.fft.fftshift(np.fft.fft2(maps.numpy()), axes=(2, 3)) / (20 * 31)
    rows, columns = np.arange(20) - 10, np.arange(31) - 15
    disc = rows[:, None] ** 2 + columns**2 < (0.3 * 20) ** 2
    expected = (np.abs(spectrum) ** 2 * disc).sum((2, 3)).mean(1)
    np.testing.assert_allclose(low_frequency_energy(maps, 0.3).numpy(), expected, rtol=1e-4)


def test_energy_is_full_precision_under_autocast() -> None:
    maps = torch.rand((1, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = low_frequency_energy(maps)
        half = low_frequency_energy(maps.bfloat16())
    assert mixed.dtype == half.dtype == torch.float32
    assert torch.equal(mixed, low_frequency_energy(maps))


def test_gradcheck() -> None:
    maps = torch.rand((2, 1, 6, 5), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: low_frequency_energy(x, 0.5), maps)
    assert torch.autograd.gradcheck(total_variation, maps)
