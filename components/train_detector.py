"""Component: train one detector on a crop store."""

from typing import Optional

from kfp import dsl

from components.images import component


@component
def train_detector(
    store: dsl.Input[dsl.Dataset],
    name: str,
    recipe: str,
    model: dsl.Output[dsl.Model],
    initial: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045  # KFP reads it
    overrides: list = [],  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default, nothing writes to it
    cache: Optional[str] = None,  # noqa: UP045  # KFP reads this annotation
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
    """
    from pathlib import Path

    from components.progress import say, training
    from components.reuse import code_digest, folder_digest, reuse
    from dfcore.data import CropStore
    from dfcore.recipes import get_recipe
    from dfcore.training import preflight, train

    step = f"train {name}"
    settings = get_recipe(recipe).override(overrides)
    crops = CropStore.open(Path(store.path))
    start = Path(initial.path) if initial and settings.initialise_from_baseline else None
    say(step, f"recipe {settings.name}" + (", from the baseline's weights" if start else ""))

    def work(out: Path) -> None:
        if (expected := preflight(settings, crops, initial=start)) is not None:
            say(step, f"expected: {expected.describe()}")
        train(settings, crops, out, initial=start, progress=training(step), resume=True)

    code = ("training", "defences", "attacks", "models", "data", "preprocessing", "shapes", "config")
    reused = reuse(
        "train",
        {
            "store": crops.digest,
            "recipe": settings.model_dump(mode="json"),
            "initial": folder_digest(start) if start else None,
            "code": code_digest(code),
        },
        cache=cache,
        out=Path(model.path),
        resumable=True,
        work=work,
    )
    say(step, "reused: crops, recipe and code are unchanged" if reused else "done")
