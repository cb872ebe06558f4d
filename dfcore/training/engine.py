"""The training engine: `rampart train --recipe demo_robust --data STORE --out DIR`.

Read from here: `run.py` puts a run together, `epoch.py` goes through its batches, `step.py` trains on one.
"""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dfcore.allocator import keep_freed_memory
from dfcore.errors import ConfigError
from dfcore.training.compiling import compile_twin, uncompiled, worth_compiling
from dfcore.training.epoch import finish_epoch, train_epoch
from dfcore.training.logs import Logs
from dfcore.training.memory import memory_errors
from dfcore.training.output import CHECKPOINT_FILE, write_output
from dfcore.training.processes import Device, joined
from dfcore.training.progress import Progress, Record, TrainingProgress
from dfcore.training.recipe import Recipe
from dfcore.training.resume import is_finished, restore_run, save_run
from dfcore.training.run import Run, identity_of, prepare, summary
from dfcore.training.stopping import standing, why_stop

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["train"]

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    store: CropStore,
    out: Path,
    *,
    progress: Progress | None = None,
    initial: Path | None = None,
    device: Device = "auto",
    resume: bool = False,
) -> Path:
    """Train a detector and write it, calibrated on the validation split, to a folder.

    Started by torchrun it shares the work with the other processes; the first one validates and writes.

    Args:
        recipe: everything that decides the run.
        store: crops with the recipe's splits; the test split is never read.
        out: gets `weights.safetensors`, `detector.json`, `training.json`, `metrics.csv`, and curves for
            TensorBoard where it is installed; meanwhile a checkpoint too. All processes see the same folder.
        progress: called after each step and each epoch, in the first process.
        initial: the detector to start from, where the recipe asks for one.
        device: "auto" takes a GPU where there is one.
        resume: go on from the checkpoint in `out`; a finished run is left as it is, and another's is refused.

    Returns:
        `out`.

    Raises:
        ConfigError: recipe, store, initial weights, checkpoint or device do not fit each other.
        DataError: a split lacks a class.
        WorkFailed: a loss is not finite, or memory ran out.
    """
    keep_freed_memory()
    with joined(device, recipe) as fabric:
        if fabric.broadcast(resume and is_finished(out, identity_of(recipe, store, initial))):
            return out
        out.mkdir(parents=True, exist_ok=True)
        with memory_errors(recipe, fabric.device):
            run = prepare(recipe, store, initial, fabric, out)
            if fabric.broadcast(resume and (out / CHECKPOINT_FILE).is_file()):
                _require_checkpoint(out)
                restore_run(run)
            _compile(run)
            stopped = _run_epochs(run, progress if fabric.is_global_zero else None)
            if fabric.is_global_zero:
                run.measured.load_state_dict(run.best)
                run.twin.refresh(run.measured)
                with uncompiled(run.compiled):
                    write_output(out, run.measured, run.twin, run.validation, summary(run, store, stopped))
    return out


def _require_checkpoint(out: Path) -> None:
    if not (out / CHECKPOINT_FILE).is_file():
        raise ConfigError(
            f"expected every process to see {out}, got one that misses {CHECKPOINT_FILE}; use a shared folder"
        )


def _compile(run: Run) -> None:
    """Compile the twin where the attacks on it are many enough."""
    recipe = run.recipe
    if not recipe.defence.adversarial:
        return
    steps = recipe.optimiser.epochs * run.training.steps
    if worth_compiling(run.device, steps):
        part = run.training.batch_size // (run.fabric.world_size * recipe.optimiser.accumulate)
        side = recipe.model.image_size
        images = torch.rand((part, 3, side, side), device=run.device)
        with run.fabric.autocast():
            run.compiled = compile_twin(run.twin, images.to(memory_format=torch.channels_last))


def _run_epochs(run: Run, progress: Progress | None) -> str | None:
    """Train until the last epoch, or a reason to stop before it; return the reason."""
    epochs = run.recipe.optimiser.epochs
    stopped = why_stop(run.recipe, run.records, run.best_epoch)
    with closing(Logs(run.out)) as logs:
        if run.records and run.fabric.is_global_zero:
            logs.write(run.records)  # a run that was killed may have saved an epoch and not logged it
        while stopped is None and (epoch := len(run.records)) < epochs:
            record = finish_epoch(run, epoch, train_epoch(run, epoch, progress))
            _select(run, record)
            stopped = why_stop(run.recipe, run.records, run.best_epoch)
            save_run(run)
            if run.fabric.is_global_zero:
                logs.write(run.records)
                _tell(run, record, stopped, progress)
    return stopped


def _select(run: Run, record: Record) -> None:
    """Keep the weights if they are the best so far."""
    run.records.append(record)
    if not run.best or standing(run.recipe, record) > standing(run.recipe, run.records[run.best_epoch - 1]):
        run.best = {name: value.detach().clone() for name, value in run.measured.state_dict().items()}
        run.best_epoch = int(record["epoch"])


def _tell(run: Run, record: Record, stopped: str | None, progress: Progress | None) -> None:
    recipe, epoch, steps = run.recipe, int(record["epoch"]), run.training.steps
    epochs = recipe.optimiser.epochs
    logger.info(
        "%s epoch %d/%d loss %.4f val auc %.4f robust %.4f, %.0f images/s", recipe.name, epoch, epochs,
        record["loss"], record["val_clean_auc"], record["val_robust_auc"], record["images_per_second"],
    )  # fmt: skip
    if stopped is not None:
        logger.warning("%s: %s", recipe.name, stopped)
    if progress is not None:
        left = 0.0 if stopped is not None else record["eta_seconds"]
        progress(
            TrainingProgress(
                epoch=epoch, epochs=epochs, step=epoch * steps, steps=epochs * steps,
                images_per_second=record["images_per_second"], eta_seconds=left, loss=record["loss"],
                record=record, latest=record, stopped=stopped,
            )
        )  # fmt: skip
