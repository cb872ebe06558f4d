"""python -m benchmarks.prepare_scale [--quick] --json: ten times the videos, ten times the time.

Prepares 20 and 200 videos (H.264, 256 px, 16 frames, one face), each in a process of its own that has
prepared two others before, so that loading torch is not counted. `ours` is the larger set's time by ten times
the smaller one's, the median over repetitions; the time is that of the CPU, wall time stands beside it and
depends on what else the machine does. `memory` is the ratio of the two peaks of resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dfcore.provenance import versions

FEW, FACTOR = 20, 10
SIDE, FRAMES = 256, 16
TIME_BOUND, MEMORY_BOUND = 0.15, 0.10


def make_corpus(root: Path, count: int, *, first: int = 0, side: int = SIDE, frames: int = FRAMES) -> Path:
    """Write `count` videos of a face, each another one, as real/ and fake/ in train/, val/ and test/."""
    import skimage.data

    from dfcore.preprocessing import encode_video

    portrait = skimage.data.astronaut()[:320, 60:380]  # type: ignore[no-untyped-call]  # skimage has no types
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        face = cv2.resize(portrait, (side + frames, side + frames), interpolation=cv2.INTER_AREA)
        light = rng.uniform(0.6, 1.2, 3)
        moved = [face[step : step + side, step // 2 : step // 2 + side] for step in range(frames)]
        clip = np.stack([np.clip(image * light, 0, 255) for image in moved]).astype(np.uint8)
        split = ("train", "train", "train", "val", "test")[number % 5]
        label = ("real", "fake")[number // 5 % 2]
        encode_video(root / split / label / f"person{number:05d}__take.mp4", clip)
    return root


def measure(root: Path, warm: Path, out: Path) -> dict[str, float]:
    """Prepare a corpus in this process and return what it took."""
    from dfcore.data import prepare, scan
    from dfcore.preprocessing import PreprocessingConfig

    config = PreprocessingConfig(image_size=96)
    prepare(scan(warm), out / "warm", config)
    manifest = scan(root)
    cpu, wall = time.process_time(), time.perf_counter()
    store = prepare(manifest, out / "store", config)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"videos": len(manifest.samples), "crops": len(store), "cpu": cpu, "wall": wall, "peak_mib": peak}


def _in_a_process(root: Path, warm: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=root.parent) as out:
        command = [sys.executable, "-m", "benchmarks.prepare_scale", "--measure", str(root), str(warm), out]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def run(repetitions: int) -> dict[str, Any]:
    """Measure both corpora in turns and return the document."""
    with tempfile.TemporaryDirectory(prefix="prepare-scale-") as folder:
        home = Path(folder)
        warm = make_corpus(home / "warm", 10, first=100_000)
        few = make_corpus(home / "few", FEW)
        many = make_corpus(home / "many", FEW * FACTOR)
        pairs = [(_in_a_process(few, warm), _in_a_process(many, warm)) for _ in range(repetitions)]
    ratios = {name: [many[name] / (FACTOR * few[name]) for few, many in pairs] for name in ("cpu", "wall")}
    memory = statistics.median(many["peak_mib"] / few["peak_mib"] for few, many in pairs)
    ours = statistics.median(ratios["cpu"])
    return {
        "name": "prepare_scale",
        "ours": round(ours, 4),
        "unit": f"CPU time for {FACTOR} times the videos by {FACTOR} times the CPU time",
        "bound": [1 - TIME_BOUND, 1 + TIME_BOUND],
        "passed": abs(ours - 1) <= TIME_BOUND and memory <= 1 + MEMORY_BOUND,
        "wall": round(statistics.median(ratios["wall"]), 4),
        "memory": round(memory, 4),
        "memory_bound": 1 + MEMORY_BOUND,
        "repetitions": repetitions,
        "spread": [round(min(ratios["cpu"]), 4), round(max(ratios["cpu"]), 4)],
        "runs": pairs,
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line and write the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_scale")
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--json", action="store_true", help="accepted; the output always is JSON")
    parser.add_argument(
        "--measure", nargs=3, type=Path, metavar=("ROOT", "WARM", "OUT"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    document = measure(*options.measure) if options.measure else run(1 if options.quick else 3)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
