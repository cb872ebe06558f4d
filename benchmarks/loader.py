"""python -m benchmarks.loader [--quick] --json: crops a second of the training input, by where the crops lie.

The peer is the usual way: one PNG file a crop, decoded by the workers of a torch DataLoader, mirrored and
scaled by torchvision's transforms. Both give float32 batches in [0, 1] on the CPU, half of them mirrored.
"bytes" is what is left for the host where a device scales and mirrors: uint8 batches. The ways take turns, so
that a busy machine slows all alike. Before a "cold" round the files are dropped from the system's cache; the
other rounds read what is cached.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from skimage.data import astronaut
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_image
from torchvision.transforms import v2

from dfcore.data import CropStore
from dfcore.data.augmentation import PRESETS, augment
from dfcore.data.loader import CropLoader, SplitCrops
from dfcore.data.sampling import SamplingConfig
from dfcore.data.store import INDEX_SCHEMA, STORE_KIND, STORE_VERSION
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import versions

_SIDE, _BATCH, _PER_SHARD, _WORKERS = 224, 64, 256, 2
_CPU = torch.device("cpu")


class PngCrops(Dataset[tuple[torch.Tensor, int]]):
    """One file a crop; the label is its number's last bit."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return the image (3, H, W) float32 in [0, 1] and its label."""
        return self.transform(decode_image(str(self.paths[index]))), index % 2


def photographs(count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield crops (H, W, 3) uint8 of a photograph, each from another place and enlarged differently."""
    source, rng = astronaut(), np.random.default_rng(0)  # type: ignore[no-untyped-call]  # scikit-image has no types
    for _ in range(count):
        side = int(rng.integers(150, 400))
        top, left = rng.integers(0, 512 - side, 2)
        yield cv2.resize(source[top : top + side, left : left + side], (_SIDE, _SIDE)).astype(np.uint8)


def write_inputs(folder: Path, count: int) -> tuple[CropStore, list[Path]]:
    """Write the same crops as a store and as PNG files."""
    rows, paths = [], []
    (folder / "store" / "shards").mkdir(parents=True)
    (folder / "png").mkdir()
    images = np.stack(list(photographs(count)))
    for number, image in enumerate(images):
        paths.append(folder / "png" / f"{number:06d}.png")
        cv2.imwrite(str(paths[-1]), image[:, :, ::-1])
        rows.append({
            "crop_id": str(number), "sample_id": str(number), "dataset": "photograph", "split": "train",
            "label": number % 2, "method": "swap" if number % 2 else "original", "compression": "raw",
            "group_id": str(number), "shard": f"{number // _PER_SHARD}.npy", "row": number % _PER_SHARD,
        })  # fmt: skip
    for shard, start in enumerate(range(0, count, _PER_SHARD)):
        np.save(folder / "store" / "shards" / f"{shard}.npy", images[start : start + _PER_SHARD])
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / "store" / "index.parquet")
    header = {
        "kind": STORE_KIND, "version": STORE_VERSION, "digest": "", "shards": {}, "files": {},
        "config": PreprocessingConfig(image_size=_SIDE).model_dump(mode="json"),
    }  # fmt: skip
    (folder / "store" / "store.json").write_text(json.dumps(header), encoding="utf-8")
    return CropStore.open(folder / "store"), paths


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the system's cache."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ways(store: CropStore, paths: list[Path]) -> dict[str, Callable[[int], int]]:
    """Return what runs one epoch, by name, each returning the crops it gave out."""
    config = SamplingConfig(batch_size=_BATCH, sampling="natural", shuffle_window=512)
    shards = sorted((store.path / "shards").iterdir())
    loaders = {
        residence: CropLoader(
            SplitCrops(store, store.rows(), device=_CPU, residence=residence), config, seed=0
        )
        for residence in ("memory", "stream")
    }
    peer = DataLoader(
        PngCrops(paths), batch_size=_BATCH, shuffle=True, drop_last=True, num_workers=_WORKERS,
        persistent_workers=True,
    )  # fmt: skip

    def ours(residence: str, epoch: int) -> int:
        draws = torch.Generator().manual_seed(epoch)
        batches = loaders[residence].epoch(epoch)
        return sum(len(augment(batch.images, PRESETS["light"], draws)) for batch in batches)

    def pixels(residence: str, epoch: int) -> int:
        loader = loaders[residence]
        order = torch.randperm(len(loader), generator=torch.Generator().manual_seed(epoch))
        return sum(len(found) for found in loader.crops.pixels(torch.split(order, _BATCH)))

    def theirs(_: int) -> int:
        return sum(len(images) for images, _ in peer)

    def cold(files: list[Path], run: Callable[[int], int]) -> Callable[[int], int]:
        def cold_run(epoch: int) -> int:
            forget(files)
            return run(epoch)

        return cold_run

    return {
        "memory": lambda epoch: ours("memory", epoch),
        "stream": lambda epoch: ours("stream", epoch),
        "memory_bytes": lambda epoch: pixels("memory", epoch),
        "stream_bytes": lambda epoch: pixels("stream", epoch),
        "stream_cold": cold(shards, lambda epoch: ours("stream", epoch)),
        "png": theirs,
        "png_cold": cold(paths, theirs),
    }


def measure(count: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Return median and quartiles of crops a second for each way."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = ways(*write_inputs(Path(folder), count))
        for epoch in range(repetitions + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                given = run(epoch)
                # the first round starts workers and threads
                if epoch:
                    rates.setdefault(name, []).append(given / (time.perf_counter() - started))
    return {name: _spread(values) for name, values in rates.items()}


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 1), "low": round(low, 1), "high": round(high, 1)}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer crops, three rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count, repetitions = (256, 3) if options.quick else (1024, 9)
    torch.set_num_threads(_WORKERS)
    found = measure(count, repetitions)
    document: dict[str, Any] = {
        "name": "loader", "unit": "crops a second",
        "ratio": round(found["memory"]["median"] / found["png"]["median"], 2),
        "ratio_stream": round(found["stream"]["median"] / found["png"]["median"], 2),
        "ratio_stream_cold": round(found["stream_cold"]["median"] / found["png_cold"]["median"], 2),
        "ratio_memory_bytes": round(found["memory_bytes"]["median"] / found["png"]["median"], 2),
        "ratio_stream_bytes": round(found["stream_bytes"]["median"] / found["png"]["median"], 2),
        "ours": found["memory"]["median"], "peer": found["png"]["median"], "spread": found,
        "repetitions": repetitions, "crops": count, "image_size": _SIDE, "batch": _BATCH,
        "threads": _WORKERS, "workers": _WORKERS, "cpus": os.cpu_count(), "device": "cpu",
        "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
