"""python -m benchmarks.blur_flow_cost [--quick] --json: one step of the blur and the flow attack.

The yardstick is one forward pass and one backward pass to the input of the same detector on the same batch
(EfficientNet-B0, fp32, as it is and with batch norm folded, which makes the yardstick shorter). A step
renders the images, takes that same gradient, brings it back to the map and moves the map. The variants take
turns, so that a busy machine slows all alike; the processor's time stands beside the clock's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from dfcore.attacks import Flow, PixelBlur
from dfcore.attacks.parametric import MapAttack
from dfcore.models import Detector, DetectorConfig, build_detector, crafting_mode, fold_batch_norm
from dfcore.provenance import versions

__all__ = ["measure"]

LIMIT = 1.3
"""Forward-backward pairs that one step may cost."""

_BATCH = 8


def steps_of(detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed: the plain pair and one step of each attack, from a map already on its way."""

    def prepare(attack: MapAttack) -> Callable[[], Any]:
        render = attack.renderer(images)
        maps = attack.bound(attack.begin(images, torch.Generator(images.device).manual_seed(0)))
        _, _, moved = attack.climb(detector, render, maps, labels, 0.5)
        return lambda: attack.climb(detector, render, moved, labels, 0.5)

    blur = PixelBlur()
    return {
        "pair": lambda: blur.gradient(detector, images, labels, 0.5),
        "blur": prepare(blur),
        "flow": prepare(Flow()),
    }


def measure(detector: Detector, image_size: int, repetitions: int, device: str) -> dict[str, Any]:
    """Time a pair, a blur step and a flow step in turns.

    Args:
        detector: in eval.
        image_size: in pixels.
        repetitions: timed rounds, two or more, after two that warm up.
        device: "cpu" or "cuda".

    Returns:
        Median and quartiles in milliseconds, and each step in pairs: the median of the rounds' ratios.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_BATCH, 3, image_size, image_size), generator=generator).to(device)
    labels = (torch.arange(_BATCH) % 2).to(device)
    clock: dict[str, list[float]] = {"pair": [], "blur": [], "flow": []}
    processor: dict[str, list[float]] = {name: [] for name in clock}
    with crafting_mode(detector):
        timed = steps_of(detector, images, labels)
        for _ in range(repetitions + 2):
            for name, step in timed.items():
                _wait(device)
                started, used = time.perf_counter(), time.process_time()
                step()
                _wait(device)
                clock[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
    clock, processor = ({n: v[2:] for n, v in found.items()} for found in (clock, processor))
    return {
        "milliseconds": {name: _spread(values) for name, values in clock.items()},
        "processor_milliseconds": {name: _spread(values) for name, values in processor.items()},
        "pairs": {name: _pairs(clock, name) for name in ("blur", "flow")},
        "processor_pairs": {name: _pairs(processor, name) for name in ("blur", "flow")},
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _pairs(seconds: dict[str, list[float]], name: str) -> float:
    return round(statistics.median(a / b for a, b in zip(seconds[name], seconds["pair"], strict=True)), 3)


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle * 1e3, 2), "low": round(low * 1e3, 2), "high": round(high * 1e3, 2)}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blur_flow_cost", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half the image size, three rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, repetitions = (112, 3) if options.quick else (224, 15)
    plain = build_detector(DetectorConfig(image_size=size)).eval().to(options.device)
    detectors = {"plain": plain, "folded": fold_batch_norm(plain)}
    found = {name: measure(each, size, repetitions, options.device) for name, each in detectors.items()}
    dearest = max(found["plain"]["pairs"].values())
    document = {
        "name": "blur_flow_cost", "unit": "forward-backward pairs a step of the dearer attack",
        "ratio": round(LIMIT / dearest, 3), "ours": dearest, "peer": LIMIT, "within_limit": dearest <= LIMIT,
        "image_size": size, "batch": _BATCH, "repetitions": repetitions, "threads": options.threads,
        "device": options.device, "detectors": found, "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
