"""What one forward pass can tell beside the score: squeezed copies, features, energy of high frequencies.

Everything is computed on the detector's device, and differentiable but for rounding, so that an attacker who
knows the scores can be played against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from dfcore.data.jpeg import jpeg
from dfcore.models import Detector

__all__ = ["BANDS", "SQUEEZERS", "Squeezer", "band_energies", "look", "squeezed"]

Squeezer = Callable[[torch.Tensor], torch.Tensor]

BANDS = tuple(f"{plane}_{octave}" for octave in (1, 2, 3) for plane in ("luma", "blue", "red"))
"""The columns of `band_energies`: octave 1 holds the finest detail, 2 the finest at half the size."""

_JPEG_QUALITY = 75.0
_LEVELS = 15  # four bits
_FLOOR = 1 / (12 * 255**2)  # what rounding to eight bits leaves in a flat picture


def _jpeg_75(images: torch.Tensor) -> torch.Tensor:
    return jpeg(images, images.new_full((len(images),), _JPEG_QUALITY))


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Convolve with (1, 2, 1) / 4 along rows and columns; sums are faster than a grouped convolution."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :]) / 16


def _bits_4(images: torch.Tensor) -> torch.Tensor:
    return (images * _LEVELS).round() / _LEVELS


SQUEEZERS: Mapping[str, Squeezer] = {"jpeg_75": _jpeg_75, "blur": _blur, "bits_4": _bits_4}
"""Images (N, 3, H, W) in [0, 1] to images; each takes away what a perturbation hides in, and little else.

JPEG rounds for real: the proxy with a gradient costs as much and is one or two grey levels off.

Source: Xu et al., "Feature Squeezing" (NDSS 2018); Guo et al., arXiv:1711.00117.
"""


def squeezed(
    images: torch.Tensor, names: Sequence[str], proxies: Mapping[str, Squeezer] | None = None
) -> torch.Tensor:
    """Return the images and their squeezed copies as one batch, for one forward pass.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        names: K of `SQUEEZERS`.
        proxies: for gradients: where a name has a proxy, the values are the squeezer's and the gradient is
            the proxy's (BPDA, Athalye et al., arXiv:1802.00420).

    Returns:
        ((1 + K) * N, 3, H, W): all images, then all copies by the first squeezer, and so on.
    """
    copies = [images]
    for name in names:
        proxy = None if proxies is None else proxies.get(name)
        if proxy is None:
            copies.append(SQUEEZERS[name](images))
        else:
            soft = proxy(images)
            copies.append(soft + (SQUEEZERS[name](images) - soft).detach())
    return torch.cat(copies)


def look(detector: Detector, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and penultimate features of one pass; the head is run twice, the backbone once.

    Args:
        detector: in eval mode.
        images: (N, 3, H, W) float32 in [0, 1].

    Returns:
        (N,) and (N, D), float32; what `detector(images)` and `detector.features(images)` give.
    """
    maps = detector.backbone.forward_features((images - detector.mean) / detector.std)
    features = detector.backbone.forward_head(maps, pre_logits=True).flatten(1).float()
    raw = detector.backbone.forward_head(maps).squeeze(-1).float()
    return detector.scale * raw + detector.bias, features


def band_energies(images: torch.Tensor) -> torch.Tensor:
    """Measure how much detail there is in each octave, in brightness and in colour.

    A natural picture has little fine detail in colour, and its octaves go together; a perturbation made of
    signs breaks both.

    Args:
        images: (N, 3, H, W) float32 in [0, 1], H and W at least 4.

    Returns:
        (N, 9) natural logarithms of the mean squared high-pass residual, by `BANDS`.
    """
    red, green, blue = images.unbind(1)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    level = torch.stack([bright, blue - bright, red - bright], dim=1)
    columns = []
    for _ in range(len(BANDS) // 3):
        residual = level - _blur(level)
        columns.append((residual.square().mean(dim=(2, 3)) + _FLOOR).log())
        level = F.avg_pool2d(level, 2)
    return torch.cat(columns, dim=1)
