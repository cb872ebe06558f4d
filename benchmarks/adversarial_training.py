"""python -m benchmarks.adversarial_training [--quick] [--device cuda] --json: one step, ours and naive.

One step of training in the dual-attacker game, and in PGD adversarial training: EfficientNet-B0 at 224 px,
PGD-10 (and the U-Net) at 8/255; crafting, losses, backward passes, clipping, optimiser, everything that one
batch costs. The peer is the loop as it is usually written (`dual_game_peer.py`): `loss.backward()`
everywhere, eager, PyTorch's default memory layout. Ours is the engine's own step. "alternating" is the same
game; "joint" plays it with one U-Net pass less. The variants take turns, so that a busy machine slows all
alike; `ratio` is that of the alternating game, the exact equivalent. On a GPU ours also runs in bf16, and
compiled, and `ratio` counts the fastest.

Peak memory is what a step takes beyond weights and optimiser: of the GPU, or of the process on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

from benchmarks.dual_game_peer import NaiveDualGame
from dfcore.attacks import Player
from dfcore.defences import Defence, DualAttackerGame, PGDAdversarialTraining, TrainingState
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm
from dfcore.provenance import versions
from dfcore.training import DataConfig, Recipe
from dfcore.training.compiling import compile_twin
from dfcore.training.guard import Guard
from dfcore.training.memory import peak_memory, reset_peak, used_memory
from dfcore.training.processes import join
from dfcore.training.run import Run
from dfcore.training.schedule import build_optimiser
from dfcore.training.step import take_step

__all__ = ["measure"]

Step = Callable[[], Any]
Precision = Literal["32-true", "bf16-mixed"]

_BUDGET: dict[str, Any] = {"epsilon": 8 / 255, "step_size": 2 / 255, "warmup_epochs": 0.0}


class NaivePGDTraining(NaiveDualGame):
    """PGD adversarial training in the same manner: clean loss, PGD loss, no U-Net."""

    def step(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Train on one batch; arguments and result as in the game."""
        clean = self._loss(images, labels)
        pgd = self._loss(self._pgd(images, labels, generator), labels)
        self.optimiser.zero_grad()
        torch.autograd.backward((clean + pgd) / 2)
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), self.gradient_clip)
        self.optimiser.step()
        return {"clean_loss": clean.detach(), "pgd_loss": pgd.detach()}


def naive(kind: type[NaiveDualGame], game: DualAttackerGame, size: int, batch: Any) -> Step:
    """Return a step of the naive loop over its own detector."""
    images, labels = batch
    detector = _detector(size).to(images.device).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-4)
    player = Player(game.attackers()["unet"], images.device)
    loop = kind(game, detector, optimiser, player)
    generator = torch.Generator(images.device).manual_seed(0)
    return lambda: loop.step(images, labels, generator)


def ours(defence: Defence, size: int, batch: Any, precision: Precision, *, compiled: bool = False) -> Step:
    """Return a step of the engine over its own detector."""
    images, labels = batch
    recipe = Recipe(
        name="benchmark", defence=defence, data=DataConfig(batch_size=len(images)), precision=precision,
        model=DetectorConfig(backbone="efficientnet_b0", image_size=size),
    )  # fmt: skip
    device = images.device
    fabric = join(device.type, recipe)
    detector = _detector(size).to(device)
    detector.to(memory_format=torch.channels_last).train()
    optimiser = build_optimiser(detector, recipe.optimiser)
    epoch: Any = SimpleNamespace(steps=1000)  # all that a step asks of a loader
    run = Run(
        recipe=recipe, fabric=fabric, detector=detector, optimiser=optimiser,
        scaler=torch.amp.GradScaler(device.type, enabled=False), average=None, twin=fold_batch_norm(detector),
        players={name: Player(attack, device) for name, attack in defence.attackers().items()},
        training=epoch, validation=epoch, out=Path(tempfile.gettempdir()), identity="",
        guard=Guard(recipe, Path(tempfile.gettempdir()), lagged=device.type == "cuda"),
        skips=torch.zeros((), device=device),
    )  # fmt: skip
    images = images.to(memory_format=torch.channels_last)
    if compiled:
        with fabric.autocast():
            compile_twin(run.twin, images)
    draws = torch.Generator(device).manual_seed(0)
    state = TrainingState(1.0, torch.ones(2, device=device), run.twin, draws, 0.0, run.players)
    return lambda: take_step(run, images, labels, state, 500)


