"""python -m benchmarks.adversarial_training [--quick] [--device cuda] --json: one step, ours and naive.

One step of training in the dual-attacker game, and in PGD adversarial training: EfficientNet-B0 at 224 px,
PGD-10 (and the U-Net) at 8/255; crafting, losses, backward passes, clipping, optimiser, everything that one
batch costs. The peer is the loop as it is usually written (`dual_game_peer.py`): `loss.backward()`
everywhere, eager, PyTorch's default memory layout. Ours is the engine's own step. "alternating" is the same
game; "joint" plays it with one U-Net pass less. The variants take turns, so that a busy machine slows all
alike, and each has a process of its own, as the engine sets the allocator; `ratio` is that of the
alternating game, the exact equivalent. On a GPU ours also runs in bf16, and compiled, and `ratio` counts the
fastest.

Peak memory is what a step takes beyond weights and optimiser: of the GPU, or of the process on a CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

from benchmarks.dual_game_peer import NaiveDualGame
from dfcore.allocator import keep_freed_memory
from dfcore.attacks import Player
from dfcore.defences import Defence, DualAttackerGame, PGDAdversarialTraining, TrainingState
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm
from dfcore.provenance import versions
from dfcore.training import DataConfig, Recipe
from dfcore.training.compiling import compile_twin
from dfcore.training.guard import Guard
from dfcore.training.memory import peak_memory, reset_peak, used_memory
from dfcore.training.processes import join
from dfcore.training.run import Identity, Run
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


@dataclass(frozen=True)
class Setting:
    """What all variants have in common: image size, images in a batch, PGD's steps, device, threads."""

    size: int
    count: int
    steps: int
    device: str
    threads: int


@dataclass(frozen=True)
class Turn:
    """What one step took: seconds by the clock and of the processor, bytes beyond those held before."""

    seconds: float
    processor_seconds: float
    bytes: int


def naive(kind: type[NaiveDualGame], setting: Setting, batch: Any) -> Step:
    """Return a step of the naive loop over its own detector."""
    images, labels = batch
    game = DualAttackerGame(steps=setting.steps, **_BUDGET)
    detector = _detector(setting.size).to(images.device).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-4)
    player = Player(game.attackers()["unet"], images.device)
    loop = kind(game, detector, optimiser, player)
    generator = torch.Generator(images.device).manual_seed(0)
    return lambda: loop.step(images, labels, generator)


def ours(name: str, setting: Setting, batch: Any, *, precision: Precision, compiled: bool = False) -> Step:
    """Return a step of the engine over its own detector."""
    images, labels = batch
    size, defence = setting.size, defence_of(name, setting.steps)
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
        training=epoch, validation=epoch, out=Path(tempfile.gettempdir()), identity=Identity("", {}),
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


def variants(device: str) -> dict[str, Callable[[Setting, Any], Step]]:
    """Return what makes each variant's step, by name."""
    found: dict[str, Callable[[Setting, Any], Step]] = {
        "game_naive": lambda setting, batch: naive(NaiveDualGame, setting, batch),
        "pgd_naive": lambda setting, batch: naive(NaivePGDTraining, setting, batch),
    }
    for name in ("game_alternating", "game_joint", "pgd"):
        found[name] = partial(ours, name, precision="32-true")
        if device == "cuda":
            found[f"{name}_bf16"] = partial(ours, name, precision="bf16-mixed")
            found[f"{name}_bf16_compiled"] = partial(ours, name, precision="bf16-mixed", compiled=True)
    return found


def defence_of(name: str, steps: int) -> Defence:
    """Return the defence of one of our variants."""
    game = DualAttackerGame(steps=steps, **_BUDGET)
    return {
        "game_alternating": game,
        "game_joint": game.model_copy(update={"mode": "joint"}),
        "pgd": PGDAdversarialTraining(steps=steps, clean_weight=0.5, **_BUDGET),
    }[name]


def measure(setting: Setting, repetitions: int) -> dict[str, Any]:
    """Time every variant in turns, each in a process of its own.

    Args:
        setting: of every variant.
        repetitions: timed rounds, two or more, after one that warms up.

    Returns:
        For each variant seconds a step (median and quartiles, by the clock and of the processor), images a
        second, and peak memory in MiB.
    """
    rounds: dict[str, list[Turn]] = {name: [] for name in variants(setting.device)}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, setting)) for name in rounds}
        for number in range(repetitions + 1):
            for name, ask in workers.items():
                turn = ask()
                if number:
                    rounds[name].append(turn)
                sys.stderr.write(f"{number}/{repetitions} {name} {turn.seconds:.2f} s\n")
    return {
        name: {
            "seconds": _spread([turn.seconds for turn in turns]),
            "processor_seconds": _spread([turn.processor_seconds for turn in turns]),
            "images_per_second": round(setting.count / statistics.median(turn.seconds for turn in turns), 2),
            "peak_mebibytes": round(max(turn.bytes for turn in turns) / 2**20),
        }
        for name, turns in rounds.items()
    }


@contextmanager
def _worker(name: str, setting: Setting) -> Iterator[Callable[[], Turn]]:
    """Run a variant in a process, so that neither allocator nor caches are shared; a call takes one step."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(name, setting, there))
    process.start()
    there.close()
    here.recv()  # ready, before the next one starts

    def ask() -> Turn:
        here.send(True)
        turn: Turn = here.recv()
        return turn

    try:
        yield ask
    finally:
        here.close()
        process.join()


def _serve(name: str, setting: Setting, turns: Any) -> None:
    """Take a step of a variant whenever asked, until nobody can ask any more."""
    torch.set_num_threads(setting.threads)
    if not name.endswith("_naive"):
        keep_freed_memory()  # as `train` does
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((setting.count, 3, setting.size, setting.size), generator=generator)
    where = torch.device(setting.device)
    batch = images.to(where), (torch.arange(setting.count) % 2).to(where)
    step = variants(setting.device)[name](setting, batch)
    step()
    reset_peak(where)
    held = used_memory(where)
    step()
    taken = peak_memory(where) - held  # the measurement hands memory back, so that no step is timed with it
    turns.send(True)
    with suppress(EOFError):
        while turns.recv():
            started, used = time.perf_counter(), time.process_time()
            step()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            turns.send(Turn(time.perf_counter() - started, time.process_time() - used, taken))


def _detector(size: int) -> Detector:
    return build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=size))


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
    size, count, steps, repetitions = (64, 4, 3, 2) if options.quick else (224, 8, 10, 5)
    if options.device == "cuda" and not options.quick:
        count, repetitions = 64, 20
    setting = Setting(size, count, steps, options.device, options.threads)
    found = measure(setting, repetitions)
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
