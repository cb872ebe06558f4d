"""How a training step runs: in this process, or by torchrun on the pod's GPUs; never lost with a pod."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dfcore.training import Recipe

__all__ = ["TrainingOrder", "read_order", "run_training", "torchrun", "train_here"]

_ORDER = "order.json"


class TrainingOrder(NamedTuple):
    """What to train, as plain data: it goes to processes and machines of its own.

    Attributes:
        step: what progress calls it.
        recipe: a name in `dfcore.recipes`.
        overrides: `key=value` settings on top of it.
        store: the crop store, a folder or s3://….
        initial: the detector to start from, or None.
    """

    step: str
    recipe: str
    overrides: tuple[str, ...]
    store: str
    initial: str | None = None

    def settings(self) -> "Recipe":
        """Return the recipe."""
        from dfcore.recipes import get_recipe

        return get_recipe(self.recipe).override(self.overrides)


def run_training(order: TrainingOrder, out: Path, checkpoints: str | None, key: str) -> None:
    """Train in one pod, with as many processes as RAMPART_PROCESSES says (the platform sets it to its GPUs).

    Args:
        order: what to train.
        out: the detector's folder; a checkpoint in it is gone on from.
        checkpoints: an object store that keeps the checkpoint when the pod is lost, such as s3://bucket/runs.
        key: names the run there: equal for equal work.

    Raises:
        WorkFailed: torchrun's processes failed.
    """
    from components.checkpoints import mirrored

    out.mkdir(parents=True, exist_ok=True)
    processes = int(os.environ.get("RAMPART_PROCESSES", "1"))
    with mirrored(out, checkpoints, key, order.step):
        if processes > 1:
            torchrun(order, out, ["--standalone", "--nproc_per_node", str(processes)])
            return
        train_here(order, out)


def train_here(order: TrainingOrder, out: Path, *, ahead: bool = True) -> None:
    """Train in this process, going on from what is in the folder; `ahead` says first what it will take."""
    from components.progress import say, training
    from dfcore.data import CropStore
    from dfcore.training import preflight, train

    settings, crops = order.settings(), CropStore.open(order.store)
    start = None if order.initial is None else Path(order.initial)
    if ahead and (expected := preflight(settings, crops, initial=start)) is not None:
        say(order.step, f"expected: {expected.describe()}")
    train(settings, crops, out, initial=start, progress=training(order.step), resume=True)


def read_order(document: Mapping[str, Any]) -> TrainingOrder:
    """Read one."""
    return TrainingOrder(**{**document, "overrides": tuple(document["overrides"])})


def torchrun(order: TrainingOrder, out: Path, options: list[str]) -> None:
    """Train with several processes.

    Args:
        order: what to train.
        out: the detector's folder.
        options: torchrun's, on top of its PET_ variables.

    Raises:
        WorkFailed: one of them failed.
    """
    from components.writing import write_text
    from dfcore.errors import WorkFailed

    path = out / _ORDER
    write_text(path, json.dumps(order._asdict()))
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "components.train_process"]
    try:
        subprocess.run([*command, str(path), str(out)], check=True)
    except subprocess.CalledProcessError as error:
        raise WorkFailed(
            f"expected torchrun to train, got exit code {error.returncode}; its log above says why; run "
            "again to go on from the last checkpoint"
        ) from error
    finally:
        path.unlink(missing_ok=True)
