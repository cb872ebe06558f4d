"""From a manifest to a crop store: decode, detect, crop; resumable, and no work twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dfcore.data.manifest import Manifest, Sample, write_table
from dfcore.data.store import INDEX_SCHEMA, STORE_KIND, STORE_VERSION, CropStore
from dfcore.errors import DataError, MediaError
from dfcore.preprocessing import (
    MTCNN,
    FaceCrop,
    Frame,
    PreprocessingConfig,
    blur,
    crop_tracked,
    decode_image,
    decode_video,
    is_video,
)
from dfcore.provenance import digest_json, sha256_file, versions

__all__ = ["prepare"]

logger = logging.getLogger(__name__)

# Samples of one shard, the unit that a broken-off run does not repeat; and of one detection batch.
_SHARD_SAMPLES, _BATCH_SAMPLES = 64, 8

_REPORT_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("outcome", pa.string()), ("detail", pa.string()),
     ("num_frames", pa.int64()), ("num_crops", pa.int64())]
)  # fmt: skip


class _Input(NamedTuple):
    """One sample after decoding; without frames `outcome` says why."""

    sample: Sample
    frames: list[Frame]
    outcome: str
    detail: str


def prepare(
    manifest: Manifest,
    out: Path,
    config: PreprocessingConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> CropStore:
    """Fill a crop store; a second call with the same manifest and settings does no work.

    A run that was broken off goes on where it stopped. An input that can't be read, was altered since the
    scan, or shows no face is no error: `report.parquet` names it.

    Args:
        manifest: what to read.
        out: the store's folder.
        config: how faces are cut out.
        progress: called with (samples done, samples in all).

    Returns:
        The finished store.

    Raises:
        DataError: `out` holds other content, or no input shows a face.
    """
    out = Path(out)
    inputs = {"manifest": manifest.digest, "config": config.model_dump(mode="json"), "version": STORE_VERSION}
    if not _claim(out, inputs):
        return CropStore.open(out)
    total = len(manifest.samples)
    for folder in ("shards", "parts"):
        (out / folder).mkdir(exist_ok=True)
    mtcnn: MTCNN | None = None
    for start in range(0, total, _SHARD_SAMPLES):
        samples = manifest.samples[start : start + _SHARD_SAMPLES]
        name = f"{start // _SHARD_SAMPLES:05d}"
        if not (out / "parts" / f"{name}.report.parquet").is_file():
            mtcnn = mtcnn or MTCNN("cuda" if torch.cuda.is_available() else "cpu")
            tick = None if progress is None else _shifted(progress, start, total)
            _prepare_part(out, name, _cropped(samples, manifest.root, mtcnn, config, tick))
        if progress is not None:
            progress(start + len(samples), total)
    manifest.write(out / "manifest.parquet")
    return _finish(out, inputs)


def _shifted(progress: Callable[[int, int], None], start: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(start + done, total)


def _claim(out: Path, inputs: dict[str, Any]) -> bool:
    """Mark the folder as ours; say whether work is left.

    Raises:
        DataError: it holds something else.
    """
    mark, text = out / "inputs.json", json.dumps(inputs, indent=2, sort_keys=True)
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) != inputs:
            raise DataError(
                f"expected {out} to be new or made from the same manifest and settings, got another store; "
                "choose another folder or remove it"
            )
        return not (out / "store.json").is_file()
    if out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"expected {out} to be new, empty or a crop store, got other files; choose another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(mark, text.encode())
    return True


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _read(root: Path, sample: Sample, config: PreprocessingConfig) -> _Input:
    try:
        data = (root / sample.path).read_bytes()
    except OSError as error:
        return _Input(sample, [], "missing", str(error.strerror))
    if hashlib.sha256(data).hexdigest() != sample.sha256:
        return _Input(sample, [], "altered", "the file is not the one that was scanned")
    try:
        if is_video(data):
            return _Input(sample, decode_video(data, config.frames_per_video), "ok", "")
        return _Input(sample, [Frame(decode_image(data), 0, 0.0)], "ok", "")
    except MediaError as error:
        return _Input(sample, [], "unreadable", str(error))


def _cropped(
    samples: Sequence[Sample], root: Path, mtcnn: MTCNN, config: PreprocessingConfig,
    tick: Callable[[int], None] | None,
) -> Iterator[tuple[_Input, list[FaceCrop]]]:  # fmt: skip
    """Yield each sample with its crops; videos decode side by side, their frames are searched together."""
    with ThreadPoolExecutor(max_workers=min(_BATCH_SAMPLES, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _BATCH_SAMPLES):
            batch = samples[start : start + _BATCH_SAMPLES]
            inputs = list(pool.map(lambda sample: _read(root, sample, config), batch))
            faces = mtcnn.detect([f.image for one in inputs for f in one.frames], min_face=config.min_face)
            for one in inputs:
                own, faces = faces[: len(one.frames)], faces[len(one.frames) :]
                yield one, crop_tracked(one.frames, own, config)
            if tick is not None:
                tick(start + len(batch))


def _prepare_part(out: Path, name: str, results: Iterator[tuple[_Input, list[FaceCrop]]]) -> None:
    """Write a shard, its index, and last the report that marks the part as done."""
    images: list[NDArray[np.uint8]] = []
    index: list[dict[str, Any]] = []
    report: list[dict[str, Any]] = []
    for one, crops in results:
        outcome = one.outcome if crops or one.outcome != "ok" else "no_face"
        if outcome != "ok":
            logger.warning("%s: %s %s", one.sample.sample_id, outcome, one.detail)
        report.append(
            {"sample_id": one.sample.sample_id, "outcome": outcome, "detail": one.detail,
             "num_frames": len(one.frames), "num_crops": len(crops)}
        )  # fmt: skip
        for crop in crops:
            index.append(_row(one.sample, crop) | {"shard": f"{name}.npy", "row": len(images)})
            images.append(crop.image)
    if images:
        temporary = out / "shards" / f".{name}.{os.getpid()}"
        with temporary.open("wb") as stream:
            np.save(stream, np.stack(images), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out / "shards" / f"{name}.npy")
    write_table(pa.Table.from_pylist(index, schema=INDEX_SCHEMA), out / "parts" / f"{name}.index.parquet")
    write_table(pa.Table.from_pylist(report, schema=_REPORT_SCHEMA), out / "parts" / f"{name}.report.parquet")


def _row(sample: Sample, crop: FaceCrop) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(sample).items() if key not in ("path", "sha256")}
    box = crop.face.box
    return kept | {
        "crop_id": f"{sample.sample_id}#{crop.frame_index}",
        "frame_index": crop.frame_index,
        "timestamp": crop.timestamp,
        "box": box.tolist(),
        "landmarks": crop.landmarks.reshape(-1).tolist(),
        "confidence": crop.face.confidence,
        "face_size": float(max(box[2] - box[0], box[3] - box[1])),
        "blur": blur(crop.image),
    }


def _finish(out: Path, inputs: dict[str, Any]) -> CropStore:
    """Join the parts, and write store.json last."""
    for kind in ("index", "report"):
        parts = sorted((out / "parts").glob(f"*.{kind}.parquet"))
        write_table(pa.concat_tables([pq.read_table(part) for part in parts]), out / f"{kind}.parquet")
    if not pq.read_metadata(out / "index.parquet").num_rows:
        raise DataError(f"expected a face in at least one input, got none; see {out / 'report.parquet'}")
    shards = {path.name: sha256_file(path) for path in sorted((out / "shards").glob("*.npy"))}
    header = {
        "kind": STORE_KIND,
        "version": STORE_VERSION,
        "digest": digest_json({"inputs": inputs, "shards": shards}),
        "manifest": inputs["manifest"],
        "config": inputs["config"],
        "shards": shards,
        "versions": versions(),
    }
    _write(out / "store.json", json.dumps(header, indent=2, sort_keys=True).encode())
    return CropStore.open(out)
