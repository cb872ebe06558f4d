"""What is evaluated on: test crops, with what was measured of them when they were made, and their slices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dfcore.data import Crops, CropStore
from dfcore.errors import DataError

__all__ = ["Corpus", "check_corpus", "crops_digest", "read_corpus", "slices", "video_keys", "whole_videos"]

_FACE_BINS = (64.0, 128.0, 256.0)  # pixels; fixed, so that a slice means the same on every corpus
_THIRDS = ("low", "middle", "high")
_QUALITIES = {"blur": "sharpness", "blockiness": "blockiness"}
_FEWEST_VIDEOS = 5


@dataclass(frozen=True, eq=False)
class Corpus:
    """Test crops of one data set.

    Attributes:
        crops: in the store's order, so that the crops of a video follow each other in time.
        qualities: measured on each crop (n,), by the store's column: "face_size" (pixels), "blur" (variance
            of the Laplacian: small is blurred), "blockiness"; NaN where it was not measured. May be empty.
    """

    crops: Crops
    qualities: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 of crops and qualities."""
        digest = hashlib.sha256(crops_digest(self.crops).encode())
        for name in sorted(self.qualities):
            digest.update(name.encode() + np.ascontiguousarray(self.qualities[name], np.float32).tobytes())
        return digest.hexdigest()


def read_corpus(store: CropStore, *, split: str = "test", max_frames_per_video: int | None = None) -> Corpus:
    """Read a split of a crop store with its quality columns.

    Raises:
        DataError: the split has no crops.
    """
    rows = store.rows(split=split, max_frames_per_video=max_frames_per_video)
    columns = store.index.select(["face_size", *_QUALITIES]).take(pa.array(rows))
    qualities = {
        name: np.asarray(columns[name].combine_chunks().to_numpy(zero_copy_only=False), dtype=np.float32)
        for name in columns.column_names
    }
    return Corpus(store.read(rows), qualities)


def crops_digest(crops: Crops) -> str:
    """Return the SHA-256 of a corpus: pixels, labels and identifiers, in their order."""
    digest = hashlib.sha256(repr(crops.images.shape).encode())
    for array in (crops.images, crops.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    for names in (crops.video_ids, crops.methods, crops.compressions, crops.group_ids):
        digest.update("\n".join(names.tolist()).encode())
    return digest.hexdigest()


def video_keys(crops: Crops) -> NDArray[np.int64]:
    """Number the videos (n,): crops belong together if video id and method agree, in that order.

    Some data sets name the videos of every method alike; without the method they would fall into one.
    """
    _, videos = np.unique(crops.video_ids, return_inverse=True)
    kinds, methods = np.unique(crops.methods, return_inverse=True)
    _, keys = np.unique(videos * len(kinds) + methods, return_inverse=True)
    return np.asarray(keys, dtype=np.int64)


def whole_videos(crops: Crops, indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Split crops into batches of whole videos, of at most `size` crops unless one video is longer."""
    keys = video_keys(crops)[indices]
    batches: list[list[int]] = [[]]
    for key in dict.fromkeys(keys.tolist()):
        rows = indices[keys == key].tolist()
        if batches[-1] and len(batches[-1]) + len(rows) > size:
            batches.append([])
        batches[-1] += rows
    return [np.array(rows, dtype=np.int64) for rows in batches]


def check_corpus(name: str, corpus: Corpus) -> None:
    """Require both classes, and qualities that are parallel to the crops.

    Raises:
        DataError: otherwise.
    """
    present = np.unique(corpus.crops.labels).tolist()
    if present != [0, 1]:
        raise DataError(f"expected reals and fakes in corpus {name!r}, got labels {present}; check the split")
    for quality, values in corpus.qualities.items():
        if values.shape != corpus.crops.labels.shape:
            raise DataError(
                f"expected {quality} of every crop of {name!r}, ({len(corpus.crops)},), got {values.shape}"
            )


def slices(corpus: Corpus) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield named subsets of crops.

    All; each manipulation method against every real; each compression; and where both classes have at least
    five videos in it: bins of the face's size in pixels, thirds of the crops by sharpness and by blockiness.
    """
    crops = corpus.crops
    yield "all", np.ones(len(crops), dtype=np.bool_)
    fake = crops.labels == 1
    for method in np.unique(crops.methods[fake]):
        yield f"method={method}", ~fake | (crops.methods == method)
    compressions = np.unique(crops.compressions)
    if len(compressions) > 1:
        for compression in compressions:
            yield f"compression={compression}", crops.compressions == compression
    keys = video_keys(crops)
    for name, mask in _quality_slices(corpus.qualities):
        counts = [len(np.unique(keys[mask & (fake == bool(label))])) for label in (0, 1)]
        if min(counts) >= _FEWEST_VIDEOS and not mask.all():
            yield name, mask


def _quality_slices(
    qualities: Mapping[str, NDArray[np.float32]],
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if (size := qualities.get("face_size")) is not None:
        bins = np.digitize(size, _FACE_BINS)  # NaN lands in the last bin, and is taken out below
        edges = [f"{edge:g}" for edge in _FACE_BINS]
        names = [f"<{edges[0]}px", *(f"{a}-{b}px" for a, b in pairwise(edges))]
        for number, name in enumerate([*names, f">={edges[-1]}px"]):
            yield f"face_size={name}", (bins == number) & ~np.isnan(size)
    for column, name in _QUALITIES.items():
        values = qualities.get(column)
        if values is None or np.isnan(values).all():
            continue
        bounds = np.nanquantile(values, (1 / 3, 2 / 3))
        thirds = np.digitize(values, bounds)
        for number, third in enumerate(_THIRDS):
            yield f"{name}={third}", (thirds == number) & ~np.isnan(values)
