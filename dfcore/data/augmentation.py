"""Changes made to batches on the device: what happens to pictures on their way to a detector.

Every transform draws its own values for each image from the caller's generator, has a static shape, and never
waits for the device. Where kornia's random modules would use the global random state, its functions are
called with values drawn here; it is imported where it is used, for it takes a second and most runs need none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field

from dfcore.config import Config, Epsilon, suggest
from dfcore.data.jpeg import jpeg

__all__ = [
    "PRESETS",
    "Augmentation",
    "AugmentationConfig",
    "Blur",
    "Colour",
    "Flip",
    "Jpeg",
    "Noise",
    "Resize",
    "augment",
    "gaussian_blur",
    "resample",
]

Share = Annotated[float, Field(ge=0, le=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected (lowest, highest), got {bounds}")
    return bounds


class Transform(Config):
    """One change.

    Attributes:
        probability: share of images that are changed; at 0 nothing is drawn.
    """

    probability: Share = 0.0

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change every image.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].
            generator: on the images' device.

        Returns:
            (N, 3, H, W) float32 in [0, 1].
        """
        raise NotImplementedError


class Flip(Transform):
    """Mirror left and right."""

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mirror every image."""
        return images.flip(3)


class Resize(Transform):
    """Make smaller, then as large as before: what a platform does to an upload.

    Attributes:
        scale: range of the small side, as a share of the whole one.
    """

    scale: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]],
        AfterValidator(_ordered),
    ] = (0.5, 1.0)

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Resize every image by a scale of its own."""
        return resample(images, _uniform(self.scale, images, generator)).clamp(0, 1)


class Colour(Transform):
    """Shift and stretch colours; every value is the largest change, to both sides.

    Attributes:
        brightness: added to all pixels, in pixel units.
        tint: added to each channel separately, in pixel units.
        contrast: factor 1 +- this around the mean grey.
        saturation: factor 1 +- this around each pixel's grey.
        hue: turn of the colour wheel, in turns.
    """

    brightness: Epsilon = 0.0
    tint: Epsilon = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change every image's colours."""
        from kornia import enhance

        def within(bound: float, channels: int = 1) -> torch.Tensor:
            return _uniform((-bound, bound), images, generator, channels)

        if self.contrast:
            images = enhance.adjust_contrast_with_mean_subtraction(images, 1 + within(self.contrast))
        if self.saturation:
            images = enhance.adjust_saturation_with_gray_subtraction(images, 1 + within(self.saturation))
        if self.hue:
            images = enhance.adjust_hue(images, 2 * torch.pi * within(self.hue))
        if self.brightness:
            images = images + within(self.brightness)
        if self.tint:
            images = images + within(self.tint, 3)
        return images.clamp(0, 1)


class Blur(Transform):
    """Gaussian blur.

    Attributes:
        sigma: range of the standard deviation, in pixels.
        kernel: taps along one side.
    """

    sigma: Annotated[
        tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ordered)
    ] = (0.1, 1.5)
    kernel: Literal[3, 5, 7, 9, 11, 13, 15] = 7

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Blur every image by a width of its own."""
        return gaussian_blur(images, _uniform(self.sigma, images, generator), self.kernel).clamp(0, 1)


class Noise(Transform):
    """Gaussian noise, independent in each pixel and channel.

    Attributes:
        std: range of the standard deviation, in pixel units.
    """

    std: Annotated[tuple[Epsilon, Epsilon], AfterValidator(_ordered)] = (0.0, 8 / 255)

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Add noise to every image, each with a strength of its own."""
        std = _uniform(self.std, images, generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return (images + std * noise).clamp(0, 1)


class Jpeg(Transform):
    """JPEG compression, 4:2:0.

    Attributes:
        quality: range, 1 to 100, ends included.
    """

    quality: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]],
        AfterValidator(_ordered),
    ] = (40, 100)

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Compress every image with a quality of its own."""
        low, high = self.quality
        return jpeg(images, _uniform((low, high + 1), images, generator).floor().clamp(low, high).flatten())


class AugmentationConfig(Config):
    """What is done to training images, in this order; compression comes last, as on the way to a viewer.

    The default is the preset "light".
    """

    flip: Flip = Flip(probability=0.5)
    resize: Resize = Resize()
    colour: Colour = Colour()
    blur: Blur = Blur()
    noise: Noise = Noise()
    jpeg: Jpeg = Jpeg()


PRESETS: dict[str, AugmentationConfig] = {
    "none": AugmentationConfig(flip=Flip()),
    "light": AugmentationConfig(),
    "strong": AugmentationConfig(
        # albumentations' GaussNoise draws a variance of 10 to 50 grey levels
        noise=Noise(probability=0.1, std=(3.162 / 255, 7.071 / 255)),
        # a kernel of 3 means sigma 0.8 in OpenCV
        blur=Blur(probability=0.05, sigma=(0.8, 0.8), kernel=3),
        jpeg=Jpeg(probability=0.5, quality=(60, 100)),
    ),
    "wide": AugmentationConfig(
        resize=Resize(probability=0.3, scale=(0.35, 1.0)),
        colour=Colour(
            probability=0.5, brightness=24 / 255, tint=8 / 255, contrast=0.2, saturation=0.3, hue=0.02
        ),
        blur=Blur(probability=0.2, sigma=(0.1, 1.5), kernel=7),
        noise=Noise(probability=0.2, std=(0.0, 8 / 255)),
        jpeg=Jpeg(probability=0.6, quality=(40, 100)),
    ),
}
"""Named settings: nothing; mirroring; the strong set of the PGD-Lipschitz work; all transforms."""


def _named(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"unknown preset {value!r}{suggest(value, PRESETS)}")
    return PRESETS[value]


Augmentation = Annotated[AugmentationConfig, BeforeValidator(_named)]
"""As a field of a configuration: settings, or a preset's name."""


