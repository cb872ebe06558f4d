"""One epoch: its batches, its checkpoints on the way, its validation, its record."""

from __future__ import annotations

import logging
import math
import time

import torch

from dfcore.data.augmentation import augment
from dfcore.defences import TrainingState
from dfcore.errors import WorkFailed
from dfcore.training.compiling import uncompiled
from dfcore.training.guard import Facts
from dfcore.training.processes import total
from dfcore.training.progress import Progress, Record, TrainingProgress
from dfcore.training.randomness import restore_random_states, seeded
from dfcore.training.resume import save_run
from dfcore.training.run import Run, random_seed
from dfcore.training.running import Running
from dfcore.training.schedule import learning_rate
from dfcore.training.step import take_step
from dfcore.training.validation import attack_batch, balanced_slice, validate

__all__ = ["finish_epoch", "train_epoch"]

logger = logging.getLogger(__name__)

# scalars that are counted, and no mean over the steps
_COUNTS = ("skipped_steps",)


def train_epoch(run: Run, epoch: int, progress: Progress | None) -> Record:
    """Train one epoch, or what is left of it.

    Returns:
        Means over its steps, crops trained on, and images per second.

    Raises:
        WorkFailed: a loss or gradient is not finite.
    """
    recipe, steps = run.recipe, run.training.steps
    seed = random_seed(run, epoch)  # from the epoch alone: at its start, resume needs no random state
    running = Running(torch.Generator(run.device).manual_seed(seed))
    weights = run.training.class_weights.to(run.device)
    run.detector.train()
    run.twin.refresh(run.detector)
    with seeded(seed, run.device):
        _take_up(run, running)
        saved = time.perf_counter()
        started = saved - running.seconds
        for batch in run.training.epoch(epoch, start=running.step):
            running.step += 1
            images = augment(batch.images, recipe.data.augmentation, running.draws)
            state = TrainingState(
                epoch + running.step / steps,
                weights,
                run.twin,
                running.draws,
                recipe.label_smoothing,
                run.players,
            )
            number = epoch * steps + running.step
            due = time.perf_counter() - saved >= recipe.checkpoint.every_seconds
            scalars, facts = take_step(run, images, batch.labels, state, number, due=due)
            for name, value in scalars.items():
                running.totals[name] = running.totals.get(name, 0) + value  # stays on the device
            running.crops += len(batch.labels)
            running.seconds = time.perf_counter() - started
            if _is_due(run, running.step, facts):
                run.guard.settle()
                save_run(run, running)
                saved = time.perf_counter()
            if progress is not None:
                progress(_on_the_way(run, epoch, running, facts))
    run.guard.settle()
    # the epoch's first wait for the device, but for checkpoints
    sums = {name: float(value) / (1 if name in _COUNTS else steps) for name, value in running.totals.items()}
    seconds = time.perf_counter() - started
    crops = total(running.crops, run.fabric)
    return {**sums, "crops": float(crops), "images_per_second": crops / seconds, "seconds": seconds}


def _take_up(run: Run, running: Running) -> None:
    """Go on in mid-epoch, if the checkpoint that was restored stands there."""
    if run.unfinished is None:
        return
    parts, document = run.unfinished
    run.unfinished = None
    running.step, running.seconds = document["step"], document["seconds"]
    running.totals = dict(parts["totals"])
    own = parts[f"process.{run.fabric.global_rank}"]
    running.crops = int(own["crops"])
    restore_random_states(running.draws, own)


def _is_due(run: Run, step: int, facts: Facts | None) -> bool:
    """Say whether to save after this step; the epoch's last one is followed by a checkpoint anyway."""
    count = run.recipe.checkpoint.every_steps
    counted = count is not None and step % count == 0
    # every process goes by the first one's clock
    return (counted or (facts is not None and facts.due)) and step < run.training.steps


def finish_epoch(run: Run, epoch: int, figures: Record) -> Record:
    """Validate, in the first process alone.

    Returns:
        The epoch's whole record, in every process.

    Raises:
        WorkFailed: validation logits are not finite.
    """
    recipe, started = run.recipe, time.perf_counter()
    measured: Record | None = None
    if run.fabric.is_global_zero:
        run.twin.refresh(run.measured)
        chosen = balanced_slice(run.validation, recipe.validation.crops, recipe.seed)
        attack, size = recipe.validation.attack(), attack_batch(recipe.optimiser.accumulate)
        with uncompiled(run.compiled):
            measured = validate(run.twin, run.validation, attack, chosen, recipe.seed, size)
    measured = run.fabric.broadcast(measured)
    assert measured is not None
    seconds = figures["seconds"] + time.perf_counter() - started
    steps = run.training.steps
    record = {
        "epoch": float(epoch + 1),
        **figures,
        **measured,
        "learning_rate": learning_rate(recipe, (epoch + 1) * steps, steps),
        "seconds": seconds,
        "eta_seconds": seconds * (recipe.optimiser.epochs - epoch - 1),
    }
    if not math.isfinite(record["val_clean_auc"]):
        raise WorkFailed(
            f"expected finite validation logits, got others in epoch {epoch + 1} of {recipe.name}; lower "
            f"optimiser.learning_rate (now {recipe.optimiser.learning_rate:g})"
        )
    run.validation_seconds = seconds - figures["seconds"]
    return record


def _on_the_way(run: Run, epoch: int, running: Running, facts: Facts | None) -> TrainingProgress:
    epochs, steps = run.recipe.optimiser.epochs, run.training.steps
    done = epoch * steps + running.step
    rate = running.crops * run.fabric.world_size / max(running.seconds, 1e-9)
    left = (epochs * steps - done) * running.seconds / running.step
    return TrainingProgress(
        epoch=epoch,
        epochs=epochs,
        step=done,
        steps=epochs * steps,
        images_per_second=rate,
        eta_seconds=left + (epochs - epoch) * run.validation_seconds,
        loss=None if facts is None else facts.loss,
        latest=run.records[-1] if run.records else None,
    )
