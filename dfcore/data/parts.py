"""Parts of a crop store: the unit that is prepared at once, named by what goes into it.

parts/NAME.index.parquet     one row for each crop
parts/NAME.report.parquet    one row for each input; written last, so that it marks the part as whole
shards/NAME.npy              (n, S, S, 3) uint8; absent where no input shows a face

A part's name is the digest of its inputs and of the settings. Where one part ends and the next begins
depends on the inputs near by alone, so that a data set that has grown keeps most of its parts, and any number
of machines that share the work make the same ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from dfcore.data.manifest import Sample, write_table
from dfcore.errors import DataError, WorkFailed
from dfcore.provenance import digest_json, sha256_file

__all__ = [
    "CROP_SCHEMA",
    "OUTCOME_SCHEMA",
    "Part",
    "PartWriter",
    "Shard",
    "parse_shard",
    "plan_parts",
    "read_part",
    "read_table",
    "temporary_name",
    "write_json",
    "writing",
]

# Inputs of one part: what a run that was broken off may have to repeat, and the size of a shard.
_FEWEST, _MEAN, _MOST = 8, 32, 64
_NAME_LENGTH = 20

CROP_SCHEMA = pa.schema(
    [
        ("crop_id", pa.string()),
        ("sample_id", pa.string()),
        ("frame_index", pa.int64()),
        ("timestamp", pa.float64()),
        ("box", pa.list_(pa.float32(), 4)),
        ("landmarks", pa.list_(pa.float32(), 10)),
        ("confidence", pa.float32()),
        ("face_size", pa.float32()),
        ("blur", pa.float32()),
        ("blockiness", pa.float32()),
    ]
)
OUTCOME_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("path", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("num_frames", pa.int64()),
        ("num_crops", pa.int64()),
    ]
)


class Shard(NamedTuple):
    """The `number`-th (from 1) of `total` machines or processes that share a preparation."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def parse_shard(text: str) -> Shard:
    """Read "k/n".

    Raises:
        DataError: it is not of this form, or k is not between 1 and n.

    >>> parse_shard("2/4")
    Shard(number=2, total=4)
    """
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise DataError(f"expected a shard such as 1/4, the first of four, got {text!r}; count from 1 to n")
    return Shard(int(number), int(total))


@dataclass(frozen=True)
class Part:
    """Inputs that are prepared together; `name` is the digest of their content and of the settings."""

    name: str
    samples: tuple[Sample, ...]

    def report(self, store: Path) -> Path:
        """Return where the part's report lies in a store."""
        return store / "parts" / f"{self.name}.report.parquet"

    def index(self, store: Path) -> Path:
        """Return where the part's rows lie in a store."""
        return store / "parts" / f"{self.name}.index.parquet"

    def shard(self, store: Path) -> Path:
        """Return where the part's pixels lie in a store."""
        return store / "shards" / f"{self.name}.npy"

    def is_done(self, store: Path) -> bool:
        """Say whether the part is whole; a shard that is missing or cut off makes it open again."""
        try:
            size = int(_facts(self.report(store))["size"])
            return not size or self.shard(store).stat().st_size == size
        except (OSError, KeyError, ValueError):
            return False


def plan_parts(samples: Sequence[Sample], settings: dict[str, Any], shard: Shard | None = None) -> list[Part]:
    """Cut the inputs into parts.

    Args:
        samples: of a manifest, in its order.
        settings: plain data that fixes what is done with an input.
        shard: which share of the parts; None plans all of them.

    Returns:
        The parts, in the order of their samples.
    """
    parts: list[Part] = []
    pending: list[Sample] = []
    for sample in samples:
        pending.append(sample)
        ends = _ends(sample) and len(pending) >= _FEWEST
        if ends or len(pending) >= _MOST:
            parts.append(_part(pending, settings))
            pending = []
    if pending:
        parts.append(_part(pending, settings))
    return parts if shard is None else parts[shard.number - 1 :: shard.total]


