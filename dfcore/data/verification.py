"""What a crop store must prove: digests, counts, splits and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dfcore.data.parts import OUTCOME_SCHEMA
from dfcore.errors import DataError
from dfcore.provenance import digest_json, sha256_file

if TYPE_CHECKING:
    from dfcore.data.manifest import Manifest
    from dfcore.data.store import CropStore

__all__ = ["problems_of"]

_OF_SAMPLE = ("dataset", "split", "label", "method", "compression", "group_id")
_SHOWN = 3


def problems_of(store: CropStore) -> list[str]:
    """Return in words everything about a store that does not agree; empty for a whole one."""
    problems = [*_digests(store), *_counts(store)]
    try:
        manifest = store.manifest()
    except DataError as error:
        return [*problems, f"the manifest can't be read: {error}"]
    try:
        report = store.report()
    except (OSError, pa.ArrowInvalid) as error:
        return [*problems, f"the report can't be read: {error}"]
    return [
        *problems,
        *_outcomes(store, manifest, report),
        *_samples(store, manifest),
        *_splits(store, manifest),
    ]


def _digests(store: CropStore) -> Iterator[str]:
    files = {**store.files, **{f"shards/{name}": digest for name, digest in store.shards.items()}}
    for needed in ("index.parquet", "report.parquet", "manifest.parquet"):
        if needed not in files:
            yield f"store.json has no SHA-256 of {needed}"
    for name, digest in files.items():
        path = store.path / name
        if not path.is_file():
            yield f"{name} is missing"
        elif sha256_file(path) != digest:
            yield f"{name} does not have its SHA-256 {digest}"
    content = {
        "inputs": store.header.get("inputs"),
        "shards": store.shards,
        "index": store.files.get("index.parquet"),
    }
    if digest_json(content) != store.digest:
        yield f"the digest {store.digest} is not that of what store.json lists"


def _counts(store: CropStore) -> Iterator[str]:
    """Check that index and shards hold the same crops, each once."""
    ids = store.index["crop_id"]
    twice = len(ids) - len(ids.unique())
    if twice:
        yield f"{twice} crop_ids are there twice"
    used = store.index["shard"].to_numpy(zero_copy_only=False)
    rows = store.index["row"].to_numpy()
    for name in sorted({*used.tolist(), *store.shards}):
        own = np.sort(rows[used == name])
        try:
            shape = store.shard(name).shape
        except DataError:
            yield f"shards/{name} can't be read"
            continue
        side = store.config.image_size
        if shape[1:] != (side, side, 3):
            yield f"shards/{name} holds crops {shape[1:]}, not {(side, side, 3)}"
        if not np.array_equal(own, np.arange(shape[0])):
            yield f"shards/{name} holds {shape[0]} crops, the index has {len(own)} rows of it"


def _outcomes(store: CropStore, manifest: Manifest, report: pa.Table) -> Iterator[str]:
    """Check that the report has every input once and counts what the index holds."""
    if not report.schema.equals(OUTCOME_SCHEMA):
        yield f"the report has the columns {report.schema.names}"
        return
    rows = [row for row in report.to_pylist() if row["outcome"] != "skipped"]
    counted = Counter(row["sample_id"] for row in rows)
    expected = Counter(sample.sample_id for sample in manifest.samples)
    if counted != expected:
        differing = sorted((counted - expected) | (expected - counted))
        yield f"the report does not have every input once: {_some(differing)}"
    skipped = [row["path"] for row in report.to_pylist() if row["outcome"] == "skipped"]
    if sorted(skipped) != sorted(one.path for one in manifest.skipped):
        yield "the report does not name what the scan skipped"
    crops = Counter(store.index["sample_id"].to_pylist())
    wrong = [row["sample_id"] for row in rows if row["num_crops"] != crops[row["sample_id"]]]
    if wrong:
        yield f"the report counts other crops than the index: {_some(wrong)}"


def _samples(store: CropStore, manifest: Manifest) -> Iterator[str]:
    """Check that each crop's label, split and the rest are those of its sample in the manifest."""
    if manifest.digest != store.header.get("inputs", {}).get("manifest"):
        yield "manifest.parquet is not what the store was made from"
    samples: dict[str, Any] = {sample.sample_id: sample for sample in manifest.samples}
    for row in _distinct(store, ("sample_id", *_OF_SAMPLE)):
        sample = samples.get(row["sample_id"])
        if sample is None:
            yield f"{row['sample_id']} is not in the manifest"
            continue
        for name in _OF_SAMPLE:
            if row[name] != getattr(sample, name):
                yield f"{row['sample_id']} has {name} {row[name]!r}, the manifest {getattr(sample, name)!r}"


def _splits(store: CropStore, manifest: Manifest) -> Iterator[str]:
    """Check that no group is in two splits, except where an official test split has it so."""
    splits: dict[tuple[str, str], set[str]] = {}
    for row in _distinct(store, ("dataset", "group_id", "split")):
        splits.setdefault((row["dataset"], row["group_id"]), set()).add(row["split"])
    crossing = [
        group for (dataset, group), names in splits.items()
        if len(names) > 1 and (dataset not in manifest.overlap_allowed or {"train", "val"} <= names)
    ]  # fmt: skip
    if crossing:
        yield f"{len(crossing)} groups are in several splits: {_some(crossing)}"


def _distinct(store: CropStore, names: tuple[str, ...]) -> list[dict[str, Any]]:
    table = store.index.select(list(names))
    found: list[dict[str, Any]] = table.group_by(list(names)).aggregate([]).to_pylist()
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
