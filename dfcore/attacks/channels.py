"""What happens to an image on its way to the detector, with a gradient: JPEG, H.264, blur, resize.

Rounding has no useful gradient; here it lets the gradient through unchanged (straight-through), so that a
codec is exact forwards and still shows the way backwards. `real=True` replaces the forward pass by the real
codec and keeps the proxy's gradient (BPDA, Athalye et al., arXiv:1802.00420); that one waits for the host.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch.nn import functional as F

from dfcore.config import Config
from dfcore.data.codec import (
    dead_zone,
    deblock,
    from_blocks,
    jpeg_tables,
    straight_through,
    to_blocks,
    to_rgb,
    to_ycbcr,
)
from dfcore.preprocessing import h264_roundtrip, jpeg_roundtrip

_INTRA_OFFSET = 1 / 3

_Ranged = TypeVar("_Ranged", bound="Channel")

__all__ = ["H264", "JPEG", "AnyChannel", "Chain", "Channel", "GaussianBlur", "Resize"]


class Channel(Config, ABC):
    """A random, differentiable transformation of a batch.

    Attributes:
        kind: the channel's name.
    """

    kind: str

    @abstractmethod
    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Send images through.

        Args:
            images: (N, 3, H, W) float in [0, 1].
            generator: on the CPU, so that drawing never waits for the accelerator.

        Returns:
            (N, 3, H, W) in [0, 1], of the same type, with a gradient to `images`.
        """


class JPEG(Channel):
    """Baseline JPEG, 4:2:0, standard tables; each image draws its own quality.

    Attributes:
        quality: lowest and highest quality drawn, 1 to 100.
        real: forward pass through Pillow's encoder.
    """

    kind: Literal["jpeg"] = "jpeg"
    quality: tuple[int, int] = (50, 90)
    real: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _ordered(self, "quality", self.quality, 1, 100)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Quantise the 8 x 8 DCT of each plane."""
        low, high = self.quality
        drawn = torch.randint(low, high + 1, (len(images),), generator=generator)
        luma_table, chroma_table = jpeg_tables(drawn, images)
        padded = _pad(images * 255, 16)
        luma, chroma = to_ycbcr(padded, full_range=True)
        luma, chroma = (
            _eight_bit(_quantise(plane, table, offset=0.5))
            for plane, table in ((luma, luma_table), (chroma, chroma_table))
        )
        proxy = _finish(to_rgb(luma, chroma, full_range=True), images)
        if not self.real:
            return proxy

        pixels = _to_bytes(images)
        decoded = [jpeg_roundtrip(pixels[row : row + 1], int(q)) for row, q in enumerate(drawn)]
        return _through_real(images, proxy, np.concatenate(decoded))


class H264(Channel):
    """A proxy of one H.264 frame, for a crop sequence without a usable prediction.

    Limited-range BT.601, 4:2:0, one flat quantisation step for all coefficients of an 8 x 8 transform with a
    dead zone (as x264 uses without custom matrices), then smoothing across block edges. It has no prediction,
    no rate-distortion decisions and no adaptive quantisation: it stands for the size and the place of the
    loss, not for each bit. `real=True` runs the batch through libx264 as one clip.

    Attributes:
        crf: lowest and highest constant rate factor drawn, 0 to 51; one for each image (with `real`, one for
            the batch, which is one clip).
        real: forward pass through libx264.
    """

    kind: Literal["h264"] = "h264"
    crf: tuple[int, int] = (20, 30)
    real: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _ordered(self, "crf", self.crf, 0, 51)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Quantise the 8 x 8 DCT of each plane with one step, then deblock."""
        low, high = self.crf
        count = 1 if self.real else len(images)
        drawn = torch.randint(low, high + 1, (count,), generator=generator)
        quantiser = drawn.to(images, non_blocking=True).view(-1, 1, 1, 1)
        luma, chroma = to_ycbcr(_pad(images * 255, 16), full_range=False)
        # the standard's chroma quantiser lags behind above 30
        lagging = torch.where(quantiser > 30, 30 + 0.5 * (quantiser - 30), quantiser)
        luma, chroma = (
            _eight_bit(deblock(_quantise(plane, _step(qp), offset=_INTRA_OFFSET), qp))
            for plane, qp in ((luma, quantiser), (chroma, lagging))
        )
        proxy = _finish(to_rgb(luma, chroma, full_range=False), images)
        if not self.real:
            return proxy
        return _through_real(images, proxy, h264_roundtrip(_to_bytes(images), int(drawn)))