def augment(images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Change a batch as configured; each image draws for itself whether and how much.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        config: what and how much.
        generator: on the images' device; the same state gives the same result.

    Returns:
        (N, 3, H, W) float32 in [0, 1].

    >>> images = torch.rand(2, 3, 16, 16)
    >>> augment(images, PRESETS["none"], torch.Generator()) is images
    True
    """
    parts = (config.flip, config.resize, config.colour, config.blur, config.noise, config.jpeg)
    for transform in parts:
        if transform.probability:
            chosen = _uniform((0, 1), images, generator) < transform.probability
            # every image is changed and some are kept: choosing first would wait for the device
            images = torch.where(chosen, transform.apply(images, generator), images)
    return images


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel: int) -> torch.Tensor:
    """Blur each image with its own width.

    Args:
        images: (N, C, H, W).
        sigma: N values in pixels; 0 changes nothing.
        kernel: taps along one side, odd.

    Returns:
        (N, C, H, W).
    """
    from kornia.filters import filter2d_separable

    offsets = torch.arange(kernel, device=images.device, dtype=images.dtype) - kernel // 2
    # kornia's own kernel checks sigma on the host, which waits for the device
    taps = torch.exp(-0.5 * (offsets / sigma.reshape(-1, 1).clamp(min=1e-3)) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    blurred: torch.Tensor = filter2d_separable(images, taps, taps, border_type="replicate")
    return blurred


def resample(images: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Shrink each image with its own scale and enlarge it again, both by antialiased linear interpolation.

    Args:
        images: (N, C, H, W).
        scale: N values in (0, 1]; sides are rounded to whole pixels.

    Returns:
        (N, C, H, W), what `interpolate(mode="bilinear", antialias=True)` there and back gives.
    """
    rows, columns = (_there_and_back(scale, side) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _there_and_back(scale: torch.Tensor, side: int) -> torch.Tensor:
    """Return (N, side, side): each image's shrinking and enlarging as one linear map of a line."""
    small = (scale.reshape(-1, 1, 1) * side).round().clamp(1, side)
    pixels = torch.arange(side, device=scale.device, dtype=scale.dtype)
    line, across = pixels[:, None], pixels[None, :]
    ratio = side / small
    down = (1 - (across - ((line + 0.5) * ratio - 0.5)).abs() / ratio).clamp(min=0)
    down = down / down.sum(2, keepdim=True).clamp(min=1e-6)
    up = (1 - (across - ((line + 0.5) / ratio - 0.5)).abs()).clamp(min=0) * (across < small)
    return up / up.sum(2, keepdim=True) @ down


def _uniform(
    bounds: tuple[float, float], images: torch.Tensor, generator: torch.Generator, channels: int = 1
) -> torch.Tensor:
    low, high = bounds
    drawn = torch.rand((len(images), channels, 1, 1), generator=generator, device=images.device)
    return low + (high - low) * drawn
