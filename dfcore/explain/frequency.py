"""Which spatial frequencies a detector reads, and which an attacker writes.

Frequencies are radial, in cycles a pixel: 0 is the mean, .5 the finest grid along an axis, sqrt(.5) the
finest chequerboard. Bands are of equal width from 0 to sqrt(.5), so that they hold all of an image's energy.
Transforms run in float32 outside autocast and are orthonormal: energies of the bands sum to the energy of the
pixels (Parseval).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from dfcore.config import Config, Epsilon
from dfcore.errors import ShapeError
from dfcore.models import Detector, crafting_mode
from dfcore.shapes import check_images

__all__ = [
    "DeltaSpectrum",
    "FrequencyConfig",
    "FrequencySensitivity",
    "band_energies",
    "band_shares",
    "delta_spectrum",
    "frequency_sensitivity",
]

Figures = NDArray[np.float64]
_TOP = math.sqrt(0.5)
# The plane's counterpart of the golden ratio: multiples of it fill the unit square without clusters.
_STEPS = (0.7548776662466927, 0.5698402909980532)


class FrequencyConfig(Config):
    """How frequency sensitivity is measured.

    Attributes:
        bands: how many radial bands.
        rms: size of each perturbation: root mean square over all values, in pixel units of [0, 1]; its L2
            norm is rms * sqrt(3 H W), the same in every band.
        draws: random perturbations for each band. One image's curve is uncertain by about
            1 / sqrt(2 draws) of its height; the images of a batch get other ones, so that their mean is not.
        batch_size: perturbed images at a time.
        seed: of the draws.
    """

    bands: int = Field(default=16, ge=2, le=256)
    rms: Epsilon = Field(default=2 / 255, gt=0)
    draws: int = Field(default=4, ge=1)
    batch_size: int = Field(default=64, ge=1)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FrequencySensitivity:
    """How a logit reacts to each band.

    Attributes:
        edges: (bands + 1,) of the bands, in cycles a pixel.
        modes: (bands,) how many of an image's H W frequencies each band holds; 0 in small images.
        response: (N, bands) root mean square change of the logit; NaN where a band holds no frequency.
        gradient_energy: (N, bands) of the logit's gradient; over the bands it is its squared L2 norm.
        l2: norm of each perturbation.
    """

    edges: Figures
    modes: NDArray[np.int64]
    response: Figures
    gradient_energy: Figures
    l2: float

    @cached_property
    def expected(self) -> Figures:
        """(N, bands): the response of a detector that were linear with this gradient.

        Far below the measured response, the gradient hides what the detector reacts to.
        """
        modes = np.where(self.modes > 0, self.modes, np.nan)
        return np.asarray(self.l2 * np.sqrt(self.gradient_energy / (3 * modes)), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class DeltaSpectrum:
    """What frequencies a perturbation is made of.

    Attributes:
        edges: (bands + 1,) of the bands, in cycles a pixel.
        share: (N, bands) of the energy; over the bands they sum to 1. NaN where there is no perturbation.
        density: (N, bands) mean power of a frequency in the band, divided by the mean over all: the radially
            averaged power spectrum, 1 everywhere for white noise. NaN where a band holds no frequency.
    """

    edges: Figures
    share: Figures
    density: Figures


def band_energies(maps: torch.Tensor, bands: int = 16) -> torch.Tensor:
    """Return the energy of maps in each radial band.

    Args:
        maps: (N, C, H, W).
        bands: how many.

    Returns:
        (N, bands) float64, on the maps' device; over the bands it is the sum of squares of a map.
    """
    with torch.autocast(maps.device.type, enabled=False):
        spectrum = torch.fft.fft2(maps if maps.dtype == torch.float64 else maps.float(), norm="ortho")
        power = (spectrum.real.square() + spectrum.imag.square()).sum(1).flatten(1).double()
        # a product and no scatter: sums in the same order on every device
        energies: torch.Tensor = power @ _members(maps, bands).flatten(1).T.double()
        return energies


def band_shares(size: tuple[int, int], bands: int = 16) -> Figures:
    """Return each band's share (bands,) of the frequencies of an H x W image: what white noise has there."""
    count = _members(torch.empty((1, 1, *size)), bands).sum((1, 2)).numpy()
    return np.asarray(count / count.sum(), dtype=np.float64)


def delta_spectrum(clean: torch.Tensor, attacked: torch.Tensor, bands: int = 16) -> DeltaSpectrum:
    """Return the spectrum of what an attacker changed.

    Args:
        clean: (N, 3, H, W) float32 in [0, 1].
        attacked: the same shape, on the same device.
        bands: how many.

    Raises:
        ShapeError: images of another shape, type or range, or not as many of both.
    """
    check_images(clean)
    check_images(attacked)
    if clean.shape != attacked.shape:
        raise ShapeError(
            f"expected clean and attacked images of one shape, got {tuple(clean.shape)} and "
            f"{tuple(attacked.shape)}"
        )
    delta = (attacked - clean).detach()
    energy = band_energies(delta, bands).cpu().numpy()
    white = band_shares((delta.shape[2], delta.shape[3]), bands)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = energy / energy.sum(1, keepdims=True)
        density = share / white
    return DeltaSpectrum(_edges(bands), share, np.where(white > 0, density, np.nan))


