"""rampart models list."""

from __future__ import annotations

from typing import Any

import typer

from rampart.output import Json, emit

app = typer.Typer(help="Recipes, detectors and what they cost.", no_args_is_help=True)

_COLUMNS = ("recipe", "defence", "backbone", "image_size", "parameters", "flops")


@app.callback()
def models() -> None:
    """Recipes, detectors and what they cost."""


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the recipes, then the detectors: parameters, and operations (FLOPs) for one image."""
    from dfcore.models import DETECTORS
    from dfcore.recipes import RECIPES, get_recipe

    rows = []
    for name in sorted(RECIPES):
        recipe = get_recipe(name)
        rows.append(_row(recipe.model, name, recipe.defence.kind))
    rows.extend(_row(config, None, None) for config in DETECTORS.values())
    emit(rows, as_json, _table(rows))


def _row(config: Any, recipe: str | None, defence: str | None) -> dict[str, Any]:
    from dfcore.models import detector_cost

    cost = detector_cost(config)
    return {
        "recipe": recipe, "backbone": config.backbone, "image_size": config.image_size, "defence": defence,
        "parameters": cost.parameters, "flops": cost.flops,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> str:
    shown = [list(_COLUMNS), *([_cell(column, row[column]) for column in _COLUMNS] for row in rows)]
    widths = [max(len(line[index]) for line in shown) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index > 2 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in shown
    )


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "parameters":
        return f"{value / 1e6:.1f} M"
    return f"{value / 1e9:.2f} G" if column == "flops" else str(value)