class GaussianBlur(Channel):
    """Gaussian blur; each image draws its own standard deviation.

    Attributes:
        sigma: lowest and highest standard deviation, in pixels.
    """

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: tuple[float, float] = (0.3, 1.5)

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _ordered(self, "sigma", self.sigma, 0.05, 16)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Convolve rows, then columns."""
        low, high = self.sigma
        count, channels, height, width = images.shape
        drawn = torch.rand(count, generator=generator)
        sigma = low + (high - low) * drawn.to(images, non_blocking=True)
        radius = min(math.ceil(3 * high), height - 1, width - 1)
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        weights = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
        weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
        flat = F.pad(images, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
        rows = F.conv2d(flat, weights[:, :, None], groups=count * channels)
        columns = F.conv2d(rows, weights[..., None], groups=count * channels)
        return columns.view_as(images)


class Resize(Channel):
    """Shrink with anti-aliasing, then enlarge to the old size; one factor for the batch.

    Attributes:
        factors: sizes to draw from, as shares of the old size.
    """

    kind: Literal["resize"] = "resize"
    factors: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.5, 0.75), min_length=1)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Interpolate down and up, bilinearly."""
        factor = self.factors[int(torch.randint(len(self.factors), (), generator=generator))]
        height, width = images.shape[-2:]
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        small = F.interpolate(images, size, mode="bilinear", antialias=True)
        return F.interpolate(small, (height, width), mode="bilinear")


class Chain(Channel):
    """Channels one after the other, such as resize, then JPEG.

    Attributes:
        channels: in the order in which an image meets them.
    """

    kind: Literal["chain"] = "chain"
    channels: tuple[AnyChannel, ...] = Field(min_length=1)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Apply each in turn."""
        for channel in self.channels:
            images = channel(images, generator)
        return images


AnyChannel = Annotated[JPEG | H264 | GaussianBlur | Resize | Chain, Field(discriminator="kind")]
"""A channel as a field of a configuration; `kind` says which."""
Chain.model_rebuild()


def _ordered(
    channel: _Ranged, name: str, bounds: tuple[float, float], lowest: float, highest: float
) -> _Ranged:
    if not lowest <= bounds[0] <= bounds[1] <= highest:
        raise ValueError(f"expected {name} as (low, high) within {lowest} to {highest}, got {bounds}")
    return channel


def _pad(pixels: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column up to whole blocks of all planes."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _quantise(plane: torch.Tensor, table: torch.Tensor, offset: float) -> torch.Tensor:
    """Quantise the blocks of a byte plane with steps that broadcast to (N, C, rows, columns, 8, 8)."""
    coefficients = to_blocks(_eight_bit(plane) - 128)
    return from_blocks(dead_zone(coefficients / table, offset) * table) + 128


def _step(quantiser: torch.Tensor) -> torch.Tensor:
    """Return H.264's step: 1 at QP 4, doubled every 6."""
    return (2 ** ((quantiser - 4) / 6))[..., None, None]


def _eight_bit(values: torch.Tensor) -> torch.Tensor:
    return straight_through(values.round(), values).clamp(0, 255)


def _finish(pixels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Crop the padding off, round to bytes, return to [0, 1]."""
    return _eight_bit(pixels[..., : images.shape[-2], : images.shape[-1]]) / 255


def _to_bytes(images: torch.Tensor) -> NDArray[np.uint8]:
    pixels = (images.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


def _through_real(images: torch.Tensor, proxy: torch.Tensor, decoded: NDArray[np.uint8]) -> torch.Tensor:
    """Return what the real codec gave, with the proxy's gradient."""
    real = torch.from_numpy(decoded).permute(0, 3, 1, 2).to(images) / 255
    return straight_through(real, proxy)
