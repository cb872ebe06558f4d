"""The crop store: memory-mapped uint8 shards beside a Parquet index.

store.json       kind, version, digest, inputs, settings, shards and their SHA-256; written last
index.parquet    one row for each crop
report.parquet   one row for each input, with its outcome
shards/*.npy     (n, S, S, 3) uint8, lossless: compression traces are the signal
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dfcore.data.manifest import FAKE, REAL
from dfcore.errors import CheckFailed, DataError
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import sha256_file

__all__ = ["INDEX_SCHEMA", "STORE_KIND", "STORE_VERSION", "CropStore", "Crops"]

STORE_KIND, STORE_VERSION = "rampart-crop-store", 1

INDEX_SCHEMA = pa.schema(
    [
        ("crop_id", pa.string()),
        ("sample_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        ("method", pa.string()),
        ("compression", pa.string()),
        ("group_id", pa.string()),
        ("frame_index", pa.int64()),
        ("timestamp", pa.float64()),
        ("box", pa.list_(pa.float32(), 4)),
        ("landmarks", pa.list_(pa.float32(), 10)),
        ("confidence", pa.float32()),
        ("face_size", pa.float32()),
        ("blur", pa.float32()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops in memory, in the index's order.

    `images` (n, S, S, 3) uint8 RGB; `labels` (n,) int64, real = 0 and fake = 1; `video_ids`, `methods`,
    `compressions`, `group_ids` (n,) strings; `landmarks` (n, 5, 2) float32 in the crop's pixels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    video_ids: NDArray[np.str_]
    methods: NDArray[np.str_]
    compressions: NDArray[np.str_]
    group_ids: NDArray[np.str_]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def tensor(
        self, device: str | torch.device = "cpu", indices: Sequence[int] | NDArray[np.int64] | None = None
    ) -> torch.Tensor:
        """Return images as (n, 3, S, S) float32 in [0, 1]; bytes travel to the device, not floats."""
        chosen = self.images if indices is None else self.images[np.asarray(indices, dtype=np.int64)]
        pixels = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
        return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()

    def subset(self, indices: Sequence[int] | NDArray[Any]) -> Crops:
        """Return the crops at these places (or where a boolean mask is true)."""
        places = np.asarray(indices)
        places = np.flatnonzero(places) if places.dtype == np.bool_ else places.astype(np.int64)
        return replace(self, **{name: values[places] for name, values in vars(self).items()})


class CropStore:
    """A finished store; make one with `prepare`, open one with `CropStore.open`."""

    def __init__(self, path: Path, header: dict[str, Any], index: pa.Table) -> None:
        self.path = path
        self.index = index
        self.digest: str = header["digest"]
        self.config = PreprocessingConfig.parse(header["config"], source=str(path))
        self._shards: dict[str, str] = header["shards"]

    @classmethod
    def open(cls, path: Path) -> CropStore:
        """Open a store.

        Raises:
            DataError: the folder holds no finished store, or one of another version.
        """
        path = Path(path)
        try:
            header = json.loads((path / "store.json").read_text(encoding="utf-8"))
            index = pq.read_table(path / "index.parquet")
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected a finished crop store in {path}, got: {error}; run `rampart data prepare`"
            ) from error
        found = (header.get("kind"), header.get("version")) if isinstance(header, dict) else (None, None)
        if found != (STORE_KIND, STORE_VERSION):
            raise DataError(
                f"expected {STORE_KIND} version {STORE_VERSION}, got {found[0]} version {found[1]} in "
                f"{path}; prepare it again"
            )
        if not index.schema.equals(INDEX_SCHEMA):
            raise DataError(
                f"expected the index columns {INDEX_SCHEMA.names}, got {index.schema.names} in {path}"
            )
        return cls(path, header, index)

    def __len__(self) -> int:
        return int(self.index.num_rows)

    def verify(self) -> None:
        """Compare every shard with its recorded SHA-256.

        Raises:
            CheckFailed: a shard is missing or altered.
        """
        for name, digest in self._shards.items():
            shard = self.path / "shards" / name
            if not shard.is_file() or sha256_file(shard) != digest:
                raise CheckFailed(
                    f"expected {shard} with SHA-256 {digest}, got another or none; prepare it again"
                )

    def select(  # each argument is one independent filter, by keyword only
        self,
        *,
        split: str | None = None,
        compression: str | Collection[str] | None = None,
        methods: Collection[str] | None = None,
        max_frames_per_video: int | None = None,
        max_videos: int | None = None,
    ) -> Crops:
        """Read crops into memory.

        Args:
            split: "train", "val" or "test"; None takes all.
            compression: one or several; None takes all.
            methods: manipulation methods (and "original" kinds) to keep; None takes all.
            max_frames_per_video: evenly spread over each video's crops.
            max_videos: as many real as fake while both last, chosen by the digest of the sample_id.

        Returns:
            The crops, in the index's order.

        Raises:
            DataError: nothing is left.
        """
        wanted = {
            "split": None if split is None else [split],
            "compression": [compression] if isinstance(compression, str) else compression,
            "method": methods,
        }
        mask = np.ones(len(self), dtype=bool)
        for column, values in wanted.items():
            if values is not None:
                allowed = pa.array(sorted(values), pa.string())
                mask &= pc.is_in(self.index[column], value_set=allowed).to_numpy()
        rows = _thin(self.index, np.flatnonzero(mask), max_frames_per_video, max_videos)
        if not len(rows):
            known = {name: sorted(set(self.index[name].to_pylist())) for name in wanted}
            raise DataError(f"expected crops with {wanted} in {self.path}, got none; there are {known}")
        return self._read(rows)

    def _read(self, rows: NDArray[np.int64]) -> Crops:
        table = self.index.take(pa.array(rows))
        side = self.config.image_size
        images = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        shards, inside = np.array(table["shard"].to_pylist()), table["row"].to_numpy()
        for name in np.unique(shards):
            here = np.flatnonzero(shards == name)
            shard = np.load(self.path / "shards" / str(name), mmap_mode="r", allow_pickle=False)
            images[here] = shard[inside[here]]
        text = {name: np.array(table[name].to_pylist(), dtype=np.str_) for name in
                ("sample_id", "method", "compression", "group_id")}  # fmt: skip
        landmarks = np.array(table["landmarks"].to_pylist(), dtype=np.float32).reshape(-1, 5, 2)
        return Crops(
            images, table["label"].to_numpy().copy(), text["sample_id"], text["method"],
            text["compression"], text["group_id"], landmarks,
        )  # fmt: skip


def _thin(
    index: pa.Table, rows: NDArray[np.int64], max_frames: int | None, max_videos: int | None
) -> NDArray[np.int64]:
    if max_frames is None and max_videos is None:
        return rows
    videos: dict[str, list[int]] = defaultdict(list)
    label_of: dict[str, int] = {}
    samples, labels = index["sample_id"].to_pylist(), index["label"].to_pylist()
    for row in rows.tolist():
        videos[samples[row]].append(row)
        label_of[samples[row]] = labels[row]
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
