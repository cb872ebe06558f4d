"""The training engine: `rampart train --recipe demo_robust --data STORE --out DIR`."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_fabric import Fabric

from dfcore.defences import TrainingState
from dfcore.errors import ConfigError, WorkFailed
from dfcore.models import Detector, FoldedDetector, build_detector, fold_batch_norm, load_detector
from dfcore.provenance import digest_json
from dfcore.training.batches import DeviceCrops, augment, batch_indices, class_weights, load_split
from dfcore.training.checkpoint import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from dfcore.training.output import CHECKPOINT_FILE, is_finished, write_output
from dfcore.training.recipe import Recipe
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
class _Run:
    """The state of one training run; what a checkpoint holds is in `tensors` and `document`."""

    recipe: Recipe
    fabric: Fabric
    detector: Detector
    model: Any
    optimiser: Any
    average: Detector | None
    twin: FoldedDetector
    training: DeviceCrops
    validation: DeviceCrops
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        size = min(self.recipe.data.batch_size, len(self.training))
        return len(self.training) // size

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
    identity = digest_json({"recipe": recipe.model_dump(mode="json"), "data": store.digest})
    if resume and is_finished(out, identity):
        return out
    out.mkdir(parents=True, exist_ok=True)
    run = _prepare(recipe, store, initial, device)
    if resume and (out / CHECKPOINT_FILE).is_file():
        _restore(run, out / CHECKPOINT_FILE, identity)
    for epoch in range(len(run.records), recipe.optimiser.epochs):
        record = _train_epoch(run, epoch, progress)
        _select(run, record)
        tensors, document = _snapshot(run)
        save_checkpoint(out / CHECKPOINT_FILE, tensors, {**document, "identity": identity})
    run.measured.load_state_dict(run.best)
    run.twin.refresh(run.measured)
    write_output(out, run.measured, run.twin, run.validation, _summary(run, store, identity))
    return out


def _prepare(recipe: Recipe, store: CropStore, initial: Path | None, device: Device) -> _Run:
    """Check everything and load the data before any work."""
    detector = _starting_point(recipe, initial)
    fabric = Fabric(accelerator=device, devices=1, precision=recipe.precision)
    training = load_split(store, recipe, recipe.data.train_split, recipe.data.max_train_crops, fabric.device)
    validation = load_split(store, recipe, recipe.data.val_split, recipe.data.max_val_crops, fabric.device)
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
    return _Run(recipe, fabric, detector, model, wrapped, average, twin, training, validation)


def _starting_point(recipe: Recipe, initial: Path | None) -> Detector:
    if not recipe.initialise_from_baseline:
        if initial is not None:
            logger.warning(
                "initial weights ignored: recipe %s has initialise_from_baseline=false", recipe.name
            )
        return build_detector(recipe.model, seed=recipe.seed)
    if initial is None:
        raise ConfigError(
            f"expected initial weights for recipe {recipe.name!r}, got none; give a baseline's folder"
        )
    loaded = load_detector(initial)
    free = {"weights": None, "drop_rate": 0.0}
    if loaded.config.model_copy(update=free) != recipe.model.model_copy(update=free):
        raise ConfigError(
            f"expected initial weights of {recipe.model}, got {loaded.config}; change the recipe's model"
        )
    detector = build_detector(recipe.model.model_copy(update={"weights": None}), seed=recipe.seed)
    detector.load_state_dict(loaded.state_dict())
    detector.calibrate(1.0, 0.0)  # training works on raw logits; calibration comes last
    return detector


def _train_epoch(run: _Run, epoch: int, progress: Progress | None) -> Record:
    recipe, device, steps = run.recipe, run.fabric.device, run.steps_per_epoch
    seed = recipe.seed * 100_003 + epoch  # from the epoch alone, so that resume needs no random state
    order = torch.Generator().manual_seed(seed)
    draws = torch.Generator(device).manual_seed(seed)
    weights = class_weights(run.training.labels, balanced=recipe.data.balanced)
    totals: dict[str, torch.Tensor] = {}
    started, size = time.perf_counter(), min(recipe.data.batch_size, len(run.training))
    labels = run.training.labels.cpu()
    run.model.train()
    run.twin.refresh(run.detector)
    with _seeded(seed, device):
        batches = batch_indices(
            labels, recipe.data.batch_size, balanced=recipe.data.balanced, generator=order
        )
        for step, indices in enumerate(batches, start=1):
            images, targets = run.training.take(indices)
            images = augment(images, recipe.data.augmentation, draws)
            state = TrainingState(epoch + step / steps, weights, run.twin, draws)
            for name, value in _step(run, images, targets, state, epoch * steps + step).items():
                totals[name] = totals.get(name, 0) + value  # stays on the device
            if progress is not None:
                rate = step * size / (time.perf_counter() - started)
                progress(_progress(run, epoch, epoch * steps + step, rate))
    sums = {
        name: float(value) / steps for name, value in totals.items()
    }  # the epoch's first wait for the device
    seconds = time.perf_counter() - started
    if not math.isfinite(sums["loss"]):
        raise WorkFailed(
            f"loss is {sums['loss']} in epoch {epoch + 1} of {recipe.name}; lower optimiser.learning_rate "
            f"(now {recipe.optimiser.learning_rate:g}) or use precision 32-true"
        )
    return _finish_epoch(run, epoch, {**sums, "images_per_second": steps * size / seconds}, progress)


def _step(
    run: _Run, images: torch.Tensor, labels: torch.Tensor, state: TrainingState, number: int
) -> dict[str, torch.Tensor]:
    recipe = run.recipe
    for group in run.optimiser.param_groups:
        group["lr"] = _learning_rate(recipe, number, run.steps_per_epoch)
    run.optimiser.zero_grad(set_to_none=True)
    with run.fabric.autocast():
        loss, scalars = recipe.defence.loss(run.model, images, labels, state)
    run.fabric.backward(loss)
    if recipe.optimiser.gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(run.detector.parameters(), recipe.optimiser.gradient_clip)
    run.optimiser.step()
    if run.average is not None and recipe.optimiser.ema_decay is not None:
        # early averages follow faster, or the random start would weigh for long
        _average(run.average, run.detector, min(recipe.optimiser.ema_decay, (1 + number) / (10 + number)))
    if recipe.defence.adversarial:
        run.twin.refresh(run.detector)
    return {"loss": loss.detach(), **scalars}


def _finish_epoch(run: _Run, epoch: int, figures: Record, progress: Progress | None) -> Record:
    recipe = run.recipe
    started = time.perf_counter()
    run.twin.refresh(run.measured)
    chosen = balanced_slice(run.validation, recipe.validation.crops, recipe.seed)
    measured = validate(run.twin, run.validation, recipe.validation.attack(), chosen, recipe.seed)
    steps, size = run.steps_per_epoch, min(recipe.data.batch_size, len(run.training))
    seconds = steps * size / figures["images_per_second"] + time.perf_counter() - started
    record = {
        "epoch": float(epoch + 1),
        **figures,
        **measured,
        "learning_rate": _learning_rate(recipe, (epoch + 1) * steps, steps),
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


def _learning_rate(recipe: Recipe, number: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak; `number` counts from 1."""
    optimiser = recipe.optimiser
    warmup = optimiser.warmup_epochs * steps_per_epoch
    if number < warmup:
        return optimiser.learning_rate * number / warmup
    left = max(optimiser.epochs * steps_per_epoch - warmup, 1)
    done = min(max((number - warmup) / left, 0.0), 1.0)
    return optimiser.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def _average(average: Detector, detector: Detector, decay: float) -> None:
    """Move the average, batch statistics included, towards the current weights."""
    mine, theirs = average.state_dict(), detector.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what has no generator of its own (dropout), and give the caller's random state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _progress(
    run: _Run, epoch: int, step: int, rate: float, record: Record | None = None
) -> TrainingProgress:
    epochs, per_epoch = run.recipe.optimiser.epochs, run.steps_per_epoch
    size = min(run.recipe.data.batch_size, len(run.training))
    eta = (epochs * per_epoch - step) * size / rate
    return TrainingProgress(epoch, epochs, step, epochs * per_epoch, rate, eta, record)


