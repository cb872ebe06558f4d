"""Which rows of a store's index: filters, and limits that keep videos spread and classes balanced."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dfcore.data.manifest import FAKE, REAL

__all__ = ["matching_rows", "thin"]


def matching_rows(index: pa.Table, wanted: Mapping[str, Collection[object] | None]) -> NDArray[np.int64]:
    """Return the rows whose columns hold one of the wanted values; None takes all."""
    mask = np.ones(index.num_rows, dtype=bool)
    for column, values in wanted.items():
        if values is not None:
            allowed = pa.array(list(values), index.schema.field(column).type)
            mask &= pc.is_in(index[column], value_set=allowed).to_numpy()
    return np.flatnonzero(mask)


def thin(
    index: pa.Table, rows: NDArray[np.int64], max_frames: int | None, max_videos: int | None
) -> NDArray[np.int64]:
    """Keep at most so many crops of a video, evenly spread, and so many videos, as many real as fake.

    Args:
        index: of a store.
        rows: in ascending order.
        max_frames: of each video; None keeps all.
        max_videos: chosen by the digest of the sample_id, so that any store gives the same; None keeps all.

    Returns:
        The rows kept, in ascending order.
    """
    if max_frames is None and max_videos is None:
        return rows
    videos: dict[str, list[int]] = defaultdict(list)
    label_of: dict[str, int] = {}
    chosen = index.select(["sample_id", "label"]).take(pa.array(rows))
    for row, sample, label in zip(rows.tolist(), *(column.to_pylist() for column in chosen), strict=True):
        videos[sample].append(row)
        label_of[sample] = label
    ordered = sorted(videos, key=lambda name: hashlib.sha256(name.encode()).digest())
    real, fake = ([name for name in ordered if label_of[name] == label] for label in (REAL, FAKE))
    turns = [name for pair in zip_longest(real, fake) for name in pair if name is not None]
    kept: list[int] = []
    for name in turns[:max_videos]:
        own = videos[name]
        count = len(own) if max_frames is None else min(max_frames, len(own))
        # the middle of each of `count` equal spans
        kept.extend(own[int((i + 0.5) * len(own) / count)] for i in range(count))
    return np.array(sorted(kept), dtype=np.int64)