def _ends(sample: Sample) -> bool:
    return int.from_bytes(hashlib.sha256(sample.sample_id.encode()).digest()[:4]) % _MEAN == 0


def _part(samples: list[Sample], settings: dict[str, Any]) -> Part:
    # Split, label and method are not in it: they are read from the manifest when the store is finished.
    content = [
        [one.sample_id, one.sha256, one.kind, list(one.frames), one.mask, one.cropped] for one in samples
    ]
    return Part(digest_json({"samples": content, "settings": settings})[:_NAME_LENGTH], tuple(samples))


def temporary_name(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file when the disk is full or refuses.

    Raises:
        WorkFailed: naming the path and the reason.
    """
    try:
        yield
    except OSError as error:
        raise WorkFailed(
            f"expected to write {path}, got: {error.strerror or error}; free space or fix permissions and "
            "run the same command again: what is complete is kept"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        WorkFailed: the disk is full.
    """
    temporary = temporary_name(path)
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump(document, stream, indent=2, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


class PartWriter:
    """Write one part; leaving the block without `commit` leaves nothing behind.

    Crops go to the disk as they come, so that memory does not depend on how many there are.
    """

    def __init__(self, part: Part, store: Path, image_size: int) -> None:
        """Write into a store's folder crops of this size."""
        self._part, self._store, self._size = part, store, image_size
        self._path = part.shard(store)
        self._temporary = temporary_name(self._path)
        self._stream: BinaryIO | None = None
        self._rows: list[dict[str, Any]] = []
        self._outcomes: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            try:
                self._stream.close()  # on a full disk this tries once more to write what is buffered
            except OSError:
                if error is None:
                    raise
            finally:
                self._temporary.unlink(missing_ok=True)

    def add(
        self, outcome: dict[str, Any], rows: Sequence[dict[str, Any]], images: Sequence[NDArray[np.uint8]]
    ) -> None:
        """Take one input: its outcome, its crops' rows and pixels.

        Raises:
            WorkFailed: the disk is full.
        """
        self._outcomes.append(outcome)
        self._rows.extend(rows)
        with writing(self._path):
            if images and self._stream is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._temporary.open("wb")
                self._stream.write(_header(0, self._size))
            for image in images:
                assert self._stream is not None
                assert image.shape == (self._size, self._size, 3)
                self._stream.write(np.ascontiguousarray(image).data)

    def commit(self) -> None:
        """Put the shard, the rows, and last the report in their places.

        Raises:
            WorkFailed: the disk is full.
        """
        facts = {"size": "0", "sha256": ""}
        if self._stream is not None:
            with writing(self._path):
                self._stream.seek(0)
                self._stream.write(_header(len(self._rows), self._size))
                self._stream.flush()
                os.fsync(self._stream.fileno())
                facts = {"size": str(self._temporary.stat().st_size), "sha256": sha256_file(self._temporary)}
                self._temporary.replace(self._path)
        index = pa.Table.from_pylist(self._rows, schema=CROP_SCHEMA)
        report = pa.Table.from_pylist(self._outcomes, schema=OUTCOME_SCHEMA).replace_schema_metadata(facts)
        for path, table in ((self._part.index(self._store), index), (self._part.report(self._store), report)):
            with writing(path):
                write_table(table, path)


def _header(rows: int, size: int) -> bytes:
    """Return the head of an .npy file; NumPy leaves room in it for any number of rows."""
    stream = io.BytesIO()
    shape = (rows, size, size, 3)
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read Parquet; `pyarrow.parquet.read_table` would load pandas first, which takes half a second."""
    with pq.ParquetFile(path) as file:
        return file.read(None if columns is None else list(columns))


def read_part(part: Part, store: Path) -> tuple[pa.Table, pa.Table, str]:
    """Read a whole part's rows, its report, and its shard's SHA-256 ("" without crops)."""
    report = read_table(part.report(store))
    return read_table(part.index(store)), report, report.schema.metadata[b"sha256"].decode()


def _facts(report: Path) -> dict[str, str]:
    metadata = pq.read_schema(report).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}
