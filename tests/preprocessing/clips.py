"""Real pictures for the tests: NASA's portrait of Eileen Collins, still and moving."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray


def astronaut() -> NDArray[np.uint8]:
    """(512, 512, 3) uint8 RGB with one face."""
    return np.asarray(skimage.data.astronaut(), dtype=np.uint8)


@cache
def moving_astronaut(num_frames: int = 24, shift: int = 0) -> NDArray[np.uint8]:
    """(T, 160, 160, 3): the head drifts one pixel a frame; brightness rises, to tell frames apart."""
    small = cv2.resize(astronaut()[:320], (256, 160), interpolation=cv2.INTER_AREA)
    clip = [
        small[:, 20 + shift + t : 180 + shift + t].astype(int) * (60 + t) // 100 for t in range(num_frames)
    ]
    return np.stack(clip).astype(np.uint8)
