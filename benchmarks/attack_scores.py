"""python -m benchmarks.attack_scores --model URI --data STORE [--other STORE] [--quick] --json: sight, cost.

How much the combined attack score sees of attackers who do not know it (PGD and APGD at 8/255: an AUC of .95
is wanted) and of one who does (reported, whatever it is), for each number of squeezed copies; how many clean
crops it flags, also of another corpus than it was fitted on; and what it costs in an image request: JPEG in,
faces found, score out, on one thread, scores on against off, in turns. `make demo` leaves a model and stores.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data as pictures

from dfcore.data import Crops, CropStore
from dfcore.models import DETECTORS, Detector, DetectorConfig, build_detector, load_detector
from dfcore.monitoring import VARIANTS, AttackScorer, build_reference
from dfcore.monitoring.fitting import Attacker
from dfcore.monitoring.scorer import affordable
from dfcore.monitoring.trial import Adaptive, trial
from dfcore.preprocessing import (
    Frame,
    MediaLimits,
    PreprocessingConfig,
    build_face_detector,
    crop_face,
    decode_image,
)
from dfcore.provenance import versions
from rampart.monitor import attackers, fit_reference
from rampart.output import progress_bar

__all__ = ["measure_cost", "measure_sight"]

_SIDES = (512, 1024)
_TARGET_AUC, _TARGET_COST = 0.95, 1.2


def measure_sight(
    detector: Detector, store: CropStore, other: CropStore | None, count: int, quick: bool
) -> dict[str, Any]:
    """Fit on the validation split, attack the test split.

    Args:
        detector: trained on the store's train split.
        store: the corpus.
        other: another corpus, of which clean crops are looked at.
        count: crops attacked at most.
        quick: fewer attackers.

    Returns:
        By number of squeezed copies: the trial, and the share of the other corpus's clean crops flagged.
    """
    reference = fit_reference(detector, store.select(split="val", max_frames_per_video=4))
    crops = _spread(store.select(split="test", max_frames_per_video=1), count)
    foreign = (
        None if other is None else _spread(other.select(split="test", max_frames_per_video=2), 4 * count)
    )
    found: dict[str, Any] = {"reference_bytes": len(json.dumps(reference["attack_scores"]))}
    blind: dict[str, _Once] = {}
    for squeezers in VARIANTS if not quick else VARIANTS[-1:]:
        scorer = AttackScorer(detector, reference, squeezers)
        chosen = attackers(scorer, quick=quick)
        for name, one in chosen.items():
            if not isinstance(one, Adaptive):  # blind to the scores: the same images for every variant
                chosen[name] = blind.setdefault(name, _Once(one))
        done = f"{detector.config.backbone}, {len(squeezers)} copies: attackers"
        with progress_bar(done) as progress:
            result = trial(scorer, crops, chosen, progress=progress)
        for one in result["attackers"].values():
            del one["roc"]
        if foreign is not None:
            flags = scorer.score(foreign.images).flags
            result["clean"]["other corpus"] = {kind: float(raised.mean()) for kind, raised in flags.items()}
        found[str(len(squeezers))] = result
    return found


def measure_cost(detector: Detector, side: int, rounds: int) -> dict[str, Any]:
    """Time image requests with and without attack scores, in turns.

    Args:
        detector: whose weights do not matter here.
        side: of the image, in pixels.
        rounds: timed.

    Returns:
        Milliseconds of the processor a request by number of squeezed copies ("off" has no scores at all), the
        ratio to "off", and which number the server takes by itself.
    """
    size = detector.config.image_size
    stream = io.BytesIO()
    picture = pictures.astronaut()  # type: ignore[no-untyped-call]  # scikit-image leaves it bare
    Image.fromarray(picture).resize((side, side)).save(stream, "JPEG", quality=90)
    image = stream.getvalue()
    faces = build_face_detector(PreprocessingConfig(image_size=size), "cpu")
    noise = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    names = np.array([f"p{row}" for row in range(32)])
    reference = build_reference(
        detector,
        Crops(noise, np.arange(32) % 2, names, names, names, names, np.zeros((32, 5, 2), np.float32)),
    )

    def request(score: Callable[[np.ndarray], object]) -> None:
        decoded = decode_image(image, MediaLimits())
        (boxes,) = faces.detect([decoded], min_face=40)
        score(np.stack([crop_face(Frame(decoded, 0, 0.0), box, size, 0.3).image for box in boxes[:1]]))

    ways: dict[str, Callable[[np.ndarray], object]] = {"off": lambda crops: _plain(detector, crops)}
    ways |= {str(len(one)): AttackScorer(detector, reference, one).score for one in VARIANTS}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            request(way)
            if turn:
                used[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in used.items()}
    return {
        "milliseconds": {name: round(value * 1e3, 2) for name, value in medians.items()},
        "ratio": {name: round(value / medians["off"], 3) for name, value in medians.items() if name != "off"},
        "chosen": len(affordable(detector)),
    }


class _Once:
    """An attacker whose images are made once and handed out again to the same crops."""

    def __init__(self, attacker: Attacker) -> None:
        self._attacker = attacker
        self._made: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        for clean, struck in self._made:
            if torch.equal(clean, images):
                return struck
        struck = self._attacker(detector, images, labels, threshold=threshold, generator=generator)
        self._made.append((images, struck))
        return struck


@torch.inference_mode()
def _plain(detector: Detector, crops: np.ndarray) -> torch.Tensor:
    logits: torch.Tensor = detector(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
    return logits.sigmoid()


def _spread(crops: Crops, count: int) -> Crops:
    count = min(count, len(crops))
    return crops.subset([row * len(crops) // count for row in range(count)])


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack_scores", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or address of a trained detector")
    parser.add_argument("--data", required=True, help="crop store that it was trained on")
    parser.add_argument("--other", help="crop store of another corpus")
    parser.add_argument("--quick", action="store_true", help="48 crops, 8/255 only, all copies only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = load_detector(options.model)
    other = CropStore.open(options.other) if options.other else None
    store = CropStore.open(options.data if "://" in options.data else Path(options.data))
    sight = measure_sight(detector, store, other, 48 if options.quick else 96, options.quick)
    shown = {detector.config.backbone: detector.config, "efficientnet_b0": DETECTORS["efficientnet_b0"]}
    cost = {
        name: {str(side): _cost_of(config, side, 5 if options.quick else 15) for side in _SIDES}
        for name, config in shown.items()
    }
    static = {
        f"{name}, {copies} copies": one["signs"]["combined"]["auc"]
        for copies, result in sight.items() if isinstance(result, dict)
        for name, one in result["attackers"].items() if name in ("pgd 8/255", "apgd 8/255")
    }  # fmt: skip
    ratios = [one["ratio"][str(one["chosen"])] for sides in cost.values() for one in sides.values()]
    document = {
        "name": "attack_scores", "unit": "AUC of the combined score, static attackers at 8/255, worst",
        "ours": min(static.values()), "peer": _TARGET_AUC,
        "ratio": round(min(static.values()) / _TARGET_AUC, 3),
        "worst_cost_ratio": max(ratios), "cost_wanted": _TARGET_COST, "sight": sight, "cost": cost,
        "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


def _cost_of(config: DetectorConfig, side: int, rounds: int) -> dict[str, Any]:
    return measure_cost(build_detector(config, seed=0).eval(), side, rounds)


if __name__ == "__main__":
    main()
