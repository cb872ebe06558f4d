"""The crop store: memory-mapped uint8 shards beside a Parquet index.

store.json        kind, version, digest, inputs, settings, the SHA-256 of every other file; written last
index.parquet     one row for each crop
report.parquet    one row for each input, with its outcome
manifest.parquet  what it was made from
shards/*.npy      (n, S, S, 3) uint8, lossless: compression traces are the signal
parts/            what each part of the data set gave; only needed to go on or to grow
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dfcore.data.manifest import Manifest
from dfcore.data.parts import read_table
from dfcore.data.remote import Remote, upload_store
from dfcore.data.selection import matching_rows, thin
from dfcore.errors import CheckFailed, DataError
from dfcore.preprocessing import PreprocessingConfig

if TYPE_CHECKING:
    import torch

__all__ = ["INDEX_SCHEMA", "STORE_KIND", "STORE_VERSION", "CropStore", "Crops"]

STORE_KIND, STORE_VERSION = "rampart-crop-store", 2

# Mapped at once: each costs a file descriptor, of which a process may have about a thousand.
_MAPPED = 256
_PROBLEMS_SHOWN = 10

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
        ("blockiness", pa.float32()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops in memory, in the index's order.

    `images` (n, S, S, 3) uint8 RGB; `labels` (n,) int64, real = 0 and fake = 1; `video_ids`, `methods`,
    `compressions`, `group_ids` (n,) strings; `landmarks` (n, 5, 2) float32 in the crop's pixels, NaN where
    no face was found in what was a crop already.
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
        import torch

        chosen = self.images if indices is None else self.images[np.asarray(indices, dtype=np.int64)]
        pixels = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
        return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()

    def subset(self, indices: Sequence[int] | NDArray[Any]) -> Crops:
        """Return the crops at these places (or where a boolean mask is true)."""
        places = np.asarray(indices)
        places = np.flatnonzero(places) if places.dtype == np.bool_ else places.astype(np.int64)
        return replace(self, **{name: values[places] for name, values in vars(self).items()})


class CropStore:
    """A finished store; make one with `prepare`, open one with `CropStore.open`.

    Attributes:
        path: the folder; of a store on S3, its cache.
        index: one row for each crop, by INDEX_SCHEMA.
        digest: of inputs, settings, pixels and index.
        config: how faces were cut out.
        shards: name and SHA-256 of each shard.
        files: name and SHA-256 of the other files.
    """

    def __init__(
        self, path: Path, header: dict[str, Any], index: pa.Table, remote: Remote | None = None
    ) -> None:
        """Hold an opened store; use `CropStore.open`."""
        self.path = path
        self.index = index.combine_chunks()
        self.header = header
        self.digest: str = header["digest"]
        self.config = PreprocessingConfig.parse(header["config"], source=str(path))
        self.shards: dict[str, str] = header["shards"]
        self.files: dict[str, str] = header.get("files", {})
        self._remote = remote
        self._map = lru_cache(maxsize=_MAPPED)(self._map_shard)

    @classmethod
    def open(cls, path: Path | str, cache: Path | None = None) -> CropStore:
        """Open a store in a folder or on S3.

        Args:
            path: a folder, or s3://BUCKET/PREFIX: then the index is read now, and each shard when its crops
                are first asked for.
            cache: where what comes from S3 is kept; else RAMPART_CACHE or ~/.cache/rampart.

        Raises:
            DataError: there is no finished store, or one of another version.
            CheckFailed: what came from S3 does not have its recorded SHA-256.
        """
        remote = None
        if isinstance(path, str) and "://" in path:
            remote = Remote.open(path, cache)
            where = remote.folder
        else:
            where = Path(path)
        try:
            header = json.loads((where / "store.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _no_store(where, error) from error
        found = (header.get("kind"), header.get("version")) if isinstance(header, dict) else (None, None)
        if found != (STORE_KIND, STORE_VERSION):
            raise DataError(
                f"expected {STORE_KIND} version {STORE_VERSION}, got {found[0]} version {found[1]} in "
                f"{path}; prepare it again"
            )
        if remote is not None:
            remote.fetch(header["files"])
        try:
            index = read_table(where / "index.parquet")
        except (OSError, ValueError) as error:
            raise _no_store(where, error) from error
        if not index.schema.equals(INDEX_SCHEMA):
            raise DataError(
                f"expected the index columns {INDEX_SCHEMA.names}, got {index.schema.names} in {path}; "
                "prepare it again"
            )
        return cls(where, header, index, remote)

    def __len__(self) -> int:
        return int(self.index.num_rows)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many inputs came to which outcome; the report names each."""
        column = read_table(self.path / "report.parquet", ["outcome"])["outcome"]
        return dict(sorted(Counter(column.to_pylist()).items()))

    def report(self) -> pa.Table:
        """Return one row for each input: sample_id, path, outcome, detail, num_frames, num_crops."""
        return read_table(self.path / "report.parquet")

    def manifest(self) -> Manifest:
        """Return what the store was made from."""
        return Manifest.read(self.path / "manifest.parquet")

    def shard(self, name: str) -> NDArray[np.uint8]:
        """Return a shard's crops (n, S, S, 3) uint8, mapped into memory; from S3 it is fetched first."""
        return self._map(name)

    def _map_shard(self, name: str) -> NDArray[np.uint8]:
        if self._remote is not None:
            self._remote.fetch({f"shards/{name}": self.shards[name]})
        try:
            mapped: NDArray[np.uint8] = np.load(
                self.path / "shards" / name, mmap_mode="r", allow_pickle=False
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected the shard {name} in {self.path}, got: {error}; run `rampart data prepare` again"
            ) from error
        return mapped

    def verify(self) -> None:
        """Prove the store: digests, counts, splits and labels; a store on S3 is fetched as a whole.

        Raises:
            CheckFailed: naming everything that does not agree.
        """
        from dfcore.data.verification import problems_of  # it needs this module

        if self._remote is not None:
            self._remote.fetch({f"shards/{name}": digest for name, digest in self.shards.items()})
        problems = problems_of(self)
        if problems:
            more = len(problems) - _PROBLEMS_SHOWN
            shown = [*problems[:_PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])]
            raise CheckFailed(f"expected a whole crop store in {self.path}, got: " + "; ".join(shown))

    def upload(self, uri: str) -> None:
        """Put the store below an s3:// or file:// address; store.json goes last and makes it a store.

        What is there already from an upload that broke off is kept.

        Raises:
            ConflictError: another store is there.
        """
        if self._remote is not None:
            raise DataError(f"expected a store in a folder, got one on {self._remote.uri}; upload its source")
        upload_store(self.path, uri, self.digest, {**self.files, **self._shard_files()})

    def _shard_files(self) -> dict[str, str]:
        return {f"shards/{name}": digest for name, digest in self.shards.items()}

    def rows(
        self,
        *,
        split: str | None = None,
        compression: str | Collection[str] | None = None,
        methods: Collection[str] | None = None,
        labels: Collection[int] | None = None,
        max_frames_per_video: int | None = None,
        max_videos: int | None = None,
    ) -> NDArray[np.int64]:
        """Choose rows of the index.

        Args:
            split: "train", "val" or "test"; None takes all.
            compression: one or several; None takes all.
            methods: manipulation methods (and "original" kinds) to keep; None takes all.
            labels: REAL, FAKE; None takes both.
            max_frames_per_video: evenly spread over each video's crops.
            max_videos: as many real as fake while both last, chosen by the digest of the sample_id.

        Returns:
            Their numbers (n,), ascending.

        Raises:
            DataError: nothing is left.
        """
        wanted: dict[str, Collection[Any] | None] = {
            "split": None if split is None else [split],
            "compression": [compression] if isinstance(compression, str) else compression,
            "method": methods,
            "label": labels,
        }
        rows = thin(self.index, matching_rows(self.index, wanted), max_frames_per_video, max_videos)
        if not len(rows):
            asked = {name: values for name, values in wanted.items() if values is not None}
            known = {name: sorted(self.index[name].unique().to_pylist()) for name in wanted}
            raise DataError(f"expected crops with {asked} in {self.path}, got none; there are {known}")
        return rows

    def select(
        self,
        *,
        split: str | None = None,
        compression: str | Collection[str] | None = None,
        methods: Collection[str] | None = None,
        max_frames_per_video: int | None = None,
        max_videos: int | None = None,
    ) -> Crops:
        """Read crops into memory; the arguments are those of `rows`.

        Raises:
            DataError: nothing is left.
        """
        rows = self.rows(
            split=split, compression=compression, methods=methods,
            max_frames_per_video=max_frames_per_video, max_videos=max_videos,
        )  # fmt: skip
        return self.read(rows)

    @cached_property
    def _places(self) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
        """Names of the shards, and for each row of the index its shard's number and its row therein."""
        encoded = self.index["shard"].combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        return names, encoded.indices.to_numpy(), self.index["row"].to_numpy()

    def read(self, rows: NDArray[np.int64]) -> Crops:
        """Read these rows of the index into memory, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        names, shard_of, row_of = self._places
        side = self.config.image_size
        images = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        shards = shard_of[rows]
        used = np.unique(shards)
        if self._remote is not None:
            self._remote.fetch({f"shards/{names[one]}": self.shards[names[one]] for one in used})
        for one in used:
            here = np.flatnonzero(shards == one)
            images[here] = self.shard(names[one])[row_of[rows[here]]]
        columns = ["label", "sample_id", "method", "compression", "group_id", "landmarks"]
        table = self.index.select(columns).take(pa.array(rows))
        text = {name: np.array(table[name].to_pylist(), dtype=np.str_) for name in columns[1:5]}
        landmarks = table["landmarks"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return Crops(
            images, table["label"].to_numpy().copy(), text["sample_id"], text["method"],
            text["compression"], text["group_id"], landmarks.astype(np.float32).reshape(-1, 5, 2),
        )  # fmt: skip


def _no_store(where: Path, error: Exception) -> DataError:
    return DataError(f"expected a finished crop store in {where}, got: {error}; run `rampart data prepare`")
