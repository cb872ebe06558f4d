"""From parts to a store: what several machines made is brought together, and store.json written last."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dfcore.data.claim import Inputs, claim, read_inputs
from dfcore.data.manifest import Manifest, Sample
from dfcore.data.parts import (
    OUTCOME_SCHEMA,
    Part,
    Shard,
    plan_parts,
    read_part,
    temporary_name,
    write_json,
    writing,
)
from dfcore.data.store import INDEX_SCHEMA, STORE_KIND, STORE_VERSION, CropStore
from dfcore.errors import DataError
from dfcore.provenance import digest_json, sha256_file, versions

__all__ = ["copy_parts", "finish", "join_stores"]

_ROWS_AT_ONCE = 65_536
_SHOWN = 3


def join_stores(parts: Sequence[Path], out: Path) -> CropStore:
    """Make one store of the shares that several runs of `prepare_shard` left; the digest is that of one run.

    Args:
        parts: the shares' folders, in any order; one folder may hold several.
        out: the store's folder; may be one of them.

    Returns:
        The finished store.

    Raises:
        DataError: no shares, shares of different data sets or settings, a part that no share holds, a
            shard that was altered on its way, or no input shows a face.
        WorkFailed: the disk is full.
    """
    folders = [Path(part) for part in parts]
    if not folders:
        raise DataError("expected the folders of at least one shard, got none")
    inputs, manifest = read_inputs(folders[0])
    for folder in folders[1:]:
        if read_inputs(folder)[0].content != inputs.content:
            raise DataError(
                f"expected shards of one data set and settings, got others in {folder} than in {folders[0]}; "
                "prepare it again"
            )
    out = Path(out)
    with claim(out, manifest, inputs) as work_left:
        if not work_left:
            return CropStore.open(out)
        plan = plan_parts(manifest.samples, inputs.settings)
        missing = [part for part in plan if not _bring(part, folders, out)]
        if missing:
            shown = ", ".join(part.samples[0].sample_id for part in missing[:_SHOWN])
            raise DataError(
                f"expected all {len(plan)} parts in {len(folders)} folders, {len(missing)} are missing "
                f"(those from {shown}); run the shards that broke off again"
            )
        return finish(out, manifest, inputs)


def copy_parts(source: Path, target: Path, shard: Shard) -> None:
    """Copy one shard's share from a folder where it was prepared, by hard links where that is possible.

    Raises:
        DataError: a part is not there.
    """
    inputs, manifest = read_inputs(source)
    with claim(target, manifest, inputs, shard):
        for part in plan_parts(manifest.samples, inputs.settings, shard):
            if not _bring(part, [source], target):
                raise DataError(
                    f"expected the part from {part.samples[0].sample_id} in {source}; prepare it again"
                )


def _bring(part: Part, folders: Sequence[Path], out: Path) -> bool:
    """Have a part in the store, its report last; say whether there is one."""
    if part.is_done(out):
        return True
    folder = next((folder for folder in folders if part.is_done(folder)), None)
    if folder is None:
        return False
    *_, digest = read_part(part, folder)
    if digest:
        _link(part.shard(folder), part.shard(out))
        if sha256_file(part.shard(out)) != digest:
            part.shard(out).unlink()
            raise DataError(
                f"expected {part.shard(folder)} with SHA-256 {digest}, got another; prepare that shard again"
            )
    _link(part.index(folder), part.index(out))
    _link(part.report(folder), part.report(out))
    return True


def _link(source: Path, target: Path) -> None:
    temporary = temporary_name(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)  # another file system, or one without hard links
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def finish(out: Path, manifest: Manifest, inputs: Inputs) -> CropStore:
    """Join the parts' rows and reports, and write store.json last; the caller holds the claim.

    Raises:
        DataError: no input shows a face.
        WorkFailed: the disk is full.
    """
    plan = plan_parts(manifest.samples, inputs.settings)
    # What is being replaced is no store until it is whole again; all of its parts stay.
    (out / "store.json").unlink(missing_ok=True)
    shards: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    rows = _write_stream(out / "index.parquet", INDEX_SCHEMA, _index(out, plan, shards))
    _write_stream(out / "report.parquet", OUTCOME_SCHEMA, _report(out, plan, manifest, outcomes))
    if not rows:
        raise DataError(f"expected a face in at least one input, got none; see {out / 'report.parquet'}")
    with writing(out / "manifest.parquet"):
        manifest.write(out / "manifest.parquet")
    files = {name: sha256_file(out / f"{name}.parquet") for name in ("index", "report", "manifest")}
    header = {
        "kind": STORE_KIND,
        "version": STORE_VERSION,
        "digest": digest_json({"inputs": inputs.content, "shards": shards, "index": files["index"]}),
        "inputs": inputs.content,
        "skipped": inputs.skipped,
        "config": inputs.config.model_dump(mode="json"),
        "shards": shards,
        "files": {f"{name}.parquet": digest for name, digest in files.items()},
        "outcomes": dict(sorted(outcomes.items())),
        "versions": versions(),
    }
    write_json(out / "store.json", header)
    _remove_others(out, plan)
    return CropStore.open(out)


def _write_stream(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    """Write a table piece by piece, in groups of rows whose size does not depend on the pieces."""
    temporary = temporary_name(path)
    rows = 0
    pending: list[pa.Table] = []
    try:
        with writing(path), temporary.open("wb") as stream:
            with pq.ParquetWriter(stream, schema) as writer:
                for table in tables:
                    pending.append(table)
                    rows += table.num_rows
                    if sum(one.num_rows for one in pending) >= _ROWS_AT_ONCE:
                        writer.write_table(pa.concat_tables(pending).combine_chunks())
                        pending = []
                if pending:
                    writer.write_table(pa.concat_tables(pending).combine_chunks())
            stream.flush()
            os.fsync(stream.fileno())
        with writing(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _index(out: Path, plan: Sequence[Part], shards: dict[str, str]) -> Iterator[pa.Table]:
    """Yield each part's rows with what the manifest says of their samples; note the shards' digests."""
    for part in plan:
        crops, _, digest = read_part(part, out)
        if not crops.num_rows:
            continue
        shards[part.shard(out).name] = digest
        samples: dict[str, Sample] = {sample.sample_id: sample for sample in part.samples}
        owners = [samples[name] for name in crops["sample_id"].to_pylist()]
        columns: dict[str, Any] = {name: crops[name] for name in crops.schema.names}
        for name in ("dataset", "split", "label", "method", "compression", "group_id"):
            columns[name] = [getattr(owner, name) for owner in owners]
        columns["shard"] = [part.shard(out).name] * crops.num_rows
        columns["row"] = list(range(crops.num_rows))
        yield pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


def _report(
    out: Path, plan: Sequence[Part], manifest: Manifest, outcomes: Counter[str]
) -> Iterator[pa.Table]:
    for part in plan:
        report = read_part(part, out)[1].replace_schema_metadata(None)
        outcomes.update(report["outcome"].to_pylist())
        yield report
    skipped = [
        {"sample_id": "", "path": one.path, "outcome": "skipped", "detail": one.reason,
         "num_frames": 0, "num_crops": 0}
        for one in manifest.skipped
    ]  # fmt: skip
    if skipped:
        outcomes["skipped"] = len(skipped)
        yield pa.Table.from_pylist(skipped, schema=OUTCOME_SCHEMA)


def _remove_others(out: Path, plan: Sequence[Part]) -> None:
    """Remove the parts of a former state of the data set, and what interrupted runs left."""
    kept = {path for part in plan for path in (part.shard(out), part.index(out), part.report(out))}
    kept |= {out / "parts" / "inputs.json", out / "parts" / "manifest.parquet"}
    for folder in ("shards", "parts"):
        for path in (out / folder).glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)
