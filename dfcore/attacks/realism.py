"""What a learned attacker pays for: roughness, and energy in the lowest frequencies."""

from __future__ import annotations

import torch

__all__ = ["low_frequency_energy", "total_variation"]


def total_variation(maps: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between neighbours, downwards plus to the right.

    Args:
        maps: (N, C, H, W).

    Returns:
        (N,); at least 0, and 0 only for constant planes.
    """
    return maps.diff(dim=2).abs().flatten(1).mean(1) + maps.diff(dim=3).abs().flatten(1).mean(1)


def low_frequency_energy(maps: torch.Tensor, radius: float = 0.125) -> torch.Tensor:
    """Mean square of the part of a map whose frequency is near zero.

    Computed in float32 outside autocast: half precision has neither the range nor, for most sizes, the FFT.

    Args:
        maps: (N, C, H, W).
        radius: of the disc around zero frequency that counts, in cycles an image, as a share of min(H, W).

    Returns:
        (N,) float32; all frequencies together would give the mean square of the map.
    """
    height, width = maps.shape[-2:]
    with torch.autocast(maps.device.type, enabled=False):
        spectrum = torch.fft.fft2(maps if maps.dtype == torch.float64 else maps.float(), norm="forward")
        rows, columns = (torch.fft.fftfreq(size, 1 / size, device=maps.device) for size in (height, width))
        inside = rows[:, None] ** 2 + columns**2 < (radius * min(height, width)) ** 2
        energy = (spectrum.real.square() + spectrum.imag.square()) * inside
        summed: torch.Tensor = energy.sum((2, 3)).mean(1)
        return summed
