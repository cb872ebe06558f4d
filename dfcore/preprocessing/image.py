"""Still images: bytes to RGB pixels, and JPEG's real losses."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dfcore.errors import InvalidInput, MediaError, ShapeError
from dfcore.preprocessing.config import MediaLimits
from dfcore.preprocessing.signature import describe_bytes

__all__ = ["check_frames", "decode_image", "jpeg_roundtrip"]

# Vector and multi-page formats stay out: they can refer to other files or hide a video.
_FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "WEBP")

# what Pillow's readers trip over in damaged files; AVIF's, for one, raises a RuntimeError
_DAMAGED = (
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


def check_frames(frames: NDArray[np.uint8]) -> None:
    """Require images at rest: (N, H, W, 3) uint8, at least one.

    Raises:
        ShapeError: another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ShapeError(f"expected images (N, H, W, 3), got {frames.shape}; stack the frames")
    if frames.dtype != np.uint8:
        raise ShapeError(f"expected uint8 images, got {frames.dtype}; scale to 0..255 and round")


def decode_image(data: bytes, limits: MediaLimits | None = None) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, AVIF or BMP, turned upright by its EXIF orientation.

    Args:
        data: the file's bytes.
        limits: what is refused.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        MediaError: it is no image of these formats, is cut off, or exceeds a limit.
    """
    limits = limits or MediaLimits()
    if len(data) > limits.max_bytes:
        raise MediaError(
            f"expected at most max_bytes={limits.max_bytes}, got {len(data)}; send a smaller file"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > limits.max_pixels:
            raise MediaError(
                f"expected at most max_pixels={limits.max_pixels}, got {image.width}x{image.height}; "
                "send a smaller image"
            )
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            return _narrow(upright)
        return np.array(upright.convert("RGB"), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise MediaError(f"expected at most max_pixels={limits.max_pixels}: {error}") from error
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        # its own text shows a Python object in place of the file
        known = ", ".join(_FORMATS)
        raise MediaError(
            f"expected an image ({known}), got {describe_bytes(data, len(data))}; "
            "convert it, or fetch it again"
        ) from error
    except _DAMAGED as error:
        got = describe_bytes(data, len(data))
        raise MediaError(
            f"expected an image that decodes, got {got} that is damaged ({error}); fetch it again"
        ) from error


def _narrow(image: Image.Image) -> NDArray[np.uint8]:
    """Keep the upper eight of sixteen bits, as Pillow does with colours; grey it would cut off at 255."""
    grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def jpeg_roundtrip(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress each image as JPEG (4:2:0) and decode it again.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        quality: 1 to 100.

    Returns:
        (N, H, W, 3) uint8 RGB.

    Raises:
        ShapeError: other images.
        InvalidInput: another quality.
    """
    check_frames(images)
    if not 1 <= quality <= 100:
        raise InvalidInput(f"expected a JPEG quality of 1 to 100, got {quality}")
    decoded = np.empty_like(images)
    for row, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
        decoded[row] = np.asarray(Image.open(buffer))
    return decoded