def frequency_sensitivity(
    detector: Detector, images: torch.Tensor, config: FrequencyConfig | None = None
) -> FrequencySensitivity:
    """Measure how much random perturbations of one size move the logit, band by band.

    It costs `bands * draws + 1` forward passes an image, and one backward pass. Perturbed images are not
    clamped to [0, 1], which would spread the perturbation over all bands.

    Args:
        detector: any mode; modes, flags and gradients are left as they were.
        images: (N, 3, H, W) float32 in [0, 1], on the detector's device.
        config: bands, size and number of the perturbations.

    Returns:
        The curves of each image. The i-th image gets the same perturbations whatever the detector, and
        however many images come after it.

    Raises:
        ShapeError: images of another shape, type or range.
    """
    check_images(images)
    config = config or FrequencyConfig()
    count = len(images)
    with (
        torch.inference_mode(False),
        torch.autocast(images.device.type, enabled=False),
        crafting_mode(detector),
    ):
        response = torch.zeros((count, config.bands), dtype=torch.float64, device=images.device)
        gradient = torch.zeros_like(response)
        patterns = _patterns(images, config)
        step = max(1, config.batch_size // config.bands)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            batch = images[rows].detach().clone()
            clean, gradient[rows] = _gradient_energy(detector, batch, config.bands)
            for draw in patterns:
                moved = torch.stack([_moved(draw, start + place) for place in range(len(batch))])
                logits = _logits(detector, batch[:, None] + moved, config.batch_size)
                response[rows] += (logits - clean[:, None]).double().square() / config.draws
    modes = _members(images, config.bands).sum((1, 2)).cpu().numpy().astype(np.int64)
    rms = np.sqrt(response.cpu().numpy())
    return FrequencySensitivity(
        _edges(config.bands),
        modes,
        np.where(modes > 0, rms, np.nan),
        gradient.cpu().numpy(),
        config.rms * math.sqrt(images[0].numel() if count else 0),
    )


def _gradient_energy(
    detector: Detector, batch: torch.Tensor, bands: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (n,) and the energy of their gradients (n, bands)."""
    with torch.enable_grad():
        pixels = batch.detach().requires_grad_()
        logits = detector(pixels)
        gradient = torch.autograd.grad(logits.sum(), pixels)[0]
    return logits.detach(), band_energies(gradient, bands)


@torch.no_grad()
def _logits(detector: Detector, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return (n, bands) logits of images (n, bands, 3, H, W)."""
    parts = torch.split(images.flatten(0, 1), batch_size)
    return torch.cat([detector(part) for part in parts]).view(images.shape[:2])


def _moved(patterns: torch.Tensor, number: int) -> torch.Tensor:
    """Shift patterns round the image's edges, which changes no band, by steps that spread evenly."""
    height, width = patterns.shape[-2:]
    shift = int(number * _STEPS[0] % 1 * height), int(number * _STEPS[1] % 1 * width)
    return patterns.roll(shift, (-2, -1))


def _patterns(images: torch.Tensor, config: FrequencyConfig) -> torch.Tensor:
    """Return (draws, bands, 3, H, W) float32: noise of one band each, all of the same norm."""
    # drawn on the CPU, so that every device gets the same
    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn((config.draws, 1, *images.shape[1:]), generator=generator).to(images.device)
    members = _members(images, config.bands)[:, None]
    limited = torch.fft.ifft2(torch.fft.fft2(noise) * members).real
    norms = limited.flatten(2).norm(dim=2)[..., None, None, None]
    length = config.rms * math.sqrt(noise[0].numel())
    patterns: torch.Tensor = limited / norms.clamp_min(torch.finfo(torch.float32).tiny) * length
    return patterns


def _edges(bands: int) -> Figures:
    return np.linspace(0, _TOP, bands + 1)


def _members(maps: torch.Tensor, bands: int) -> torch.Tensor:
    """Return (bands, H, W) bool: which frequencies belong to which band."""
    rows, columns = (
        torch.fft.fftfreq(size, dtype=torch.float64, device=maps.device) for size in maps.shape[-2:]
    )
    radius = torch.hypot(rows[:, None], columns)
    # rounding must not put the last frequency beyond the last band
    number = (radius * (bands / _TOP)).long().clamp_max(bands - 1)
    return number == torch.arange(bands, device=maps.device)[:, None, None]
