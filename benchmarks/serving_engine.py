"""python -m benchmarks.serving_engine [--quick] --json: ONNX Runtime against PyTorch on a CPU, same detector.

What is timed is what the server runs: a batch in, logits and features out. PyTorch's side is the served twin
(batch norm folded, channels-last); plain PyTorch is shown beside it. The engines take turns, so that what
else the machine does falls on both. Each has the same threads. `moved` is the largest difference of P(fake).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.models.export import ONNX_FILE, write_onnx
from dfcore.models.golden import GOLDEN_FILE, write_golden
from dfcore.monitoring.signals import look
from dfcore.provenance import versions
from serving.engine import OnnxDetector, TorchDetector

__all__ = ["measure"]

_DETECTORS = (("efficientnet_b0", 224), ("xception", 299), ("efficientvit", 224))
_QUICK = (("mobilenetv3_small_050", 64),)
_BATCHES = (1, 4, 16)


def engines(backbone: str, size: int, folder: Path) -> dict[str, Detector]:
    """Build one detector in each engine."""
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=size), seed=0).eval()
    write_golden(folder / GOLDEN_FILE, detector)
    write_onnx(folder / ONNX_FILE, detector, folder / GOLDEN_FILE)
    return {
        "onnxruntime": OnnxDetector(detector, folder / ONNX_FILE),
        "torch": TorchDetector(detector),
        "torch_plain": detector,
    }


@torch.inference_mode()
def compare(rivals: Mapping[str, Detector], size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Time one batch size in turns.

    Returns:
        Milliseconds a pass (median and quartiles) by engine, `ratio` and `moved`.
    """
    images = torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(batch))
    scores = {name: look(rival, images)[0].sigmoid() for name, rival in rivals.items()}
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            began = time.perf_counter()
            look(rival, images)
            times[name].append(1e3 * (time.perf_counter() - began))
    rows = {
        name: [round(value, 3) for value in statistics.quantiles(taken, n=4)] for name, taken in times.items()
    }
    return {
        "batch": batch,
        "milliseconds": rows,
        "ratio": round(rows["torch"][1] / rows["onnxruntime"][1], 3),
        "moved": float((scores["onnxruntime"] - scores["torch_plain"]).abs().max()),
    }


def measure(quick: bool, threads: int) -> dict[str, Any]:
    """Run all detectors and batch sizes.

    Returns:
        The benchmark's document; its figures are those of the first detector, one image at a time.
    """
    import onnxruntime

    torch.set_num_threads(threads)
    rounds = 5 if quick else 60
    rows = []
    for backbone, size in _QUICK if quick else _DETECTORS:
        with tempfile.TemporaryDirectory() as folder:
            rivals = engines(backbone, size, Path(folder))
            for batch in _BATCHES:
                found = compare(rivals, size, batch, max(3, rounds // batch))
                rows.append({"backbone": backbone, "image_size": size, **found})
    first = rows[0]["milliseconds"]
    return {
        "name": "serving_engine", "unit": "crops/s, one at a time", "ratio": rows[0]["ratio"],
        "ours": round(1e3 / first["onnxruntime"][1], 2), "peer": round(1e3 / first["torch"][1], 2),
        "repetitions": rounds, "threads": threads, "cores": os.cpu_count(), "quick": quick, "rows": rows,
        "versions": {**versions(), "onnxruntime": onnxruntime.__version__},
    }  # fmt: skip


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_engine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny detector, few rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = measure(options.quick, options.threads)
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
