"""rampart pipeline compile | run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rampart.output import Json, Set, emit

app = typer.Typer(help="The pipeline train_and_release: as YAML for a cluster, or run on this machine.",
                  no_args_is_help=True)  # fmt: skip


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="The YAML file.")] = Path("train_and_release.yaml"),
    as_json: Json = False,
) -> None:
    """Write the pipeline as YAML for a KFP server."""
    from pipelines.compile import compile_pipeline

    compile_pipeline(out)
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
