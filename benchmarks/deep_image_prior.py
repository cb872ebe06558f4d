"""python -m benchmarks.deep_image_prior --model URI --data STORE [--robust URI] --json: purifying, its cost.

PGD-20 attacks a detector that does not defend itself; Deep Image Prior rebuilds each image, attacked or
clean, before the same detector looks again. Beside it stands a detector that was trained to resist, under an
attack of its own and without any of this. The attacker of the first knows nothing of the reconstruction,
which flatters it: one who does asks for a change that survives smoothing. An image takes minutes to an hour,
so that images are few and intervals wide. `make demo` leaves both models and a store.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.defences import balanced
from dfcore.attacks import PGD
from dfcore.data import Crops, CropStore
from dfcore.defences import DeepImagePrior
from dfcore.evaluation import measure
from dfcore.models import Detector, load_detector
from dfcore.provenance import versions
from rampart.output import progress_bar

__all__ = ["compare"]

_ATTACK = PGD(epsilon=4 / 255, step_size=1 / 255, steps=20)
_TOGETHER = 4  # images fitted side by side
_SMALLEST_MAP = 4  # of the published five levels, small crops have room for fewer


def compare(
    detector: Detector, robust: Detector | None, crops: Crops, iterations: int, seed: int = 0
) -> dict[str, Any]:
    """Measure a detector with and without Deep Image Prior before it, and a robust one without.

    Args:
        detector: undefended.
        robust: trained to resist, or None.
        crops: of both classes, in the size of both detectors.
        iterations: of each fit.
        seed: of attacks and fits.

    Returns:
        AUC and accuracy with their intervals by what was looked at; the reconstructions' PSNR against what
        they were made from, and seconds an image.
    """
    images = crops.tensor()
    levels = min(DeepImagePrior().levels, (min(images.shape[2:]) // _SMALLEST_MAP).bit_length() - 1)
    prior = DeepImagePrior(iterations=iterations, levels=levels)
    seen = {"clean": images, "attacked": _attacked(detector, images, crops, seed)}
    figures: dict[str, dict[str, list[float]]] = {}
    psnr: dict[str, float] = {}
    seconds: list[float] = []
    for name, given in seen.items():
        figures[name] = _figures(detector, given, crops)
        generator = torch.Generator().manual_seed(seed)
        fits = []
        for number, part in enumerate(torch.split(given, _TOGETHER)):
            with progress_bar(f"{name}, from image {number * _TOGETHER + 1} of {len(given)}") as progress:
                fits.append(prior.reconstruct(part, generator, progress))
            seconds.append(fits[-1].seconds_per_image)
        figures[f"{name}, purified"] = _figures(detector, torch.cat([fit.images for fit in fits]), crops)
        psnr[name] = round(float(torch.cat([fit.psnr for fit in fits]).mean()), 2)
    if robust is not None:
        figures["robust, clean"] = _figures(robust, images, crops)
        figures["robust, attacked"] = _figures(robust, _attacked(robust, images, crops, seed), crops)
    return {
        "figures": figures, "psnr": psnr, "seconds_per_image": round(float(np.median(seconds)), 2),
        "settings": prior.model_dump(mode="json"), "attack": _ATTACK.describe(), "images": len(images),
        "image_size": images.shape[-1],
    }  # fmt: skip


def _attacked(detector: Detector, images: torch.Tensor, crops: Crops, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(crops.labels)
    return _ATTACK(detector, images, labels, threshold=detector.threshold, generator=generator)


@torch.no_grad()
def _figures(detector: Detector, images: torch.Tensor, crops: Crops) -> dict[str, list[float]]:
    scores = detector(images).double().sigmoid().numpy()
    found = measure(scores, crops.labels, crops.video_ids, threshold=detector.threshold)
    return {name: [round(value, 4) for value in found[name]] for name in ("auc", "accuracy")}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deep_image_prior", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or address of an undefended detector")
    parser.add_argument("--robust", help="folder or address of a robust one, for crops of the same size")
    parser.add_argument("--data", required=True, help="crop store; one crop a video of its test split")
    parser.add_argument("--images", type=int, default=16, help="half of each class")
    parser.add_argument("--iterations", type=int, default=DeepImagePrior().iterations, help="as published")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = CropStore.open(options.data if "://" in options.data else Path(options.data))
    crops = balanced(store.select(split="test", max_frames_per_video=1), options.images, seed=0)
    robust = load_detector(options.robust) if options.robust else None
    found = compare(load_detector(options.model), robust, crops, options.iterations)
    purified = found["figures"]["attacked, purified"]["auc"][0]
    ours = found["figures"]["robust, attacked"]["auc"][0] if robust else None
    document = {
        "name": "deep_image_prior", "unit": "AUC under PGD-20 at 4/255", "ours": ours, "peer": purified,
        "ratio": round(ours / purified, 3) if ours is not None and purified else None,
        "threads": options.threads, **found, "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
