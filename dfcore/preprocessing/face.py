"""A face as every detector gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError

__all__ = ["Face", "check_images"]


class Face(NamedTuple):
    """A face in pixels of its image: `box` (4,) float32 x0, y0, x1, y1; `landmarks` (5, 2) float32.

    Landmarks are, as they appear in the picture: left eye, right eye, nose, left and right mouth corner.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    confidence: float


def check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    """Require every image to be (H, W, 3) uint8.

    Raises:
        ShapeError: one of another shape or type.
    """
    for image in images:
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ShapeError(f"expected images (H, W, 3) uint8, got {image.shape} {image.dtype}")
