"""rampart gate --evidence DIR --policy NAME [--baseline DIR] [--current DIR]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, emit, table

if TYPE_CHECKING:
    from dfcore.release import Decision


def gate(
    evidence: Annotated[Path, typer.Option(help="The candidate's evidence folder.")],
    policy: Annotated[str, typer.Option(help="A policy's name or YAML file.")] = "standard",
    baseline: Annotated[Path | None, typer.Option(help="What improvements are measured from.")] = None,
    current: Annotated[Path | None, typer.Option(help="Evidence of what is served now.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what would have to improve.")] = False,
    as_json: Json = False,
) -> None:
    """Decide whether a detector may be released; exit code 1 if not."""
    from dfcore.release import advise, check_gate, load_policy

    decision = check_gate(evidence, load_policy(policy), baseline=baseline, current=current)
    show(f"gate, policy {policy}", decision)
    document, text = decision.model_dump(mode="json"), "promoted" if decision.promoted else "stopped"
    if explain:
        document["advice"] = advise(decision)
        text = "\n".join([text, *document["advice"]])
    emit(document, as_json, text)
    if not decision.promoted:
        raise typer.Exit(1)


def show(title: str, decision: Decision) -> None:
    """Show a decision rule by rule."""
    rows = [
        [rule.name, "pass" if rule.passed else "FAIL", _number(rule.value), _number(rule.bound), rule.detail]
        for rule in decision.rules
    ]
    table(title, ["rule", "", "value", "bound", "detail"], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
