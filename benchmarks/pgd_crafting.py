"""python -m benchmarks.pgd_crafting [--quick] --json: PGD-10 on one batch, ours against two libraries.

EfficientNet-B0 at 224 px, 8 images, L-infinity, the same ten steps from a random start, fp32. Ours runs as
training and evaluation run it: on the twin with batch norm folded, with gradients to the input only. The
libraries get the same detector as two logits. The attacks take turns, so that a busy machine slows all alike;
each one's mean margin stands beside its time, to show that nobody did less.

foolbox is no dependency of ours: where it is missing, uv (or pip) puts it into a folder of its own for this
run, and if that can't be done the document says why it was left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dfcore.attacks import PGD, TwoLogits, margin
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm
from dfcore.provenance import versions

__all__ = ["measure"]

Craft = Callable[[], torch.Tensor]

_EPSILON, _STEP, _STEPS = 4 / 255, 1 / 255, 10
# its requirements that the rest of the project does not have already
_FOOLBOX = ("foolbox==3.3.4", "eagerpy==0.30.0", "gitpython", "gitdb", "smmap")


def attacks(detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Craft]:
    """Return each attack as a function without arguments; foolbox only if it can be imported."""
    folded = fold_batch_norm(detector)
    last = PGD(epsilon=_EPSILON, step_size=_STEP, steps=_STEPS, keep_best=False)
    best = last.model_copy(update={"keep_best": True})
    two = TwoLogits(detector).eval()
    torchattacks = importlib.import_module("torchattacks")
    theirs = torchattacks.PGD(two, eps=_EPSILON, alpha=_STEP, steps=_STEPS, random_start=True)
    found: dict[str, Craft] = {
        "ours": lambda: last(folded, images, labels),
        "ours_keep_best": lambda: best(folded, images, labels),
        "ours_unfolded": lambda: last(detector, images, labels),
        "torchattacks": lambda: theirs(images, labels),
    }
    if importlib.util.find_spec("foolbox") is not None:
        foolbox = importlib.import_module("foolbox")
        model = foolbox.PyTorchModel(two, bounds=(0, 1), device=str(images.device))
        rival = foolbox.attacks.LinfPGD(abs_stepsize=_STEP, steps=_STEPS, random_start=True)
        found["foolbox"] = lambda: rival(model, images, labels, epsilons=_EPSILON)[1]
    return found


def measure(repetitions: int, size: int, count: int) -> dict[str, Any]:
    """Time every attack.

    Args:
        repetitions: timed rounds, two or more, after one that warms up.
        size: of the images, in pixels.
        count: of the images.

    Returns:
        For each attack median and quartiles in seconds a batch, by the clock and of the processor, and the
        mean margin that it reached.
    """
    detector = build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=size)).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, size, size), generator=generator)
    labels = torch.arange(count) % 2
    rivals = attacks(detector, images, labels)
    reached = {}
    for name, craft in rivals.items():
        torch.manual_seed(0)
        found = craft()
        with torch.no_grad():
            reached[name] = round(float(margin(detector, found, labels, 0.5).mean()), 5)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    processor: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repetitions):
        for name, craft in rivals.items():
            started, used = time.perf_counter(), time.process_time()
            craft()
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
    return {
        name: {**_spread(values), "processor": _spread(processor[name]), "mean_margin": reached[name]}
        for name, values in seconds.items()
    }


def provide_foolbox(folder: str) -> str | None:
    """Make foolbox importable from a folder of its own; returns why it could not be done, or None."""
    if importlib.util.find_spec("foolbox") is not None:
        return None
    beside = Path(sys.executable).parent
    if uv := shutil.which("uv") or shutil.which("uv", path=str(beside)):
        command = [uv, "pip", "install", "--python", sys.executable]
    elif importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install"]
    else:
        return "neither uv nor pip is here to install it"
    try:
        subprocess.run(
            [*command, "--quiet", "--no-deps", "--target", folder, *_FOOLBOX],
            check=True, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        return f"installing it failed: {error.stderr.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired:
        return "installing it took more than 300 seconds"
    sys.path.append(folder)  # last, so that what is pinned stays what is used
    importlib.invalidate_caches()
    return None


def _spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    found = {"median": statistics.median(values), "low": low, "high": high}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pgd_crafting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="96 px, two images, three rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repetitions, size, count = (3, 96, 2) if options.quick else (9, 224, 8)
    with tempfile.TemporaryDirectory(prefix="foolbox-") as folder:
        reason = provide_foolbox(folder)
        found = measure(repetitions, size, count)
    peers = {name: found[name] for name in ("torchattacks", "foolbox") if name in found}
    fastest = min(peers, key=lambda name: peers[name]["median"])
    document = {
        "name": "pgd_crafting", "unit": "s a batch",
        "ratio": round(peers[fastest]["median"] / found["ours"]["median"], 3),
        "ours": found["ours"]["median"], "peer": peers[fastest]["median"], "peer_name": fastest,
        "ratios": {name: round(peer["median"] / found["ours"]["median"], 3) for name, peer in peers.items()},
        "processor_ratios": {
            name: round(peer["processor"]["median"] / found["ours"]["processor"]["median"], 3)
            for name, peer in peers.items()
        },
        "repetitions": repetitions, "spread": found, "image_size": size, "batch": count, "steps": _STEPS,
        "threads": options.threads, "skipped": {"foolbox": reason} if reason else {}, "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
