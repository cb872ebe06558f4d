"""The training engine: `rampart train --recipe demo_robust --data STORE --out DIR`."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_fabric import Fabric

from dfcore.data.augmentation import augment
from dfcore.data.loader import CropLoader, SplitCrops
from dfcore.data.sampling import epoch_seed
from dfcore.defences import TrainingState
from dfcore.errors import ConfigError, WorkFailed
from dfcore.models import Detector, FoldedDetector, fold_batch_norm
from dfcore.provenance import digest_json
from dfcore.training.batches import check_classes, load_split
from dfcore.training.checkpoint import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from dfcore.training.initial import starting_point
from dfcore.training.output import CHECKPOINT_FILE, is_finished, write_output
from dfcore.training.randomness import random_states, restore_random_states, seeded
from dfcore.training.recipe import Recipe
from dfcore.training.schedule import learning_rate, move_average
from dfcore.training.validation import balanced_slice, validate

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["TrainingProgress", "train"]

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Record = dict[str, float]


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands; given to the caller after each step and after each epoch.

    Attributes:
        epoch: epochs done.
        epochs: planned.
        step: steps done in all.
        steps: planned in all.
        images_per_second: in the running epoch, crops trained on.
        eta_seconds: expected time left.
        record: the finished epoch's figures, or None between two epochs.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    eta_seconds: float
    record: Record | None = None


Progress = Callable[[TrainingProgress], None]


@dataclass
class _Running:
    """Where the running epoch stands, beside weights and optimiser; saved with them in mid-epoch."""

    draws: torch.Generator
    step: int = 0
    seconds: float = 0.0
    totals: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class _Run:
    """The state of one training run."""

    recipe: Recipe
    fabric: Fabric
    detector: Detector
    model: Any
    optimiser: Any
    average: Detector | None
    twin: FoldedDetector
    training: CropLoader
    validation: SplitCrops
    out: Path
    identity: str
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    records: list[Record] = field(default_factory=list)
    unfinished: tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None = None

    @property
    def measured(self) -> Detector:
        """The weights that are validated and kept."""
        return self.detector if self.average is None else self.average


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

    Args:
        recipe: everything that decides the run.
        store: crops with the recipe's splits; the test split is never read.
        out: gets `weights.safetensors`, `detector.json`, `training.json`; meanwhile a checkpoint too.
        progress: called after each step and each epoch.
        initial: the detector to start from, where the recipe asks for one.
        device: "auto" takes a GPU where there is one.
        resume: go on from the checkpoint in `out`; a finished run is left as it is.

    Returns:
        `out`.

    Raises:
        ConfigError: recipe, store, initial weights or checkpoint do not fit each other.
        DataError: a split lacks a class.
        WorkFailed: the loss is no longer finite.
    """
    identity = digest_json({"recipe": recipe.identity(), "data": store.digest})
    if resume and is_finished(out, identity):
        return out
    out.mkdir(parents=True, exist_ok=True)
    run = _prepare(recipe, store, initial, device, (out, identity))
    if resume and (out / CHECKPOINT_FILE).is_file():
        _restore(run)
    for epoch in range(len(run.records), recipe.optimiser.epochs):
        record = _train_epoch(run, epoch, progress)
        _select(run, record)
        _save(run)
    run.measured.load_state_dict(run.best)
    run.twin.refresh(run.measured)
    write_output(out, run.measured, run.twin, run.validation, _summary(run, store))
    return out


