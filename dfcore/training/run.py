"""Everything that one run is made of: data, weights, optimiser, twin, players; and how it is put together."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning_fabric import Fabric

from dfcore.attacks import Player
from dfcore.data.loader import CropLoader, SplitCrops
from dfcore.data.sampling import epoch_seed
from dfcore.errors import ConfigError
from dfcore.models import Detector, FoldedDetector, fold_batch_norm
from dfcore.provenance import digest_json
from dfcore.training.batches import check_classes, load_split
from dfcore.training.guard import Guard
from dfcore.training.initial import initial_digest, starting_point
from dfcore.training.progress import Record
from dfcore.training.recipe import Recipe
from dfcore.training.schedule import build_optimiser

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["Identity", "Run", "identity_of", "prepare", "random_seed", "summary"]

_RANK_BITS = 40


class Identity(NamedTuple):
    """All that decides a run's result.

    Attributes:
        digest: of it all, the data included.
        settings: the recipe's, and the digest of the weights that it starts from unless they are fresh.
    """

    digest: str
    settings: dict[str, Any]


@dataclass
class Run:
    """The state of one training run, the same in every process but for its share of the crops.

    Attributes:
        average: the averaged weights, or None.
        twin: for crafting and measuring.
        players: the learned attackers of the defence.
        skips: steps in a row that the scaler left out, on the device.
        guard: ends the run at a loss that is not finite.
        best, best_epoch: the selected weights so far.
        records: one for each epoch done.
        compiled: whether the twin is.
        validation_seconds: what the last validation took.
        unfinished: where a checkpoint in mid-epoch stands: tensors by part, and its document.
    """

    recipe: Recipe
    fabric: Fabric
    detector: Detector
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Detector | None
    twin: FoldedDetector
    players: dict[str, Player]
    training: CropLoader
    validation: SplitCrops
    out: Path
    identity: Identity
    guard: Guard
    skips: torch.Tensor
    compiled: bool = False
    validation_seconds: float = 0.0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    records: list[Record] = field(default_factory=list)
    unfinished: tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None = None

    @property
    def measured(self) -> Detector:
        """The weights that are validated and kept."""
        return self.detector if self.average is None else self.average

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device


def identity_of(recipe: Recipe, store: CropStore, initial: Path | None) -> Identity:
    """Say what decides a run's result.

    Raises:
        ConfigError: initial weights and recipe do not fit each other.
    """
    settings, weights = recipe.identity(), initial_digest(recipe, initial)
    if weights is not None:
        settings["initial_weights"] = weights
    return Identity(digest_json({"recipe": settings, "data": store.digest}), settings)


def random_seed(run: Run, epoch: int) -> int:
    """Return the seed of a process's augmentation, random starts and dropout in an epoch."""
    return epoch_seed(run.recipe.seed, epoch) + (run.fabric.global_rank << _RANK_BITS)


def prepare(recipe: Recipe, store: CropStore, initial: Path | None, fabric: Fabric, out: Path) -> Run:
    """Check everything and load the data before any work.

    Raises:
        ConfigError: recipe, store, initial weights and number of processes do not fit each other.
        DataError: a split lacks a class.
    """
    identity = identity_of(recipe, store, initial)
    detector = starting_point(recipe, initial)
    recipe.defence.check(detector)
    data, device = recipe.data, fabric.device
    crops = load_split(store, recipe, data.train_split, data.max_train_crops, fabric)
    training = CropLoader(
        crops, data, seed=recipe.seed, rank=fabric.global_rank, world_size=fabric.world_size
    )
    _check_parts(training, recipe, fabric.world_size)
    validation = load_split(store, recipe, data.val_split, data.max_val_crops, fabric)
    check_classes(validation, data.val_split)
    detector.to(device)
    detector.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(detector, recipe.optimiser)
    rank = fabric.global_rank
    return Run(
        recipe=recipe,
        fabric=fabric,
        detector=detector,
        optimiser=optimiser,
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.precision == "16-mixed"),
        average=None if recipe.optimiser.ema_decay is None else copy.deepcopy(detector).eval(),
        twin=fold_batch_norm(detector),
        players={
            name: Player(attack, device, recipe.seed + number)
            for number, (name, attack) in enumerate(recipe.defence.attackers().items())
        },
        training=training,
        validation=validation,
        out=out,
        identity=identity,
        guard=Guard(recipe, out, lagged=_skips_by_itself(optimiser), suffix=f"_{rank}" if rank else ""),
        skips=torch.zeros((), device=device),
    )


def _skips_by_itself(optimiser: torch.optim.Optimizer) -> bool:
    """Whether a flag on the device makes the optimiser leave out a step."""
    return bool(optimiser.param_groups[0].get("fused"))


def _check_parts(training: CropLoader, recipe: Recipe, world_size: int) -> None:
    """Require a crop for each part of each process in every batch, the last one included.

    Raises:
        ConfigError: there are too few.
    """
    shares = world_size * recipe.optimiser.accumulate
    last = len(training) % training.batch_size if recipe.data.last_batch == "keep" else 0
    smallest = min(training.batch_size, last or training.batch_size)
    if smallest < shares:
        raise ConfigError(
            f"expected a crop for each of {world_size} processes x {recipe.optimiser.accumulate} parts in "
            f"every batch, got one of {smallest} crops; use data.last_batch=drop or pad, or lower "
            "optimiser.accumulate"
        )


def summary(run: Run, store: CropStore, stopped: str | None) -> dict[str, Any]:
    """Return what `training.json` says of a run."""
    return {
        "identity": run.identity.digest,
        "recipe": run.recipe.model_dump(mode="json"),
        "initial_weights": run.identity.settings.get("initial_weights"),
        "data_digest": store.digest,
        "preprocessing": store.config.model_dump(mode="json"),
        "training_groups": list(run.training.crops.group_ids),
        "validation_groups": list(run.validation.group_ids),
        "train_crops": len(run.training),
        "val_crops": len(run.validation),
        "device": str(run.device),
        "processes": run.fabric.world_size,
        "residence": run.training.crops.residence,
        "best_epoch": run.best_epoch,
        "stopped": stopped,
        "records": run.records,
    }
