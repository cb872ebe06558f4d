"""From crops to videos: how the scores of a video's crops become the video's own."""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.evaluation.metrics import Floats, Integers

__all__ = ["VIDEO_AGGREGATES", "Aggregate", "video_scores"]

Aggregate = Literal["mean", "median"]

VIDEO_AGGREGATES: dict[str, Aggregate] = {"video": "mean", "video_median": "median"}
"""Aggregates by the name of their slice; the median resists what happens to fewer than half of the crops."""

_Key = TypeVar("_Key", np.str_, np.int64)


def video_scores(
    scores: Floats, labels: Integers, video_ids: NDArray[_Key], aggregate: Aggregate = "mean"
) -> tuple[Floats, Integers, NDArray[_Key]]:
    """Aggregate crops to videos: the mean or the median score of each video.

    Returns:
        scores (v,), labels (v,), video identifiers (v,), sorted by identifier.

    Raises:
        ShapeError: a video whose crops carry different labels.
    """
    names, first, index = np.unique(video_ids, return_index=True, return_inverse=True)
    if bool((labels != labels[first][index]).any()):
        raise ShapeError(
            "expected one label for each video, got a video with both; check the video identifiers"
        )
    if aggregate == "median":
        order = np.lexsort((scores, index))
        starts = np.searchsorted(index[order], np.arange(len(names)))
        counts = np.bincount(index)
        lower, upper = scores[order][starts + (counts - 1) // 2], scores[order][starts + counts // 2]
        return (lower + upper) / 2, labels[first], names
    means = np.bincount(index, weights=scores) / np.bincount(index)
    return np.clip(means, 0.0, 1.0), labels[first], names
