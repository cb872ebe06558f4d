"""MTCNN's image pyramid: every level averaged exactly, many times faster than one by one.

Which of PNet's near-equal proposals wins hangs on the last digits of its input: rounded levels, or levels
made from the level before, move the final box by up to a tenth of its area. So each level is made from the
frame, in floating point, as the reference implementations do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["area_pyramid"]

_CELL, _FACTOR = 12, 0.709
# Columns that are averaged together: with all rows of a frame they fit a core's cache.
_COLUMNS = 240


def area_pyramid(
    images: Sequence[NDArray[np.uint8]], min_face: int
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield (scale, (n, h, w, 3) float32 in grey levels) while PNet's cell of 12 pixels fits.

    Args:
        images: of one size, (H, W, 3) uint8.
        min_face: the face that is 12 pixels large on the first level.
    """
    height, width = images[0].shape[:2]
    scales = [_CELL / min_face]
    while int(min(height, width) * scales[-1]) >= _CELL:
        scales.append(scales[-1] * _FACTOR)
    sizes = [(int(height * scale), int(width * scale)) for scale in scales[:-1]]
    levels = [np.empty((len(images), *size, 3), np.float32) for size in sizes]
    for place, image in enumerate(images if sizes else ()):
        rows, start = _average_rows(image, tuple(size[0] for size in sizes)), 0
        for level, (level_height, level_width) in zip(levels, sizes, strict=True):
            part = rows[start : start + level_height]
            cv2.resize(part, (level_width, level_height), dst=level[place], interpolation=cv2.INTER_AREA)
            start += level_height
    yield from zip(scales, levels, strict=False)


def _average_rows(image: NDArray[np.uint8], heights: tuple[int, ...]) -> NDArray[np.float32]:
    """Shrink (H, W, 3) to each of the heights; return them one below the other, (sum of heights, W, 3)."""
    height, width = image.shape[:2]
    index, weight, start = _row_weights(height, heights)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).view(height, -1)
    # embedding_bag is torch's fastest weighted sum of rows
    parts = [
        F.embedding_bag(index, columns.float().contiguous(), start, mode="sum", per_sample_weights=weight)
        for columns in torch.split(pixels, _COLUMNS, 1)
    ]
    return torch.cat(parts, 1).view(-1, width, 3).numpy()


@lru_cache(maxsize=32)
def _row_weights(height: int, heights: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """List for each output row the input rows that it covers, and by what share: rows, shares, starts."""
    index: list[int] = []
    weight: list[float] = []
    start: list[int] = []
    for wanted in heights:
        step = height / wanted
        for row in range(wanted):
            start.append(len(index))
            top, bottom = row * step, (row + 1) * step
            covered = range(int(top), min(height, math.ceil(bottom - 1e-9)))
            index.extend(covered)
            weight.extend((min(bottom, y + 1) - max(top, y)) / step for y in covered)
    return torch.tensor(index), torch.tensor(weight, dtype=torch.float32), torch.tensor(start)
