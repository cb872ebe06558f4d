"""python -m benchmarks.evaluation [--quick] --json: the standard suite's white-box part, and two libraries'.

FGSM, BIM-10 and PGD-20 at 1, 2, 4 and 8/255 on 512 crops of an EfficientNet-B0 at 224 px, trained on the
spot, fp32. Ours is the evaluation as it runs: on the copy with batch norm folded, what a smaller ball settled
is not attacked again, with the guards' extra attacks and every crop scored by the detector itself.
torchattacks and ART attack every crop with every attack at equal budgets, steps and step sizes, on the same
detector as two logits, in batches of 16, which suit them best on a CPU, and before our process keeps freed
memory, which would help them too. They do the same work for every batch, so that a few batches (--peer-crops)
tell the seconds of a crop; ours depend on how many crops there are, as the guards' extra attacks do not grow
with them. The robust accuracy of each is the worst case over its attacks and
smaller budgets, crop by crop, on the crops that everybody attacked; ours must not be higher than anybody's.

`ratio` compares seconds of the processor for a crop, which other work on the machine hardly changes;
`ratios_clock` the clock's. It needs the extra `referee`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dfcore.allocator import keep_freed_memory
from dfcore.attacks import TwoLogits
from dfcore.data import Crops
from dfcore.evaluation import SUITES, Corpus
from dfcore.evaluation.arms import Arms
from dfcore.evaluation.cache import Cache
from dfcore.evaluation.outcomes import CorpusRun, standing
from dfcore.evaluation.referee import PACKAGES, check_installed
from dfcore.evaluation.runner import Runner
from dfcore.models import Detector, DetectorConfig, build_detector, crafting_mode, fold_batch_norm
from dfcore.provenance import versions

LEVELS, BATCH, TARGET = (1, 2, 4, 8), 16, 4.0
WHITE_BOX = tuple(
    item for item in SUITES["standard"]
    if item.kind in ("clean", "fgsm", "bim", "pgd") and item.role == "report" and item.channel is None
)  # fmt: skip
Craft = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_crops(count: int, size: int, seed: int) -> Crops:
    """Draw smooth pictures, four a video; fakes carry a coarse and a fine trace of some grey levels."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) // 4 % 2).astype(np.int64)
    coarse = torch.from_numpy(generator.random((count, 3, 5, 5), dtype=np.float32) * 0.6 + 0.2)
    images = F.interpolate(coarse, size, mode="bicubic").permute(0, 2, 3, 1).numpy().copy()
    rows, columns = np.indices((size, size))
    trace = (
        np.where((rows + columns) % 2, 1, -1) * 0.02 + np.where((rows // 8 + columns // 8) % 2, 1, -1) * 0.03
    )
    images += trace[None, :, :, None] * labels[:, None, None, None]
    images += generator.normal(0, 0.01, images.shape)
    videos = np.array([f"{seed}-{row // 4:04d}" for row in range(count)])
    return Crops(
        images=(np.clip(images, 0, 1) * 255).round().astype(np.uint8),
        labels=labels,
        video_ids=videos,
        methods=np.where(labels == 1, "trace", "real"),
        compressions=np.full(count, "raw"),
        group_ids=videos,
        landmarks=np.zeros((count, 5, 2), dtype=np.float32),
    )


def make_detector(size: int, steps: int) -> Detector:
    """Train an EfficientNet-B0 on other pictures of the same kind."""
    torch.manual_seed(0)
    detector = build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=size))
    crops = make_crops(16 * steps, size, seed=1)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    detector.train()
    order = torch.randperm(len(crops))
    for rows in torch.split(order, 16):
        # smoothed: beyond a logit of 17 the libraries' cross-entropy has no gradient left to follow
        labels = torch.from_numpy(crops.labels[rows.numpy()]).float() * 0.9 + 0.05
        loss = F.binary_cross_entropy_with_logits(detector(crops.tensor("cpu", rows.numpy())), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    # the running statistics of so short a training lag behind: take those of the crops themselves
    with torch.no_grad():
        for _ in range(3):
            for rows in torch.split(order, 64):
                detector(crops.tensor("cpu", rows.numpy()))
    detector.zero_grad()
    return detector.eval()


def ours(detector: Detector, crops: Crops) -> tuple[dict[int, NDArray[np.bool_]], dict[str, Any]]:
    """Run our scenarios; return which crops stand at each budget, and on how many each attack was run."""
    keep_freed_memory()  # as `evaluate` does
    twin, cache = fold_batch_norm(detector), Cache(None, {})
    arms = Arms(twin, None, (), 0, cache)
    runner = Runner(detector, twin, arms, seed=0, cache=cache, advance=lambda _count: None)
    clean = WHITE_BOX[0].model_copy(update={"lipschitz": None})
    run = runner.run("crops", Corpus(crops), (clean, *WHITE_BOX[1:]))
    attacked = {
        name: int((~np.isnan(one.own)).sum()) for name, one in run.outcomes.items() if name != "clean"
    }
    return _standing(run), attacked


def _standing(run: CorpusRun) -> dict[int, NDArray[np.bool_]]:
    found, stands = {}, standing(run.clean.logits, run.threshold, run.crops)
    for level in LEVELS:
        for outcome in run.outcomes.values():
            if outcome.scenario.epsilon == level / 255:
                stands = stands & standing(outcome.logits, run.threshold, run.crops)
        found[level] = stands
    return found


def _budgets() -> Iterator[tuple[int, float, float, float]]:
    """Yield level, epsilon, BIM's and PGD's step size, as the suite has them."""
    steps = {item.name: getattr(item.attack, "step_size", None) for item in WHITE_BOX}
    for level in LEVELS:
        bim, pgd = steps[f"bim10_{level}_255"], steps[f"pgd20_{level}_255"]
        assert bim is not None
        assert pgd is not None
        yield level, level / 255, bim, pgd


def torchattacks_crafts(detector: Detector, size: int) -> dict[int, list[Craft]]:
    """Return torchattacks' attacks by budget."""
    library, two = importlib.import_module("torchattacks"), TwoLogits(detector, detector.threshold).eval()
    return {
        level: [
            library.FGSM(two, eps=epsilon),
            library.BIM(two, eps=epsilon, alpha=bim, steps=10),
            library.PGD(two, eps=epsilon, alpha=pgd, steps=20, random_start=True),
        ]
        for level, epsilon, bim, pgd in _budgets()
    }


def art_crafts(detector: Detector, size: int) -> dict[int, list[Craft]]:
    """Return ART's attacks by budget."""
    attacks = importlib.import_module("art.attacks.evasion")
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=TwoLogits(detector, detector.threshold).eval(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, size, size),
        nb_classes=2,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )

    def craft(attack: Any) -> Craft:
        def run(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

        return run

    shared: dict[str, Any] = {"estimator": classifier, "batch_size": BATCH}
    return {
        level: [
            craft(attacks.FastGradientMethod(eps=epsilon, **shared)),
            craft(attacks.BasicIterativeMethod(
                eps=epsilon, eps_step=bim, max_iter=10, verbose=False, **shared)),
            craft(attacks.ProjectedGradientDescentPyTorch(
                eps=epsilon, eps_step=pgd, max_iter=20, num_random_init=1, verbose=False, **shared)),
        ]
        for level, epsilon, bim, pgd in _budgets()
    }  # fmt: skip


def theirs(crafts: dict[int, list[Craft]], detector: Detector, crops: Crops) -> dict[int, NDArray[np.bool_]]:
    """Attack every crop with every attack; return which crops stand at each budget."""
    found: dict[int, NDArray[np.bool_]] = {}
    stands = np.ones(len(crops), dtype=np.bool_)
    for level, attacks in crafts.items():
        for craft in attacks:
            for start in range(0, len(crops), BATCH):
                rows = np.arange(start, min(start + BATCH, len(crops)))
                attacked = craft(crops.tensor("cpu", rows), torch.from_numpy(crops.labels[rows]))
                with torch.no_grad(), crafting_mode(detector):
                    logits = detector(attacked).numpy()
                stands[rows] &= standing(logits, detector.threshold, crops.subset(rows))
        found[level] = stands.copy()
        sys.stderr.write(f"  {level}/255: {stands.mean():.3f}\n")
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run once; return the result, and seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, {
        "clock": round(time.perf_counter() - clock, 2),
        "processor": round(time.process_time() - processor, 2),
    }


def measure(count: int, peer_count: int, size: int, steps: int) -> dict[str, Any]:
    """Run ours and each peer once, one after the other; the peers on the first crops alone."""
    check_installed(["torchattacks", "art"])
    sys.stderr.write(f"training on {16 * steps} pictures\n")
    detector, crops = make_detector(size, steps), make_crops(count, size, seed=2)
    shared = crops.subset(np.arange(peer_count))
    makers = {"torchattacks": torchattacks_crafts, "art": art_crafts}
    peers: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, make in makers.items():
        sys.stderr.write(f"{name}\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, about versions to come
            crafts = make(detector, size)
            torch.manual_seed(0)
            np.random.seed(0)  # ART draws from the global state
            peers[name], seconds = timed(lambda crafts=crafts: theirs(crafts, detector, shared))  # type: ignore[misc]  # mypy can't infer a lambda with a default
        found[name] = {
            "crops": peer_count,
            "seconds": seconds,
            "robust_accuracy": _accuracies(peers[name]),
        }
    sys.stderr.write("ours\n")
    (stands, attacked), seconds = timed(lambda: ours(detector, crops))
    sys.stderr.write(f"  {_accuracies(stands)}, {seconds}\n")
    stands = {level: mask[:peer_count] for level, mask in stands.items()}
    for name, peer in peers.items():
        only = {str(level): int((stands[level] & ~peer[level]).sum()) for level in LEVELS}
        found[name]["stands_only_here"] = only
    return {
        "ours": {
            "crops": count, "seconds": seconds, "robust_accuracy": _accuracies(stands), "attacked": attacked
        },
        **found,
    }  # fmt: skip


def _accuracies(stands: dict[int, NDArray[np.bool_]]) -> dict[str, float]:
    return {f"{level}/255": round(float(mask.mean()), 4) for level, mask in stands.items()}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="32 crops of 48 px")
    parser.add_argument("--crops", type=int, default=512)
    parser.add_argument("--peer-crops", type=int, help="how many of them the peers attack; default all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count, size, steps = (32, 48, 40) if options.quick else (options.crops, 224, 48)
    peer_count = min(count, options.peer_crops or count)
    found = measure(count, peer_count, size, steps)
    peers = {name: found[name] for name in ("torchattacks", "art")}
    mine = found["ours"]

    def each(one: dict[str, Any], clock: str) -> float:
        return float(one["seconds"][clock]) / int(one["crops"])

    def ratios(clock: str) -> dict[str, float]:
        return {name: round(each(peer, clock) / each(mine, clock), 3) for name, peer in peers.items()}

    fastest = min(peers, key=lambda name: each(peers[name], "processor"))
    higher = [
        f"{name} at {level}"
        for name, peer in peers.items()
        for level, accuracy in peer["robust_accuracy"].items()
        if mine["robust_accuracy"][level] > accuracy
    ]
    document = {
        "name": "evaluation", "unit": "s of the processor a crop, the standard suite's white-box part",
        "ratio": ratios("processor")[fastest], "target": TARGET, "peer_name": fastest,
        "ours": round(each(mine, "processor"), 4), "peer": round(each(peers[fastest], "processor"), 4),
        "ratios": ratios("processor"), "ratios_clock": ratios("clock"),
        "robust_accuracy_higher_than": higher, "results": found, "repetitions": 1,
        "crops": count, "peer_crops": peer_count, "image_size": size, "batch": BATCH,
        "threads": options.threads,
        "versions": versions(), "peer_versions": {name: version(PACKAGES[name]) for name in peers},
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