def variants(size: int, batch: Any, steps: int) -> dict[str, Step]:
    """Return every variant's step by name."""
    on_gpu = batch[0].is_cuda
    game = DualAttackerGame(steps=steps, **_BUDGET)
    joint = game.model_copy(update={"mode": "joint"})
    pgd = PGDAdversarialTraining(steps=steps, clean_weight=0.5, **_BUDGET)
    found: dict[str, Step] = {
        "game_naive": naive(NaiveDualGame, game, size, batch),
        "game_alternating": ours(game, size, batch, "32-true"),
        "game_joint": ours(joint, size, batch, "32-true"),
        "pgd_naive": naive(NaivePGDTraining, game, size, batch),
        "pgd": ours(pgd, size, batch, "32-true"),
    }
    if on_gpu:
        for name, defence in (("game_alternating", game), ("game_joint", joint), ("pgd", pgd)):
            found[f"{name}_bf16"] = ours(defence, size, batch, "bf16-mixed")
            found[f"{name}_bf16_compiled"] = ours(defence, size, batch, "bf16-mixed", compiled=True)
    return found


def measure(size: int, count: int, steps: int, repetitions: int, device: str) -> dict[str, Any]:
    """Time every variant in turns.

    Args:
        size: of the images, in pixels.
        count: of the images in a batch.
        steps: of PGD.
        repetitions: timed rounds, two or more, after one that warms up.
        device: "cpu" or "cuda".

    Returns:
        For each variant seconds a step (median and quartiles, by the clock and of the processor), images a
        second, and peak memory in MiB.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, size, size), generator=generator).to(device)
    batch = images, (torch.arange(count) % 2).to(device)
    where = images.device
    timed = variants(size, batch, steps)
    clock: dict[str, list[float]] = {name: [] for name in timed}
    processor: dict[str, list[float]] = {name: [] for name in timed}
    peaks: dict[str, int] = dict.fromkeys(timed, 0)
    for number in range(repetitions + 1):
        for name, step in timed.items():
            reset_peak(where)
            held, started, used = used_memory(where), time.perf_counter(), time.process_time()
            step()
            _wait(device)
            if number:
                clock[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
                peaks[name] = max(peaks[name], peak_memory(where) - held)
            sys.stderr.write(f"{number}/{repetitions} {name} {time.perf_counter() - started:.2f} s\n")
    return {
        name: {
            "seconds": _spread(clock[name]),
            "processor_seconds": _spread(processor[name]),
            "images_per_second": round(count / statistics.median(clock[name]), 2),
            "peak_mebibytes": round(peaks[name] / 2**20),
        }
        for name in timed
    }


def _detector(size: int) -> Detector:
    return build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=size))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def _ratios(found: dict[str, Any], clock: str) -> dict[str, float]:
    """Each of ours against the naive loop of its own kind."""
    ratios = {}
    for name, figures in found.items():
        peer = f"{name.partition('_')[0]}_naive"
        if name != peer:
            ratios[name] = round(found[peer][clock]["median"] / figures[clock]["median"], 3)
    return ratios


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adversarial_training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 px, four images, PGD-3, two rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, count, steps, repetitions = (64, 4, 3, 2) if options.quick else (224, 8, 10, 5)
    if options.device == "cuda" and not options.quick:
        count, repetitions = 64, 20
    found = measure(size, count, steps, repetitions, options.device)
    ratios = _ratios(found, "seconds")
    same_game = [name for name in ratios if name.startswith("game_alternating")]
    best = max(same_game, key=lambda name: ratios[name])
    document = {
        "name": "adversarial_training", "unit": "s a step of the dual-attacker game",
        "ratio": ratios[best], "ours": found[best]["seconds"]["median"],
        "peer": found["game_naive"]["seconds"]["median"], "ours_name": best,
        "ratios": ratios, "processor_ratios": _ratios(found, "processor_seconds"), "results": found,
        "repetitions": repetitions, "image_size": size, "batch": count, "pgd_steps": steps,
        "threads": options.threads, "device": options.device, "versions": versions(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
