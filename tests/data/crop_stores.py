"""Small stores in the real format, written directly: pixels, methods and landmarks as a test wants them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dfcore.data import CropStore
from dfcore.data.store import INDEX_SCHEMA, STORE_KIND, STORE_VERSION
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import sha256_file

# Eyes, nose and mouth of a face that fills a crop, as shares of its side.
FACE = np.array([[0.35, 0.38], [0.65, 0.38], [0.5, 0.52], [0.38, 0.68], [0.62, 0.68]], dtype=np.float32)


def write_shards(path: Path, images: np.ndarray, rows: list[dict[str, object]], per_shard: int) -> CropStore:
    """Write images (n, S, S, 3) uint8 and what the index says of them, so many to a shard.

    Each row needs split, label, method and sample_id; everything else has a default.
    """
    defaults: dict[str, object] = {
        "dataset": "made", "compression": "raw", "frame_index": 0, "timestamp": 0.0, "box": [0.0] * 4,
        "landmarks": [float("nan")] * 10, "confidence": 1.0, "face_size": 32.0, "blur": 1.0,
        "blockiness": 0.0,
    }  # fmt: skip
    (path / "shards").mkdir(parents=True)
    table = []
    for number, row in enumerate(rows):
        shard, inside = divmod(number, per_shard)
        place = {
            "crop_id": f"c{number}",
            "group_id": row["sample_id"],
            "shard": f"{shard:03d}.npy",
            "row": inside,
        }
        table.append({**defaults, **place, **row})
    for shard, start in enumerate(range(0, len(images), per_shard)):
        np.save(path / "shards" / f"{shard:03d}.npy", images[start : start + per_shard])
    pq.write_table(pa.Table.from_pylist(table, schema=INDEX_SCHEMA), path / "index.parquet")
    config = PreprocessingConfig(image_size=images.shape[1]).model_dump(mode="json")
    header = {
        "kind": STORE_KIND, "version": STORE_VERSION, "digest": "d" * 64, "config": config,
        "shards": {shard.name: sha256_file(shard) for shard in sorted((path / "shards").iterdir())},
        "files": {"index.parquet": sha256_file(path / "index.parquet")},
    }  # fmt: skip
    (path / "store.json").write_text(json.dumps(header))
    return CropStore.open(path)


def numbered_store(
    path: Path, methods: dict[str, int], *, size: int = 16, per_shard: int = 16, faces: bool = True
) -> CropStore:
    """A store whose n-th crop is known by its pixels: red + 256 * green = n; "real…" methods are real."""
    rows: list[dict[str, object]] = []
    for method, count in methods.items():
        for _ in range(count):
            landmarks = (FACE * size).flatten().tolist() if faces else [float("nan")] * 10
            rows.append({
                "split": "train", "label": int(not method.startswith("real")), "method": method,
                "sample_id": f"s{len(rows)}", "landmarks": landmarks,
            })  # fmt: skip
    numbers = np.arange(len(rows))
    pixels = np.stack([numbers % 256, numbers // 256, 128 + 0 * numbers], axis=1).astype(np.uint8)
    images = np.broadcast_to(pixels[:, None, None], (len(rows), size, size, 3))
    return write_shards(path, np.ascontiguousarray(images), rows, per_shard)
