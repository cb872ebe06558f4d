"""rampart pipeline compile | run | submit | schedule | status | logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rampart.output import Json, Set, emit

if TYPE_CHECKING:
    from pipelines.endpoint import Endpoint
    from pipelines.platform import Platform
    from pipelines.submit import Run

app = typer.Typer(help="The pipelines: as YAML for a cluster, on a KFP server, or run on this machine.",
                  no_args_is_help=True)  # fmt: skip

Name = Annotated[
    str, typer.Option("--pipeline", help="train_and_release, or the recurring audit_robustness.")
]
Values = Annotated[
    Path, typer.Option(help="The platform's values (docs/pipelines.md), or a chart's with them inside.")
]
Address = Annotated[
    str | None,
    typer.Option("--endpoint", envvar="KFP_ENDPOINT", help="The KFP server; else the values' endpoint."),
]
TokenFile = Annotated[
    Path | None, typer.Option(envvar="KFP_TOKEN_FILE", help="File with a bearer token for it.")
]
User = Annotated[
    str | None, typer.Option(envvar="KFP_USER", help="For Dex; the password is in KFP_PASSWORD.")
]
RunId = Annotated[str, typer.Argument(help="The run's id.")]

_EXIT = {"done": 0, "running": 0, "refused": 1, "failed": 3}


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="The YAML file.")] = Path("train_and_release.yaml"),
    name: Name = "train_and_release",
    values: Annotated[
        Path | None, typer.Option(help="The platform's values; without them steps get no place.")
    ] = None,
    manifests: Annotated[
        bool, typer.Option("--manifests", help="Pipeline and PipelineVersion objects, for GitOps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a pipeline as YAML for a KFP server, or as Kubernetes objects."""
    from pipelines.compile import compile_pipeline
    from pipelines.platform import load_platform

    compile_pipeline(out, name, None if values is None else load_platform(values), manifests=manifests)
    emit({"pipeline": str(out)}, as_json, f"wrote {out}")


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="The data set to train on.")],
    cross_data: Annotated[Path, typer.Option(help="Another data set, only tested on.")],
    out: Annotated[Path, typer.Option(help="The run folder.")],
    registry: Annotated[
        str | None, typer.Option(help="file://… or s3://…; default: in the run folder.")
    ] = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Run the pipeline with KFP's local runner; `--set` takes any parameter of the pipeline."""
    from rampart.local_run import run_locally
    from rampart.steps import Steps

    arguments: dict[str, Any] = {
        "data_root": str(data.resolve()),
        "cross_root": str(cross_data.resolve()),
        "registry": registry or f"file://{(out / 'registry').resolve()}",
        "cache": str((out / "cache").resolve()),
        **parse_assignments(assignments or []),
    }
    with Steps() as steps:
        outputs = run_locally(arguments, out, steps)
    document = {"outputs": outputs, "seconds": steps.seconds, "reused": steps.reused}
    emit(document, as_json, f"released {outputs['uri']}" if outputs["uri"] else "nothing released")


@app.command()
def submit(  # noqa: PLR0913  # each argument is one option
    values: Values,
    name: Name = "train_and_release",
    endpoint: Address = None,
    token_file: TokenFile = None,
    user: User = None,
    wait: Annotated[
        bool, typer.Option(help="Until the run ends; exit code 1 if the gate said no, 3 if it failed.")
    ] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the run goes on.")] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 10.0,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Start a run on a KFP server; `--set` takes any parameter of the pipeline."""
    from pipelines.submit import submit  # fmt: skip
    from pipelines.submit import wait as watch

    platform = _platform(values)
    server = _connect(endpoint or platform.endpoint, token_file, user)
    run_id = submit(server, name, platform, parse_assignments(assignments or []))
    if not wait:
        emit({"run": run_id}, as_json, f"run {run_id}: {server.address}/#/runs/details/{run_id}")
        return
    _say(f"run {run_id}: {server.address}/#/runs/details/{run_id}")
    _finish(watch(server, run_id, _Progress(), seconds=timeout, every=every), as_json)


@app.command()
def schedule(  # noqa: PLR0913  # each argument is one option
    values: Values,
    cron: Annotated[str, typer.Option(help="Six fields, seconds first: '0 0 3 * * 1' is Mondays at 3.")],
    name: Name = "audit_robustness",
    endpoint: Address = None,
    token_file: TokenFile = None,
    user: User = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Have a KFP server run a pipeline again and again."""
    from pipelines.submit import schedule

    platform = _platform(values)
    server = _connect(endpoint or platform.endpoint, token_file, user)
    made = schedule(server, name, platform, parse_assignments(assignments or []), cron)
    emit({"recurring_run": made}, as_json, f"{name} runs at {cron!r}: {made}")


@app.command()
def status(
    run_id: RunId,
    endpoint: Address = None,
    token_file: TokenFile = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show where a run stands; exit code 1 if the gate said no, 3 if it failed."""
    from pipelines.submit import read_run
    from rampart.output import table

    found = read_run(_connect(endpoint, token_file, user), run_id)
    rows = [[step.name, step.state.lower(), step.error] for step in found.steps]
    table(f"{found.name}: {found.state.lower()}", ["step", "state", "error"], rows)
    _finish(found, as_json)


@app.command()
def logs(
    run_id: RunId,
    step: Annotated[str | None, typer.Option(help="Only steps with this in their name.")] = None,
    endpoint: Address = None,
    token_file: TokenFile = None,
    user: User = None,
) -> None:
    """Write the log of a run's pods to standard output."""
    from pipelines.submit import logs

    for name, text in logs(_connect(endpoint, token_file, user), run_id, step):
        emit(None, as_json=False, text=f"==> {name}\n{text.rstrip()}")


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Read key=value pairs, values as YAML.

    Raises:
        ConfigError: a pair without "=".
    """
    import yaml

    from dfcore.errors import ConfigError

    parsed = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"expected key=value after --set, got {assignment!r}")
        parsed[key] = yaml.safe_load(text)
    return parsed


class _Progress:
    """Say which steps run, whenever that changes."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def __call__(self, run: Run) -> None:
        for step in run.steps:
            if step.pods and self._told.get(step.name) != step.state:
                self._told[step.name] = step.state
                _say(f"{step.name}: {step.state.lower()}" + (f": {step.error}" if step.error else ""))


def _platform(values: Path) -> Platform:
    from pipelines.platform import load_platform

    return load_platform(values)


def _connect(address: str | None, token_file: Path | None, user: str | None) -> Endpoint:
    import os

    from pipelines.endpoint import Credentials, Endpoint

    password = os.environ.get("KFP_PASSWORD") if user is not None else None
    return Endpoint(address, Credentials(token_file, user, password))


def _finish(run: Run, as_json: bool) -> None:
    document = {
        "run": run.id, "state": run.state, "verdict": run.verdict,
        "steps": {step.name: step.state for step in run.steps},
    }  # fmt: skip
    emit(document, as_json, f"run {run.id}: {run.verdict}" + (f": {run.error}" if run.error else ""))
    if code := _EXIT[run.verdict]:
        raise typer.Exit(code)


def _say(text: str) -> None:
    from rampart.output import console

    console().print(text, markup=False)
