"""rampart models list."""

from __future__ import annotations

import typer

from rampart.output import Json, emit

app = typer.Typer(help="Recipes and what they train.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Recipes and what they train."""


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the recipes with backbone, image size and defence."""
    from dfcore.recipes import RECIPES, get_recipe

    rows = []
    for name in sorted(RECIPES):
        recipe = get_recipe(name)
        rows.append({
            "recipe": name, "backbone": recipe.model.backbone, "image_size": recipe.model.image_size,
            "defence": recipe.defence.kind,
        })  # fmt: skip
    emit(rows, as_json, "\n".join(" ".join(str(value) for value in row.values()) for row in rows))
