"""The parts of a block codec, batched and differentiable: planes, block DCT, quantisers, deblocking."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

__all__ = [
    "dead_zone",
    "deblock",
    "from_blocks",
    "jpeg_tables",
    "straight_through",
    "to_blocks",
    "to_rgb",
    "to_ycbcr",
]

BLOCK = 8

# Annex K of ITU-T T.81, row by row.
_LUMA = """
16 11 10 16 24 40 51 61   12 12 14 19 26 58 60 55   14 13 16 24 40 57 69 56   14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101   72 92 95 98 112 100 103 99
"""
_CHROMA = """
17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""

# ITU-R BT.601: weights of red, green and blue in luma, and the spans of the two difference signals.
_WEIGHTS = (0.299, 0.587, 0.114)
_BLUE_SPAN, _RED_SPAN = 2 * (1 - _WEIGHTS[2]), 2 * (1 - _WEIGHTS[0])
_LIMITED = (219 / 255, 224 / 255, 16.0)


class _StraightThrough(torch.autograd.Function):
    # a sum with a detached difference would round the values
    @staticmethod
    def forward(ctx: Any, forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
        return forward.view_as(forward)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradient


def straight_through(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """Return the values of `forward` with the gradient of `backward`; both of one shape."""
    through: torch.Tensor = _StraightThrough.apply(forward.detach(), backward)
    return through


def to_ycbcr(pixels: torch.Tensor, *, full_range: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Split into luma and halved colour planes (4:2:0, the mean of each 2 x 2 square).

    Args:
        pixels: (N, 3, H, W) RGB, 0..255, H and W even.
        full_range: 0..255 as JPEG; otherwise 16..235 and 16..240 as video.

    Returns:
        (N, 1, H, W) and (N, 2, H/2, W/2), colour around 128.

    Source: ITU-R BT.601.
    """
    red, green, blue = torch.split(pixels, 1, 1)
    luma = _WEIGHTS[0] * red + _WEIGHTS[1] * green + _WEIGHTS[2] * blue
    chroma = torch.cat([(blue - luma) / _BLUE_SPAN, (red - luma) / _RED_SPAN], 1)
    if not full_range:
        luma, chroma = luma * _LIMITED[0] + _LIMITED[2], chroma * _LIMITED[1]
    return luma, F.avg_pool2d(chroma, 2) + 128


def to_rgb(luma: torch.Tensor, chroma: torch.Tensor, *, full_range: bool) -> torch.Tensor:
    """Undo `to_ycbcr`; colour is enlarged bilinearly, as libjpeg and most players do.

    Returns:
        (N, 3, H, W), not clamped.
    """
    chroma = F.interpolate(chroma - 128, scale_factor=2.0, mode="bilinear")
    if not full_range:
        luma, chroma = (luma - _LIMITED[2]) / _LIMITED[0], chroma / _LIMITED[1]
    blue = luma + _BLUE_SPAN * chroma[:, :1]
    red = luma + _RED_SPAN * chroma[:, 1:]
    green = (luma - _WEIGHTS[0] * red - _WEIGHTS[2] * blue) / _WEIGHTS[1]
    return torch.cat([red, green, blue], 1)


def to_blocks(plane: torch.Tensor) -> torch.Tensor:
    """Orthonormal 8 x 8 DCT-II.

    Args:
        plane: (N, C, H, W), H and W multiples of 8.

    Returns:
        (N, C, H/8, W/8, 8, 8) coefficients, lowest frequency first.
    """
    count, channels, height, width = plane.shape
    blocks = plane.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    basis = _basis(plane)
    return basis @ blocks @ basis.T


def from_blocks(coefficients: torch.Tensor) -> torch.Tensor:
    """Undo `to_blocks`."""
    basis = _basis(coefficients)
    blocks = (basis.T @ coefficients @ basis).transpose(3, 4)
    count, channels, rows, _, columns, _ = blocks.shape
    return blocks.reshape(count, channels, rows * BLOCK, columns * BLOCK)


def dead_zone(levels: torch.Tensor, offset: float) -> torch.Tensor:
    """Round to whole levels; below 1 - offset to zero.

    The gradient is that of rounding plus the cube of what rounding removes (Shin and Song, NIPS ML Security
    2017): small where a small change is undone, largest where it is about to move a level. Letting it pass
    unchanged made EOT through JPEG weaker than an attack that knows of no JPEG.

    Args:
        levels: coefficients in units of the quantisation step.
        offset: .5 is plain rounding; x264 takes a third in intra blocks.
    """
    hard = (levels.sign() * (levels.abs() + offset).floor()).detach()
    return straight_through(hard, hard + (levels - hard) ** 3)


def jpeg_tables(quality: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return libjpeg's tables for luma and chroma.

    Args:
        quality: (N,) whole numbers of 1 to 100, of any type.
        like: gives type and device.

    Returns:
        Two of (N, 1, 1, 1, 8, 8), whole numbers 1..255.
    """
    whole = quality.to(like.device, torch.int64, non_blocking=True)
    scale = torch.where(whole < 50, 5000 // whole, 200 - 2 * whole).view(-1, 1, 1, 1, 1, 1)
    luma, chroma = (
        ((table * scale + 50) // 100).clamp(1, 255).to(like.dtype) for table in _base_tables(like.device)
    )
    return luma, chroma


@lru_cache(maxsize=8)
def _base_tables(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return both base tables (8, 8), copied to the device once."""
    return tuple(
        torch.tensor([int(number) for number in table.split()], device=device).view(BLOCK, BLOCK)
        for table in (_LUMA, _CHROMA)
    )


def deblock(plane: torch.Tensor, quantiser: torch.Tensor) -> torch.Tensor:
    """Smooth across the edges of 8 x 8 blocks where the step is small enough to be the codec's own.

    Args:
        plane: (N, C, H, W), 0..255.
        quantiser: (N, 1, 1, 1), H.264's QP 0..51; strength and limits grow with it.

    Source: List et al., Adaptive deblocking filter, IEEE TCSVT 2003 (alpha and beta as functions of QP).
    """
    for _ in range(2):  # columns, then rows
        plane = _deblock_columns(plane, quantiser).transpose(2, 3)
    return plane


def _deblock_columns(plane: torch.Tensor, quantiser: torch.Tensor) -> torch.Tensor:
    edges = torch.arange(BLOCK, plane.shape[-1], BLOCK, device=plane.device)
    before, left, right, after = (plane.index_select(-1, edges + shift) for shift in (-2, -1, 0, 1))
    alpha = 0.8 * (2 ** (quantiser / 6) - 1)
    beta = (0.5 * quantiser - 7).clamp_min(0)
    own = ((left - right).abs() < alpha) & ((before - left).abs() < beta) & ((after - right).abs() < beta)
    limit = 1 + 0.1 * alpha
    change = (4 * (right - left) + (before - after)) / 8
    change = torch.maximum(torch.minimum(change, limit), -limit) * own
    return plane.index_add(-1, edges - 1, change).index_add(-1, edges, -change)


def _basis(like: torch.Tensor) -> torch.Tensor:
    return _cached_basis(like.dtype, like.device)


@lru_cache(maxsize=8)
def _cached_basis(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # a tensor made in inference mode could never be part of a graph
    with torch.inference_mode(False):
        place = torch.arange(BLOCK, dtype=torch.float64)
        angles = (2 * place[None] + 1) * place[:, None] * math.pi / (2 * BLOCK)
        basis = torch.cos(angles) * math.sqrt(2 / BLOCK)
        basis[0] /= math.sqrt(2)
        return basis.to(device, dtype)
