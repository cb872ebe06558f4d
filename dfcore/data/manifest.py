"""The manifest: one row for each video or image of a corpus, with what must never cross a split."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from dfcore.errors import DataError
from dfcore.provenance import digest_json, sha256_file

__all__ = ["FAKE", "REAL", "SPLITS", "Manifest", "Sample", "write_table"]

logger = logging.getLogger(__name__)

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test")
_KIND, _VERSION = "rampart-manifest", "1"
_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One video or image.

    `sample_id` is "dataset/method/compression/stem"; `label` is REAL or FAKE; `group_id` (an identity or
    a connected set of identities) must not cross a split; `path` is relative to the manifest's root.
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

    @classmethod
    def of(  # noqa: PLR0913  # one argument for each column
        cls, root: Path, path: Path, *, dataset: str, split: str, label: int, method: str, compression: str,
        group_id: str, stem: str | None = None,
    ) -> Sample:  # fmt: skip
        """Describe a file below `root`, reading it once for its digest."""
        relative = path.relative_to(root).as_posix()
        sample_id = f"{dataset}/{method}/{compression}/{stem or PurePosixPath(relative).stem}"
        return cls(
            sample_id, dataset, split, label, method, compression, group_id, relative, sha256_file(path)
        )


_SCHEMA = pa.schema(
    [(field.name, pa.int64() if field.name == "label" else pa.string()) for field in fields(Sample)]
)


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        pq.write_table(table, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


class Manifest:
    """Samples below a root folder, sorted by sample_id.

    Args:
        samples: of any order.
        root: the folder that their paths start from.
        overlap_allowed: data sets whose official split shares identities; reported, not refused.

    Raises:
        DataError: a sample_id twice, an unknown split or label, or a group in two splits.
    """

    def __init__(self, samples: Iterable[Sample], root: Path, *, overlap_allowed: Iterable[str] = ()) -> None:
        self.samples: tuple[Sample, ...] = tuple(sorted(samples, key=lambda sample: sample.sample_id))
        self.root = Path(root)
        self.overlap_allowed = frozenset(overlap_allowed)
        self.validate()

    @property
    def digest(self) -> str:
        """SHA-256 of the content; the root's place on this machine does not count."""
        return digest_json([asdict(sample) for sample in self.samples])

    def validate(self) -> None:
        """Check ids, labels, splits, and that no group crosses a split.

        Raises:
            DataError: naming the first offenders.
        """
        if not self.samples:
            raise DataError(f"expected samples below {self.root}, got none; check the root and the layout")
        seen: set[str] = set()
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for sample in self.samples:
            if sample.sample_id in seen:
                raise DataError(f"expected each sample_id once, got {sample.sample_id!r} twice")
            seen.add(sample.sample_id)
            if sample.label not in (REAL, FAKE) or sample.split not in SPLITS:
                raise DataError(
                    f"expected label 0 or 1 and a split of {SPLITS}, got {sample.label} and {sample.split!r} "
                    f"in {sample.sample_id}"
                )
            groups[sample.dataset, sample.group_id].add(sample.split)
        for dataset in sorted({name for name, _ in groups}):
            self._check_groups(
                dataset, [g for (d, g), splits in groups.items() if d == dataset and len(splits) > 1]
            )

    def _check_groups(self, dataset: str, crossing: list[str]) -> None:
        if not crossing:
            return
        shown = ", ".join(sorted(crossing)[:_SHOWN])
        if dataset not in self.overlap_allowed:
            raise DataError(
                f"expected each group_id of {dataset} in one split, got {len(crossing)} in several "
                f"({shown}); split by identity"
            )
        logger.warning(
            "%s: %d groups (%s) are in several splits, as its official split has it; "
            "never train and test on it together", dataset, len(crossing), shown,
        )  # fmt: skip

    def write(self, path: Path) -> None:
        """Write Parquet atomically."""
        table = pa.Table.from_pylist([asdict(sample) for sample in self.samples], schema=_SCHEMA)
        metadata = {
            "kind": _KIND,
            "version": _VERSION,
            "root": str(self.root.resolve()),
            "overlap_allowed": ",".join(sorted(self.overlap_allowed)),
        }
        write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: Path, root: Path | None = None) -> Manifest:
        """Read a manifest; `root` replaces the folder it was written for.

        Raises:
            DataError: it is missing, no manifest, of another version, or does not validate.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"expected a manifest at {path}, got: {error}") from error
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("kind") != _KIND or metadata.get("version") != _VERSION:
            raise DataError(
                f"expected {_KIND} version {_VERSION}, got {metadata.get('kind')} in {path}; scan again"
            )
        allowed = [name for name in metadata["overlap_allowed"].split(",") if name]
        samples = (Sample(**row) for row in table.to_pylist())
        return cls(samples, root or Path(metadata["root"]), overlap_allowed=allowed)
