"""rampart train --recipe NAME --data STORE --out DIR [--set k=v] [--resume]."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rampart.output import Json, Set, emit


def train(  # noqa: PLR0913  # each argument is one option
    recipe: Annotated[str, typer.Option(help="A name in dfcore.recipes.")],
    data: Annotated[Path, typer.Option(help="A crop store.")],
    out: Annotated[Path, typer.Option(help="The detector's folder.")],
    initial: Annotated[Path | None, typer.Option(help="A detector to start from.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Train a detector by a recipe."""
    from components.progress import training
    from dfcore.data import CropStore
    from dfcore.errors import ConfigError
    from dfcore.models.card import CARD_FILE
    from dfcore.recipes import get_recipe
    from dfcore.training import train

    if (out / CARD_FILE).exists() and not resume:
        raise ConfigError(
            f"expected {out} to be new, got a folder with a trained detector; choose another or give --resume"
        )
    settings = get_recipe(recipe).override(assignments or [])
    store = CropStore.open(data)
    train(
        settings, store, out, initial=initial, device=device, resume=resume,
        progress=training("train"),
    )  # fmt: skip
    emit({"model": str(out), "recipe": settings.model_dump(mode="json")}, as_json, f"trained {out}")
