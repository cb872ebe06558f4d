"""A run into a checkpoint and back: between two epochs, or in the middle of one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from dfcore.errors import ConfigError
from dfcore.training.checkpoint import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from dfcore.training.output import CHECKPOINT_FILE, TRAINING_FILE
from dfcore.training.processes import gather
from dfcore.training.randomness import random_states
from dfcore.training.run import Identity, Run
from dfcore.training.running import Running

__all__ = ["is_finished", "restore_run", "save_run"]

logger = logging.getLogger(__name__)

_NAMED = 5
# these replace what a run has; everything else is copied into tensors that lie where they should
_ON_DEVICE = ("best", "totals")


def save_run(run: Run, running: Running | None = None) -> None:
    """Write the checkpoint: between two epochs, or where the running one stands.

    Every process calls it and the first one writes; only random states and counts differ between them.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {
        "best": run.best,
        "model": run.detector.state_dict(),
        "optimiser": optimiser_tensors(run.optimiser),
        "scaler": {"skips": run.skips},
    }
    if run.average is not None:
        parts["average"] = run.average.state_dict()
    for name, player in run.players.items():
        parts[f"player.{name}.network"] = player.network.state_dict()
        parts[f"player.{name}.optimiser"] = optimiser_tensors(player.optimiser)
    document: dict[str, Any] = {
        "identity": run.identity.digest,
        "recipe": run.identity.settings,
        "windowed": run.training.windowed,
        "records": run.records,
        "best_epoch": run.best_epoch,
        "scaler": run.scaler.state_dict(),
    }
    if running is not None:
        own = {**random_states(running.draws), "crops": torch.tensor(running.crops)}
        parts["totals"] = running.totals
        parts |= {f"process.{rank}": values for rank, values in enumerate(gather(own, run.fabric))}
        document |= {
            "step": running.step,
            "seconds": running.seconds,
            "processes": run.fabric.world_size,
        }
    if run.fabric.is_global_zero:
        flat = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        save_checkpoint(run.out / CHECKPOINT_FILE, flat, document)


def is_finished(out: Path, identity: Identity) -> bool:
    """Whether the same run has already been completed in this folder.

    Raises:
        ConfigError: another one has.
    """
    try:
        document = json.loads((out / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False  # not there, or not whole: the work is done again
    if document.get("identity") == identity.digest:
        return True
    if (out / CHECKPOINT_FILE).is_file():
        return False  # it was written later, and knows itself whose it is
    theirs = {**document.get("recipe", {}), "initial_weights": document.get("initial_weights")}
    # these are no part of an identity
    theirs.pop("checkpoint", None)
    theirs.get("data", {}).pop("residence", None)
    raise ConfigError(
        f"expected a run of the same recipe and data in {out}, got another's finished detector: "
        f"{_shown(theirs, identity)}; choose another folder"
    )


def restore_run(run: Run) -> None:
    """Go on from the checkpoint in the run's folder.

    Raises:
        ConfigError: it is of another recipe, other data or other initial weights, or its running epoch was
            shuffled or shared otherwise.
        WorkFailed: the file is damaged.
    """
    tensors, document = load_checkpoint(run.out / CHECKPOINT_FILE)
    _check(run, document)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value.to(run.device) if part in _ON_DEVICE else value
    run.detector.load_state_dict(parts["model"])
    if run.average is not None:
        run.average.load_state_dict(parts["average"])
    # it has none yet where the scaler has left out every step
    restore_optimiser(run.optimiser, parts.get("optimiser", {}))
    for name, player in run.players.items():
        player.network.load_state_dict(parts[f"player.{name}.network"])
        restore_optimiser(player.optimiser, parts.get(f"player.{name}.optimiser", {}))
    run.scaler.load_state_dict(document["scaler"])
    run.skips.copy_(parts["scaler"]["skips"])
    run.best, run.best_epoch, run.records = parts.get("best", {}), document["best_epoch"], document["records"]
    if "step" in document:
        run.unfinished = parts, document
    logger.info(
        "resumed %s after epoch %d, step %d", run.recipe.name, len(run.records), document.get("step", 0)
    )


def _check(run: Run, document: dict[str, Any]) -> None:
    if document["identity"] != run.identity.digest:
        raise ConfigError(
            f"expected a checkpoint of the same recipe and data in {run.out}, got another's: "
            f"{_shown(document.get('recipe', {}), run.identity)}; choose another folder"
        )
    if document["windowed"] != run.training.windowed:
        wanted = "stream" if document["windowed"] else "memory"
        raise ConfigError(
            f"expected crops shuffled as in the checkpoint in {run.out}, got data.residence="
            f"{run.training.crops.residence}; set data.residence={wanted}"
        )
    processes = document.get("processes", run.fabric.world_size)
    if processes != run.fabric.world_size:
        raise ConfigError(
            f"expected {processes} processes, as the checkpoint in {run.out} stands in the middle of an "
            f"epoch that they share, got {run.fabric.world_size}; start as many to finish that epoch"
        )


def _shown(theirs: dict[str, Any], ours: Identity) -> str:
    return "; ".join(_differences(theirs, ours.settings)[:_NAMED]) or "other data"


def _differences(theirs: Any, ours: Any, place: str = "") -> list[str]:
    """List what differs between two documents: "model.backbone 'resnet18', now 'xception'"."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if theirs == ours else [f"{place} {theirs!r}, now {ours!r}"]
    found = []
    for name in sorted(theirs.keys() | ours.keys()):
        found += _differences(theirs.get(name), ours.get(name), f"{place}.{name}" if place else name)
    return found
