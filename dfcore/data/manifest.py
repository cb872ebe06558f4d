"""The manifest: one row for each video or image of a corpus, with what must never cross a split."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dfcore.errors import DataError
from dfcore.provenance import digest_json

__all__ = ["FAKE", "REAL", "SPLITS", "Manifest", "Sample", "Skipped", "write_table"]

logger = logging.getLogger(__name__)

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test")
_KIND, _VERSION = "rampart-manifest", "2"
_SHOWN = 3
# what a second scan compares with the disk; the same content at another time is the same sample
_NOT_CONTENT = frozenset({"size", "mtime_ns"})


@dataclass(frozen=True)
class Sample:
    """One video, image, or sequence of stills.

    Attributes:
        sample_id: "dataset/method/compression/stem", once in a manifest.
        dataset: which data set it belongs to, such as "ffpp".
        split: "train", "val" or "test".
        label: REAL or FAKE.
        method: what made the fake, or where the real one is from; part of every grouping key.
        compression: such as "c23"; "original" where the data set has one quality.
        group_id: an identity or a connected set of identities, which must not cross a split.
        path: below the manifest's root, with "/".
        sha256: of the file; of a sequence of stills, over the names and digests of its stills.
        kind: "frames" are the ordered stills of one video, in a folder or in an archive.
        frames: of kind "frames", the stills' names inside `path`, in display order.
        mask: path below the root of the manipulation mask (video, image, or folder of stills); "" for none.
        cropped: the images are face crops already.
        size: bytes on disk (of a folder's stills: their sum), and with `mtime_ns` (the latest) what tells a
            later scan that nothing changed; neither counts in the manifest's digest.
        mtime_ns: time of the last change, in nanoseconds.
    """

    sample_id: str
    dataset: str
    split: str
    label: int
    method: str
    compression: str
    group_id: str
    path: str
    sha256: str
    kind: Literal["video", "image", "frames"] = "video"
    frames: tuple[str, ...] = ()
    mask: str = ""
    cropped: bool = False
    size: int = 0
    mtime_ns: int = 0


class Skipped(NamedTuple):
    """A file below the root that is no sample, and why; a path ending in "/" stands for files of a folder."""

    path: str
    reason: str


_TYPES = {"label": pa.int64(), "frames": pa.list_(pa.string()), "cropped": pa.bool_(),
          "size": pa.int64(), "mtime_ns": pa.int64()}  # fmt: skip
_SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(Sample)])


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            pq.write_table(table, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Manifest:
    """Samples below a root folder, sorted by sample_id.

    Args:
        samples: of any order.
        root: the folder that their paths start from.
        overlap_allowed: data sets whose official test split shares identities with the rest; reported, not
            refused. Train and validation never share any.
        skipped: the files below the root that are no samples.

    Raises:
        DataError: a sample_id twice, an unknown split or label, or a group in two splits.
    """

    def __init__(
        self, samples: Iterable[Sample], root: Path, *, overlap_allowed: Iterable[str] = (),
        skipped: Iterable[Skipped] = (),
    ) -> None:  # fmt: skip
        self.samples: tuple[Sample, ...] = tuple(sorted(samples, key=lambda sample: sample.sample_id))
        self.root = Path(root)
        self.overlap_allowed = frozenset(overlap_allowed)
        self.skipped: tuple[Skipped, ...] = tuple(sorted(skipped))
        self.validate()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples' content; the root's place on this machine does not count."""
        return digest_json(
            [{key: value for key, value in vars(sample).items() if key not in _NOT_CONTENT}
             for sample in self.samples]
        )  # fmt: skip

    def validate(self) -> None:
        """Check ids, labels, splits, and that no group crosses a split.

        Raises:
            DataError: naming the first offenders.
        """
        if not self.samples:
            raise DataError(f"expected samples below {self.root}, got none; check the root and the layout")
        seen: set[str] = set()
        groups: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for sample in self.samples:
            if sample.sample_id in seen:
                raise DataError(
                    f"expected each sample_id once, got {sample.sample_id!r} twice; remove or rename a file"
                )
            seen.add(sample.sample_id)
            if sample.label not in (REAL, FAKE) or sample.split not in SPLITS:
                raise DataError(
                    f"expected label 0 or 1 and a split of {SPLITS}, got {sample.label} and {sample.split!r} "
                    f"in {sample.sample_id}"
                )
            groups[sample.dataset][sample.group_id].add(sample.split)
        for dataset, splits_of in sorted(groups.items()):
            self._check_groups(dataset, splits_of)

    def _check_groups(self, dataset: str, splits_of: dict[str, set[str]]) -> None:
        crossing = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
        # an official test split may share identities; what training and selection see may not
        refused = [group for group in crossing if {"train", "val"} <= splits_of[group]]
        if dataset not in self.overlap_allowed:
            refused = crossing
        if refused:
            raise DataError(
                f"expected each group_id of {dataset} in one split, got {len(refused)} in several "
                f"({', '.join(refused[:_SHOWN])}); split by identity"
            )
        if crossing:
            logger.warning(
                "%s: %d groups (%s) are in several splits, as its official split has it; "
                "never train and test on it together", dataset, len(crossing), ", ".join(crossing[:_SHOWN]),
            )  # fmt: skip

    def write(self, path: Path) -> None:
        """Write Parquet atomically."""
        columns: dict[str, list[Any]] = {
            name: [getattr(sample, name) for sample in self.samples] for name in _SCHEMA.names
        }
        metadata = {
            "kind": _KIND,
            "version": _VERSION,
            "root": str(self.root.resolve()),
            "overlap_allowed": ",".join(sorted(self.overlap_allowed)),
            "skipped": json.dumps(self.skipped),
        }
        write_table(pa.table(columns, schema=_SCHEMA).replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: Path, root: Path | None = None) -> Manifest:
        """Read a manifest; `root` replaces the folder it was written for.

        Raises:
            DataError: it is missing, no manifest, of another version, or does not validate.
        """
        try:
            # pyarrow.parquet.read_table would load pandas first, which takes half a second
            with pq.ParquetFile(path) as file:
                table = file.read()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"expected a manifest at {path}, got: {error}; scan again") from error
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("kind") != _KIND or metadata.get("version") != _VERSION:
            raise DataError(
                f"expected {_KIND} version {_VERSION}, got {metadata.get('kind')} version "
                f"{metadata.get('version')} in {path}; scan again"
            )
        allowed = [name for name in metadata["overlap_allowed"].split(",") if name]
        skipped = [Skipped(*row) for row in json.loads(metadata["skipped"])]
        samples = (Sample(**{**row, "frames": tuple(row["frames"])}) for row in table.to_pylist())
        return cls(samples, root or Path(metadata["root"]), overlap_allowed=allowed, skipped=skipped)
