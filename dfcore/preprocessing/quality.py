"""How good a face crop is: sharpness, traces of block compression, size of the face."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.preprocessing.face import Face

__all__ = ["blockiness", "blur", "face_size"]

# JPEG and H.264's transform both work on a grid of eight pixels.
_BLOCK = 8


def blur(image: NDArray[np.uint8]) -> float:
    """Measure sharpness as the variance of the Laplacian of the grey image; small means blurred.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        At least 0.

    Raises:
        ShapeError: another shape or type.
    """
    return float(cv2.Laplacian(_grey(image), cv2.CV_64F).var())


def blockiness(image: NDArray[np.uint8]) -> float:
    """Estimate block compression: how much steeper the image is across one 8-pixel grid than elsewhere.

    The grid's place is not known (a crop starts anywhere), so the steepest of the eight places counts. A crop
    that was scaled after compression has lost its grid; measure before scaling where that matters.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        At least 0; about 0 without a grid, 0.5 where steps across the grid are 50 % larger than elsewhere.
        0 for an image below 16 pixels.

    Raises:
        ShapeError: another shape or type.

    Source: the block boundary measure of Wang, Bovik and Evans, ICIP 2000, normalised by the steps inside.
    """
    grey = _grey(image).astype(np.float32)
    return (_grid_excess(grey) + _grid_excess(grey.T)) / 2


def face_size(face: Face) -> float:
    """Return the longer side of the face's box, in pixels of its frame."""
    return float(max(face.box[2] - face.box[0], face.box[3] - face.box[1]))


def _grey(image: NDArray[np.uint8]) -> NDArray[Any]:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(f"expected an image (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _grid_excess(grey: NDArray[np.float32]) -> float:
    """Compare the mean step across each place of the grid with the median place."""
    if grey.shape[1] < 2 * _BLOCK:
        return 0.0
    # the second difference leaves out smooth shading, which is steep everywhere
    padded = np.pad(grey, ((0, 0), (1, 1)), mode="edge")
    steps = np.abs(np.diff(grey, axis=1))
    around = (np.abs(np.diff(padded, axis=1)[:, :-2]) + np.abs(np.diff(padded, axis=1)[:, 2:])) / 2
    excess = np.maximum(steps - around, 0).mean(axis=0)
    places = [float(excess[place::_BLOCK].mean()) for place in range(_BLOCK)]
    level = float(steps.mean())
    return (max(places) - float(np.median(places))) / level if level > 0 else 0.0
