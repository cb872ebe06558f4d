"""Component: train one detector on a crop store."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def train_detector(  # noqa: PLR0913  # KFP: inputs, outputs and settings in one signature
    store: dsl.Input[dsl.Dataset],
    name: str,
    recipe: str,
    model: dsl.Output[dsl.Model],
    initial: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045  # KFP reads it
    overrides: list = [],  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default, nothing writes to it
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
    checkpoints: str = "",  # KFP's local runner can't hand on a pipeline's None
    train_job: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default
) -> None:
    """Train by a recipe; the test split is never read.

    Args:
        store: the crop store.
        name: what this detector is called in progress and reports.
        recipe: a name in `dfcore.recipes`.
        model: weights.safetensors, detector.json, training.json.
        initial: a detector to start from, used if the recipe asks for it.
        overrides: `key=value` settings on top of the recipe.
        cache: a folder in which unchanged work is found again.
        checkpoints: an object store from which a lost pod's successor goes on, or "".
        train_job: keys of `TrainJobSettings`, to train on several machines; empty trains in this pod.
    """
    from pathlib import Path
    from typing import Any

    from components.progress import say
    from components.reuse import code_digest, folder_digest, reuse
    from components.train_job import run_train_job
    from components.training import TrainingOrder, run_training
    from dfcore.data import CropStore
    from dfcore.provenance import digest_json

    order = TrainingOrder(f"train {name}", recipe, tuple(overrides), store.path)
    settings = order.settings()
    if initial and settings.initialise_from_baseline:
        order = order._replace(initial=initial.path)
    say(order.step, f"recipe {settings.name}" + (", from the baseline's weights" if order.initial else ""))
    code = ("training", "defences", "attacks", "models", "data", "preprocessing", "shapes", "config")
    inputs: dict[str, Any] = {
        "store": CropStore.open(Path(store.path)).digest,
        "recipe": settings.model_dump(mode="json"),
    }
    inputs |= {"initial": folder_digest(Path(order.initial)) if order.initial else None}
    inputs |= {"code": code_digest(code)}

    def work(out: Path) -> None:
        if train_job:
            run_train_job(order, out, checkpoints or None, digest_json(inputs), train_job)
        else:
            run_training(order, out, checkpoints or None, digest_json(inputs))

    reused = reuse("train", inputs, cache=cache, out=Path(model.path), resumable=True, work=work)
    say(order.step, "reused: crops, recipe and code are unchanged" if reused else "done")
