"""Before a run: does it fit into memory, and how long will it take? `rampart train … --dry-run`."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dfcore.data.augmentation import augment
from dfcore.data.loader import Batch, CropLoader
from dfcore.data.shards import choose_residence
from dfcore.defences import TrainingState
from dfcore.errors import ConfigError
from dfcore.training.memory import (
    advice,
    free_memory,
    in_gigabytes,
    memory_errors,
    peak_memory,
    reset_peak,
    used_memory,
)
from dfcore.training.processes import Device, join, started_by_torchrun
from dfcore.training.randomness import seeded
from dfcore.training.recipe import Recipe
from dfcore.training.run import Run, prepare
from dfcore.training.step import take_step
from dfcore.training.validation import attack_batch

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["Preflight", "preflight"]

# Pixels trained on in a whole run below which looking ahead costs more than it can save.
_SMALL = 2e8
# A first step of a shape also chooses kernels; where a step is short, a second one is timed.
_SHORT_SECONDS = 5.0


@dataclass(frozen=True)
class Preflight:
    """What a run will take, by two steps of it.

    Attributes:
        device: where it was measured.
        processes: that share each step.
        steps: of the optimiser, in all.
        step_seconds: measured, data loading apart.
        total_seconds: of all steps and validations.
        peak_bytes: of the GPU, or of this process on a CPU; crops that are kept there included.
        limit_bytes: what there is.
    """

    device: str
    processes: int
    steps: int
    step_seconds: float
    total_seconds: float
    peak_bytes: int
    limit_bytes: int

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    def describe(self) -> str:
        """Return it in one line for people."""
        minutes, seconds = divmod(round(self.total_seconds), 60)
        hours, minutes = divmod(minutes, 60)
        whole = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return (
            f"{self.steps} steps of {self.step_seconds:.2f} s, about {whole} in all; "
            f"{in_gigabytes(self.peak_bytes)} of {in_gigabytes(self.limit_bytes)} memory ({self.device})"
        )


def preflight(
    recipe: Recipe,
    store: CropStore,
    *,
    initial: Path | None = None,
    device: Device = "auto",
    always: bool = False,
) -> Preflight | None:
    """Run two steps of a run on copies: a small one that says whether a whole batch fits, then a whole one.

    Nothing of it is left: neither files nor random states, so that the training that follows is the same.

    Args:
        recipe: to be trained.
        store: its crops; only those of one batch and of one of the validation's are read.
        initial: the detector to start from, where the recipe asks for one.
        device: as for `train`.
        always: measure small runs too, for which it takes longer than it can save.

    Returns:
        What was measured, or None for a small run.

    Raises:
        ConfigError: the run will not fit, or its settings do not fit each other.
        DataError: a split lacks a class.
        WorkFailed: a loss is not finite.
    """
    fabric = join(device, recipe, alone=True)
    here, nodes, _ = started_by_torchrun()
    share = recipe.data.batch_size // (here * nodes)
    data = recipe.data.model_copy(update={"residence": "stream", "batch_size": share})
    if not always and _pixels(recipe, store) < _SMALL:
        return None
    folder = Path(tempfile.mkdtemp(prefix="rampart-preflight-"))
    try:
        with seeded(recipe.seed, fabric.device), memory_errors(recipe, fabric.device, before=True):
            run = prepare(recipe.model_copy(update={"data": data}), store, initial, fabric, folder)
            resident = _resident_bytes(recipe, run, here)
            peak, limit, step_seconds = _measure(run, resident, here)
            reset_peak(fabric.device)
            validation_seconds = _time_validation(run)
            peak = max(peak, peak_memory(fabric.device) + resident)
            _require(peak, limit, run)
    finally:
        with suppress(OSError):
            folder.rmdir()  # it stays where it holds a batch whose loss is not finite
    steps = CropLoader(run.training.crops, recipe.data, seed=recipe.seed).steps
    epochs = recipe.optimiser.epochs
    total = epochs * (steps * step_seconds + validation_seconds)
    return Preflight(str(fabric.device), here * nodes, epochs * steps, step_seconds, total, peak, limit)


def _pixels(recipe: Recipe, store: CropStore) -> float:
    data = recipe.data
    rows = store.rows(
        split=data.train_split, compression=data.compressions, max_frames_per_video=data.max_frames_per_video
    )
    crops = min(len(rows), data.max_train_crops or len(rows))
    return crops * recipe.optimiser.epochs * float(recipe.model.image_size) ** 2


def _resident_bytes(recipe: Recipe, run: Run, here: int) -> int:
    """Return the bytes of the crops that will be kept where the run computes."""
    num_bytes = (len(run.training) + len(run.validation)) * run.training.crops.side**2 * 3
    chosen = choose_residence(recipe.data.residence, num_bytes, run.device, processes=here)
    wanted = "device" if run.device.type == "cuda" else "memory"
    return num_bytes if chosen == wanted else 0


def _measure(run: Run, resident: int, here: int) -> tuple[int, int, float]:
    """Take the steps.

    Returns:
        Peak bytes, bytes that there are, seconds of a whole step.

    Raises:
        ConfigError: it will not fit.
    """
    device, size, parts = run.device, run.training.batch_size, run.recipe.optimiser.accumulate
    batches = run.training.epoch(0)
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator, and it holds files
    small = min(max(size // 4, 2 * parts), size)
    reset_peak(device)
    _step(run, batch, small, 1)
    held = used_memory(device)  # weights, gradients and moments by now; the rest grows with the batch
    needed = held + (peak_memory(device) - held) * size // small + resident
    # processes on one CPU share its memory
    limit = held + free_memory(device) // (1 if device.type == "cuda" else here)
    _require(needed, limit, run)
    reset_peak(device)
    seconds = _step(run, batch, size, 2)
    if seconds < _SHORT_SECONDS:
        seconds = min(seconds, _step(run, batch, size, 3))
    needed = peak_memory(device) + resident
    _require(needed, limit, run)
    return needed, limit, seconds


def _step(run: Run, batch: Batch, count: int, number: int) -> float:
    """Train on so many crops of a batch, of both classes; return the seconds."""
    stride = len(batch.labels) // count
    images, labels = batch.images[::stride][:count], batch.labels[::stride][:count]
    recipe, draws = run.recipe, torch.Generator(run.device).manual_seed(run.recipe.seed)
    run.detector.train()
    started = time.perf_counter()
    # late enough for every ramp to have its full cost
    state = TrainingState(
        float(recipe.optimiser.epochs),
        run.training.class_weights.to(run.device),
        run.twin,
        draws,
        recipe.label_smoothing,
        run.players,
    )
    take_step(run, augment(images, recipe.data.augmentation, draws), labels, state, number)
    run.guard.settle()
    _wait(run.device)
    return time.perf_counter() - started


def _time_validation(run: Run) -> float:
    """Return the seconds of one validation, by one step of its attack on one of its batches."""
    limits = run.recipe.validation
    attack = limits.attack().model_copy(update={"steps": 1, "restarts": 1, "keep_best": False})
    chosen = torch.arange(min(attack_batch(run.recipe.optimiser.accumulate), len(run.validation)))
    images, labels = run.validation.take(chosen), run.validation.labels[chosen].to(run.device)

    def timed() -> float:
        started = time.perf_counter()
        attack.craft(run.twin, images, labels, generator=torch.Generator(run.device).manual_seed(0))
        _wait(run.device)
        return time.perf_counter() - started

    seconds = timed()
    if seconds < _SHORT_SECONDS:
        seconds = min(seconds, timed())
    attacked = min(limits.crops, len(run.validation))
    # a forward pass is half of a step of the attack
    return seconds / len(chosen) * (len(run.validation) / 2 + attacked * limits.steps * limits.restarts)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _require(needed: int, limit: int, run: Run) -> None:
    if needed > limit:
        raise ConfigError(
            f"expected a run that fits into {in_gigabytes(limit)} of memory ({run.device}), got one that "
            f"needs about {in_gigabytes(needed)}; {advice(run.recipe)}"
        )
