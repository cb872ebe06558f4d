"""Deep Image Prior as a comparator: an untrained network reconstructs an image, which is then classified."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import Field
from torch.nn import functional as F

from dfcore.config import Config
from dfcore.errors import ShapeError
from dfcore.shapes import check_images

__all__ = ["DeepImagePrior", "Reconstruction"]

_INPUT_CHANNELS = 32
_SKIP_CHANNELS = 4
_INPUT_SPAN = 0.1
_SLOPE = 0.2
_SMALLEST_MAP = 4

Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A convolution's kernel and its normalisation's scale and shift, each for all images side by side."""


class Reconstruction(NamedTuple):
    """What came out.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1].
        psnr: (N,) float32, of each reconstruction against the image given, in dB.
        seconds_per_image: wall time of the batch by its size.
    """

    images: torch.Tensor
    psnr: torch.Tensor
    seconds_per_image: float


class DeepImagePrior(Config):
    """A purifier that is fitted to each image alone: no training defence, and far too slow for serving.

    An encoder-decoder with random weights is fitted to reproduce the image from noise. It learns smooth
    structure first and perturbations late, so that a reconstruction stopped in time has lost some of them.
    Each image has a network of its own; those of a batch run side by side as grouped convolutions and start
    from the same weights and noise, so that an image's result does not depend on its batch.

    It hides gradients and does not remove the weakness: an attacker who knows of it asks the detector for a
    perturbation that survives smoothing.

    Attributes:
        iterations: of the fit.
        learning_rate: of Adam.
        levels: how often the encoder halves the image.
        channels: of each level.
        jitter: standard deviation of the noise added to the input at each iteration.

    Source: Ulyanov et al., arXiv:1711.10925; as a defence of deepfake detectors with 6,000 iterations:
    Gandhi and Jain, arXiv:2003.10596.
    """

    iterations: int = Field(default=6000, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    levels: int = Field(default=5, ge=1, le=8)
    channels: int = Field(default=64, ge=4)
    jitter: float = Field(default=1 / 30, ge=0)

    def classify(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[torch.Tensor, Reconstruction]:
        """Reconstruct, then ask the detector.

        Args:
            detector: in eval; returns logits (N,).
            images: as for `reconstruct`.
            generator: as for `reconstruct`.
            progress: as for `reconstruct`.

        Returns:
            Logits (N,) of the reconstructions, and these.
        """
        found = self.reconstruct(images, generator, progress)
        with torch.no_grad():
            logits: torch.Tensor = detector(found.images)
        return logits, found

    def reconstruct(
        self,
        images: torch.Tensor,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Reconstruction:
        """Fit one network to each image.

        Args:
            images: (N, 3, H, W) float32 in [0, 1]; memory grows with N.
            generator: of the first weights and all noise.
            progress: called with iterations done and iterations in all.

        Raises:
            ShapeError: no batch of images, or too small for so many levels.
        """
        check_images(images)
        smallest = _SMALLEST_MAP * 2**self.levels
        if min(images.shape[2:]) < smallest:
            raise ShapeError(
                f"expected images of at least {smallest} px for {self.levels} levels, got "
                f"{tuple(images.shape)}; lower levels"
            )
        started = time.perf_counter()
        with torch.inference_mode(False), torch.enable_grad():
            found = self._fit(images.detach().clone(), generator, progress)
        error = (found - images).square().flatten(1).mean(1)
        psnr = -10 * error.clamp_min(1e-12).log10()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        seconds = (time.perf_counter() - started) / max(len(images), 1)
        return Reconstruction(found, psnr, seconds)

    def _fit(
        self,
        images: torch.Tensor,
        generator: torch.Generator | None,
        progress: Callable[[int, int], None] | None,
    ) -> torch.Tensor:
        network = _Hourglass(self, images, generator)
        size = (1, _INPUT_CHANNELS, *images.shape[2:])
        still = _INPUT_SPAN * _draw(torch.rand, size, images, generator)
        optimiser = torch.optim.Adam(network.parameters, lr=self.learning_rate)
        for done in range(self.iterations):
            noise = _draw(torch.randn, size, images, generator)
            painted = network(still + self.jitter * noise)
            optimiser.zero_grad()
            # summed over images: each network's gradient is that of its own image
            torch.autograd.backward((painted - images).square().flatten(1).mean(1).sum())
            optimiser.step()
            if progress is not None:
                progress(done + 1, self.iterations)
        with torch.no_grad():
            return network(still)


class _Hourglass:
    """One encoder-decoder with skips for each image, all in grouped convolutions.

    Maps are (1, N * C, H, W) with one image's channels beside the next's; the normalisation is over each map
    of each image, so that images never meet.
    """

    def __init__(
        self, config: DeepImagePrior, images: torch.Tensor, generator: torch.Generator | None
    ) -> None:
        self.count = count = len(images)

        def layer(inputs: int, outputs: int, side: int) -> Layer:
            bound = 1 / math.sqrt(inputs * side * side)
            kernel = bound * (2 * _draw(torch.rand, (outputs, inputs, side, side), images, generator) - 1)
            repeated = kernel.repeat(count, 1, 1, 1)
            scale, shift = images.new_ones(count * outputs), images.new_zeros(count * outputs)
            return repeated.requires_grad_(), scale.requires_grad_(), shift.requires_grad_()

        wide = config.channels
        self.skips: list[Layer] = []
        self.downs: list[tuple[Layer, Layer]] = []
        self.ups: list[tuple[Layer, Layer]] = []
        for level in range(config.levels):
            inputs = wide if level else _INPUT_CHANNELS
            self.skips.append(layer(inputs, _SKIP_CHANNELS, 1))
            self.downs.append((layer(inputs, wide, 3), layer(wide, wide, 3)))
            self.ups.append((layer(wide + _SKIP_CHANNELS, wide, 3), layer(wide, wide, 1)))
        self.paint = layer(wide, 3, 1)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All tensors that are fitted; what normalises the last layer is none of them but for its shift."""
        pairs = [part for pair in (*self.downs, *self.ups) for part in pair]
        hidden = [tensor for part in (*self.skips, *pairs) for tensor in part]
        return [*hidden, self.paint[0], self.paint[2]]

    def __call__(self, noise: torch.Tensor) -> torch.Tensor:
        """Turn noise (1, C, H, W) into images (N, 3, H, W)."""
        height, width = noise.shape[2:]
        maps = noise.repeat(1, self.count, 1, 1)
        sides: list[torch.Tensor] = []
        for skip, (first, second) in zip(self.skips, self.downs, strict=True):
            sides.append(self._layer(maps, skip))
            maps = self._layer(self._layer(maps, first, stride=2), second)
        for side, (first, second) in zip(reversed(sides), reversed(self.ups), strict=True):
            larger = F.interpolate(maps, side.shape[2:], mode="bilinear")
            maps = self._layer(self._layer(self._beside(side, larger), first), second)
        kernel, _, shift = self.paint
        painted = F.conv2d(maps, kernel, shift, groups=self.count)
        return painted.sigmoid().view(self.count, 3, height, width)

    def _layer(self, maps: torch.Tensor, layer: Layer, stride: int = 1) -> torch.Tensor:
        kernel, scale, shift = layer
        margin = kernel.shape[-1] // 2
        padded = F.pad(maps, (margin,) * 4, mode="reflect") if margin else maps
        made = F.conv2d(padded, kernel, stride=stride, groups=self.count)
        return F.leaky_relu(F.instance_norm(made, weight=scale, bias=shift), _SLOPE)

    def _beside(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Join the channels of two maps, image by image."""
        size = first.shape[2:]
        parts = [maps.view(self.count, -1, *size) for maps in (first, second)]
        return torch.cat(parts, dim=1).view(1, -1, *size)


def _draw(
    of: Callable[..., torch.Tensor],
    size: tuple[int, ...],
    like: torch.Tensor,
    generator: torch.Generator | None,
) -> torch.Tensor:
    return of(size, dtype=like.dtype, device=like.device, generator=generator)
