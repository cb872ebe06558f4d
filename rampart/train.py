"""rampart train --recipe NAME --data STORE --out DIR [--set k=v] [--resume] [--dry-run].

On several GPUs: torchrun --nproc_per_node 4 -m rampart train …
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rampart.output import Json, Set, emit


def train(  # noqa: PLR0913  # each argument is one option
    recipe: Annotated[str, typer.Option(help="A name in dfcore.recipes.")],
    data: Annotated[Path, typer.Option(help="A crop store.")],
    out: Annotated[Path, typer.Option(help="The detector's folder.")],
    initial: Annotated[Path | None, typer.Option(help="A detector to start from.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run will take, by two steps of it.")
    ] = False,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Train a detector by a recipe."""
    from components.checkpoints import CHECKPOINT
    from components.progress import say, training
    from dfcore.data import CropStore
    from dfcore.errors import ConfigError
    from dfcore.models.card import CARD_FILE
    from dfcore.recipes import get_recipe
    from dfcore.training import preflight, train

    if not (resume or dry_run):
        for name, what in ((CARD_FILE, "a trained detector"), (CHECKPOINT, "an interrupted run")):
            if (out / name).exists():
                raise ConfigError(
                    f"expected {out} to be new, got a folder with {what}; choose another, or give "
                    "--resume to go on"
                )
    first = os.environ.get("RANK", "0") == "0"  # torchrun's
    settings = get_recipe(recipe).override(assignments or [])
    store = CropStore.open(data)
    document: dict[str, Any] = {"recipe": settings.model_dump(mode="json")}
    if dry_run or not resume:
        expected = preflight(settings, store, initial=initial, device=device, always=dry_run)
        if expected is not None and first:
            say("train", f"expected: {expected.describe()}")
        document["preflight"] = None if expected is None else expected.document()
    if dry_run:
        text = f"{settings.name} fits; nothing was trained"
    else:
        train(
            settings, store, out, initial=initial, device=device, resume=resume,
            progress=training("train"),
        )  # fmt: skip
        document["model"] = str(out)
        text = f"trained {out}"
    if first:
        emit(document, as_json, text)
