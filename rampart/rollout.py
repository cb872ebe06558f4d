"""rampart rollout start | status | abort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rampart.output import Json, emit

if TYPE_CHECKING:
    from rollout import RolloutSettings, State

app = typer.Typer(help="Give a published version the traffic of a cluster, step by step.",
                  no_args_is_help=True)  # fmt: skip

Name = Annotated[str, typer.Argument(help="The model's name.")]
Values = Annotated[
    Path, typer.Option(help="The rollout's values (docs/rollout.md), or the platform's with `rollout:`.")
]
Store = Annotated[
    str, typer.Option("--store", envvar="RAMPART_REGISTRY", help="file://… or s3://… of the registry.")
]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; default: the current one.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Of the InferenceService.")]


@app.command()
def start(
    name: Name,
    version: Annotated[str, typer.Argument(help="A published version.")],
    store: Store,
    values: Values,
    context: Context = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Own fields that somebody else set.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Roll a version out as a canary; exit code 1 if it was rolled back."""
    from rampart.output import console
    from rollout import Cluster, Release, roll_out

    settings = _settings(values)
    if take_over:
        settings = settings.model_copy(update={"take_over": True})
    cluster = Cluster.connect(settings.namespace, context=context)
    release = Release(store, name, version)
    end = roll_out(cluster, release, settings, say=lambda text: console().print(text, markup=False))
    _show(end, as_json)
    if end.phase != "promoted":
        raise typer.Exit(1)


@app.command()
def status(
    service: Annotated[str, typer.Argument(help="The InferenceService.")],
    namespace: Namespace = "default",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Show the last rollout of a service: version, share of the traffic, every check of the last look."""
    from dfcore.errors import DataError
    from rampart.output import table
    from rollout import Cluster, read_state

    state = read_state(Cluster.connect(namespace, context=context), service)
    if state is None:
        raise DataError(f"expected a rollout of {service!r} in {namespace!r}, found none")
    if state.checks:
        rows = [[check.name, "yes" if check.passed else "no", check.detail] for check in state.checks]
        table("last look", ["check", "passed", "detail"], rows)
    _show(state, as_json)


@app.command()
def abort(name: Name, store: Store, values: Values, context: Context = None, as_json: Json = False) -> None:
    """End a rollout that is under way; all traffic goes back to the version before."""
    from rollout import Cluster, Release, abort

    settings = _settings(values)
    cluster = Cluster.connect(settings.namespace, context=context)
    _show(abort(cluster, Release(store, name, ""), settings), as_json)


def _settings(path: Path) -> RolloutSettings:
    from dfcore.config import read_yaml
    from rollout import RolloutSettings, rollout_values

    return RolloutSettings.parse(rollout_values(read_yaml(path, "the rollout's values")), source=str(path))


def _show(state: State, as_json: bool) -> None:
    alive = "" if state.alive or not state.running else "; its process is gone: start again, or abort"
    reason = f": {state.reason}" if state.reason else ""
    text = f"{state.version} {state.phase}, {state.weight} % of the traffic{reason}{alive}"
    emit(state.model_dump(mode="json"), as_json, text)
