"""python -m benchmarks.folding [--quick] [--compile] --json: one crafting step, folded and as it is.

A crafting step is a forward pass and the gradient to the input, fp32, on the CPU. The peer is the detector
in `crafting_mode`, in the memory layout of its training (channels-last); PyTorch's default layout and, on
demand, the compiled twin are measured beside them. The variants take turns, so that a busy machine slows all
alike, and the processor's time stands beside the clock's.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from typing import Any

import torch

from dfcore.models import DETECTORS, Detector, build_detector, crafting_mode, fold_batch_norm
from dfcore.provenance import versions

__all__ = ["measure"]

_BATCH = {"efficientnet_b0": 8, "xception": 4}


def crafting_step(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the summed logits to the images, (N, 3, H, W) float32."""
    with crafting_mode(detector):
        pixels = images.clone().requires_grad_()
        return torch.autograd.grad(detector(pixels).sum(), pixels)[0]


def variants(name: str, compiled: bool) -> dict[str, Detector]:
    """Return the same detector in each of the forms that are compared."""
    contiguous = build_detector(DETECTORS[name]).eval()
    channels_last = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
    found: dict[str, Detector] = {
        "contiguous": contiguous,
        "channels_last": channels_last,
        "folded": fold_batch_norm(channels_last),
    }
    if compiled:
        twin = fold_batch_norm(channels_last)
        twin.backbone.compile()  # in place: names stay, and so does `refresh`
        found["folded_compiled"] = twin
    return found


def measure(name: str, repetitions: int, compiled: bool = False, scale: float = 1.0) -> dict[str, Any]:
    """Time every variant of one detector.

    Args:
        name: of a detector in `DETECTORS`.
        repetitions: timed rounds, two or more, after one that warms up.
        compiled: measure the compiled twin too.
        scale: of the image size; below 1 for a quick look.

    Returns:
        Median and quartiles in milliseconds a step, by the clock and of the processor, and the relative L2
        difference of the gradients.
    """
    size = int(DETECTORS[name].image_size * scale)
    images = torch.rand((_BATCH[name], 3, size, size), generator=torch.Generator().manual_seed(0))
    detectors = variants(name, compiled)
    first, gradients = {}, {}
    for variant, detector in detectors.items():
        started = time.perf_counter()
        gradients[variant] = crafting_step(detector, images)
        first[variant] = round(time.perf_counter() - started, 2)
    clock: dict[str, list[float]] = {variant: [] for variant in detectors}
    processor: dict[str, list[float]] = {variant: [] for variant in detectors}
    for _ in range(repetitions):
        for variant, detector in detectors.items():
            started, used = time.perf_counter(), time.process_time()
            crafting_step(detector, images)
            clock[variant].append(time.perf_counter() - started)
            processor[variant].append(time.process_time() - used)
    figures = {variant: _spread(values) for variant, values in clock.items()}
    used_figures = {variant: _spread(values) for variant, values in processor.items()}
    reference = gradients["channels_last"]
    return {
        "image_size": size, "batch": len(images), "milliseconds": figures,
        "processor_milliseconds": used_figures, "first_call_seconds": first,
        "ratio": _ratio(figures, "channels_last"), "ratio_to_contiguous": _ratio(figures, "contiguous"),
        "processor_ratio": _ratio(used_figures, "channels_last"),
        "processor_ratio_to_contiguous": _ratio(used_figures, "contiguous"),
        "gradient_difference": max(
            float((gradient - reference).norm() / reference.norm()) for gradient in gradients.values()
        ),
    }  # fmt: skip


def _ratio(figures: dict[str, dict[str, float]], peer: str) -> float:
    return round(figures[peer]["median"] / figures["folded"]["median"], 3)


def _spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    found = {"median": statistics.median(values), "low": low, "high": high}
    return {name: round(value * 1e3, 1) for name, value in found.items()}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folding", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half the image size, three rounds")
    parser.add_argument("--compile", action="store_true", help="the compiled twin too; takes minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repetitions, scale = (3, 0.5) if options.quick else (15, 1.0)
    found = {name: measure(name, repetitions, options.compile, scale) for name in _BATCH}
    document = {
        "name": "folding", "unit": "ms a crafting step",
        "ratio": found["efficientnet_b0"]["ratio"],
        "ours": found["efficientnet_b0"]["milliseconds"]["folded"]["median"],
        "peer": found["efficientnet_b0"]["milliseconds"]["channels_last"]["median"],
        "repetitions": repetitions, "threads": options.threads, "detectors": found, "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