def _prepare(
    recipe: Recipe, store: CropStore, initial: Path | None, device: Device, place: tuple[Path, str]
) -> _Run:
    """Check everything and load the data before any work."""
    detector = starting_point(recipe, initial)
    fabric = Fabric(accelerator=device, devices=1, precision=recipe.precision)
    data = recipe.data
    crops = load_split(store, recipe, data.train_split, data.max_train_crops, fabric.device)
    training = CropLoader(crops, data, seed=recipe.seed)
    validation = load_split(store, recipe, data.val_split, data.max_val_crops, fabric.device)
    check_classes(validation, data.val_split)
    detector.to(fabric.device)
    detector.to(memory_format=torch.channels_last)
    decayed = [parameter for parameter in detector.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in detector.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(
        groups,
        lr=recipe.optimiser.learning_rate,
        weight_decay=recipe.optimiser.weight_decay,
    )
    model, wrapped = fabric.setup(detector, optimiser)
    average = None if recipe.optimiser.ema_decay is None else copy.deepcopy(detector).eval()
    twin = fold_batch_norm(detector)
    return _Run(recipe, fabric, detector, model, wrapped, average, twin, training, validation, *place)


def _train_epoch(run: _Run, epoch: int, progress: Progress | None) -> Record:
    recipe, device, steps = run.recipe, run.fabric.device, run.training.steps
    seed = epoch_seed(recipe.seed, epoch)  # from the epoch alone: at its start, resume needs no random state
    running = _Running(torch.Generator(device).manual_seed(seed))
    weights = run.training.class_weights.to(device)
    run.model.train()
    run.twin.refresh(run.detector)
    with seeded(seed, device):
        _take_up(run, running)
        saved = time.perf_counter()
        started = saved - running.seconds
        for batch in run.training.epoch(epoch, start=running.step):
            running.step += 1
            images = augment(batch.images, recipe.data.augmentation, running.draws)
            state = TrainingState(epoch + running.step / steps, weights, run.twin, running.draws)
            number = epoch * steps + running.step
            for name, value in _step(run, images, batch.labels, state, number).items():
                running.totals[name] = running.totals.get(name, 0) + value  # stays on the device
            now = time.perf_counter()
            running.seconds = now - started
            if _is_due(run, running.step, now - saved):
                _check_finite(run, epoch, float(running.totals["loss"]))
                _save(run, running)
                saved = time.perf_counter()
            if progress is not None:
                rate = running.step * run.training.batch_size / running.seconds
                progress(_progress(run, epoch, number, rate))
    # the epoch's first wait for the device, but for checkpoints
    sums = {name: float(value) / steps for name, value in running.totals.items()}
    rate = steps * run.training.batch_size / (time.perf_counter() - started)
    _check_finite(run, epoch, sums["loss"])
    return _finish_epoch(run, epoch, {**sums, "images_per_second": rate}, progress)


def _take_up(run: _Run, running: _Running) -> None:
    """Go on in mid-epoch, if the checkpoint that was restored stands there."""
    if run.unfinished is None:
        return
    parts, document = run.unfinished
    run.unfinished = None
    running.step, running.seconds = document["step"], document["seconds"]
    running.totals = dict(parts["totals"])
    restore_random_states(running.draws, parts["random"])


def _is_due(run: _Run, step: int, seconds: float) -> bool:
    """Say whether to save after this step; the epoch's last one is followed by a checkpoint anyway."""
    config = run.recipe.checkpoint
    counted = config.every_steps is not None and step % config.every_steps == 0
    return (counted or seconds >= config.every_seconds) and step < run.training.steps


def _check_finite(run: _Run, epoch: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise WorkFailed(
            f"loss is {loss} in epoch {epoch + 1} of {run.recipe.name}; lower optimiser.learning_rate "
            f"(now {run.recipe.optimiser.learning_rate:g}) or use precision 32-true"
        )


def _step(
    run: _Run, images: torch.Tensor, labels: torch.Tensor, state: TrainingState, number: int
) -> dict[str, torch.Tensor]:
    recipe = run.recipe
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, number, run.training.steps)
    run.optimiser.zero_grad(set_to_none=True)
    with run.fabric.autocast():
        attacked = recipe.defence.craft(images, labels, state)
        loss, scalars = recipe.defence.loss(run.model, images, labels, attacked, state)
    run.fabric.backward(loss)
    if recipe.optimiser.gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(run.detector.parameters(), recipe.optimiser.gradient_clip)
    run.optimiser.step()
    if run.average is not None and recipe.optimiser.ema_decay is not None:
        # early averages follow faster, or the random start would weigh for long
        move_average(run.average, run.detector, min(recipe.optimiser.ema_decay, (1 + number) / (10 + number)))
    if recipe.defence.adversarial:
        run.twin.refresh(run.detector)
    return {"loss": loss.detach(), **scalars}


def _finish_epoch(run: _Run, epoch: int, figures: Record, progress: Progress | None) -> Record:
    recipe = run.recipe
    started = time.perf_counter()
    run.twin.refresh(run.measured)
    chosen = balanced_slice(run.validation, recipe.validation.crops, recipe.seed)
    measured = validate(run.twin, run.validation, recipe.validation.attack(), chosen, recipe.seed)
    steps, size = run.training.steps, run.training.batch_size
    seconds = steps * size / figures["images_per_second"] + time.perf_counter() - started
    record = {
        "epoch": float(epoch + 1),
        **figures,
        **measured,
        "learning_rate": learning_rate(recipe, (epoch + 1) * steps, steps),
        "seconds": seconds,
        "eta_seconds": seconds * (recipe.optimiser.epochs - epoch - 1),
    }
    logger.info(
        "%s epoch %d/%d loss %.4f val auc %.4f robust %.4f, %.0f images/s", recipe.name, epoch + 1,
        recipe.optimiser.epochs, record["loss"], record["val_clean_auc"], record["val_robust_auc"],
        record["images_per_second"],
    )  # fmt: skip
    if progress is not None:
        progress(_progress(run, epoch + 1, (epoch + 1) * steps, record["images_per_second"], record))
    return record


def _select(run: _Run, record: Record) -> None:
    """Keep the weights if they are the best so far; ties go to the lower validation loss."""

    def rank(item: Record) -> tuple[float, ...]:
        robust = (item["val_robust_auc"],) if run.recipe.defence.adversarial else ()
        return (*robust, item["val_clean_auc"], -item["val_loss"])

    if not math.isfinite(record["val_clean_auc"]):
        raise WorkFailed(
            f"validation logits are not finite in epoch {record['epoch']:.0f}; lower the learning rate"
        )
    if not run.best or rank(record) > rank(run.records[run.best_epoch - 1]):
        run.best = {name: value.detach().clone() for name, value in run.measured.state_dict().items()}
        run.best_epoch = int(record["epoch"])
    run.records.append(record)


def _progress(
    run: _Run, epoch: int, step: int, rate: float, record: Record | None = None
) -> TrainingProgress:
    epochs, per_epoch = run.recipe.optimiser.epochs, run.training.steps
    eta = (epochs * per_epoch - step) * run.training.batch_size / rate
    return TrainingProgress(epoch, epochs, step, epochs * per_epoch, rate, eta, record)


def _save(run: _Run, running: _Running | None = None) -> None:
    """Write the checkpoint: between two epochs, or where the running one stands."""
    parts = {
        "best": run.best,
        "model": run.detector.state_dict(),
        "optimiser": optimiser_tensors(run.optimiser),
    }
    if run.average is not None:
        parts["average"] = run.average.state_dict()
    document = {
        "identity": run.identity,
        "windowed": run.training.windowed,
        "records": run.records,
        "best_epoch": run.best_epoch,
    }
    if running is not None:
        parts |= {"totals": running.totals, "random": random_states(running.draws)}
        document |= {"step": running.step, "seconds": running.seconds}
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    save_checkpoint(run.out / CHECKPOINT_FILE, tensors, document)


def _restore(run: _Run) -> None:
    path = run.out / CHECKPOINT_FILE
    tensors, document = load_checkpoint(path)
    if document["identity"] != run.identity:
        raise ConfigError(
            f"expected a checkpoint of the same recipe and data in {path.parent}, "
            "got another's; choose another folder or start without resume"
        )
    if document["windowed"] != run.training.windowed:
        wanted = "stream" if document["windowed"] else "memory"
        raise ConfigError(
            f"expected crops shuffled as in the checkpoint in {path.parent}, got data.residence="
            f"{run.training.crops.residence}; set data.residence={wanted}"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        # random states live on the CPU
        parts.setdefault(part, {})[name] = value if part == "random" else value.to(run.fabric.device)
    run.detector.load_state_dict(parts["model"])
    if run.average is not None:
        run.average.load_state_dict(parts["average"])
    restore_optimiser(run.optimiser, parts["optimiser"])
    run.best, run.best_epoch, run.records = parts.get("best", {}), document["best_epoch"], document["records"]
    if "step" in document:
        run.unfinished = parts, document
    logger.info(
        "resumed %s after epoch %d, step %d", run.recipe.name, len(run.records), document.get("step", 0)
    )


def _summary(run: _Run, store: CropStore) -> dict[str, Any]:
    return {
        "identity": run.identity,
        "recipe": run.recipe.model_dump(mode="json"),
        "data_digest": store.digest,
        "preprocessing": store.config.model_dump(mode="json"),
        "training_groups": list(run.training.crops.group_ids),
        "train_crops": len(run.training),
        "val_crops": len(run.validation),
        "device": str(run.fabric.device),
        "residence": run.training.crops.residence,
        "best_epoch": run.best_epoch,
        "records": run.records,
    }