def _snapshot(run: _Run) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    parts = {
        "best": run.best,
        "model": run.detector.state_dict(),
        "optimiser": optimiser_tensors(run.optimiser),
    }
    if run.average is not None:
        parts["average"] = run.average.state_dict()
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    return tensors, {"records": run.records, "best_epoch": run.best_epoch}


def _restore(run: _Run, path: Path, identity: str) -> None:
    tensors, document = load_checkpoint(path)
    if document["identity"] != identity:
        raise ConfigError(
            f"expected a checkpoint of the same recipe and data in {path.parent}, "
            "got another's; choose another folder or start without resume"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value.to(run.fabric.device)
    run.detector.load_state_dict(parts["model"])
    if run.average is not None:
        run.average.load_state_dict(parts["average"])
    restore_optimiser(run.optimiser, parts["optimiser"])
    run.best, run.best_epoch, run.records = parts["best"], document["best_epoch"], document["records"]
    logger.info("resumed %s after epoch %d", run.recipe.name, len(run.records))


def _summary(run: _Run, store: CropStore, identity: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "recipe": run.recipe.model_dump(mode="json"),
        "data_digest": store.digest,
        "preprocessing": store.config.model_dump(mode="json"),
        "training_groups": list(run.training.group_ids),
        "train_crops": len(run.training),
        "val_crops": len(run.validation),
        "device": str(run.fabric.device),
        "best_epoch": run.best_epoch,
        "records": run.records,
    }
