"""rampart serve --model URI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(  # noqa: PLR0913  # each argument is one option
    model: Annotated[str, typer.Option(help="A bundle's folder, s3://… or registry://NAME@CHANNEL.")],
    name: Annotated[str, typer.Option(help="The name on the endpoint's path.")] = "rampart",
    role: Annotated[
        str | None, typer.Option(help="all (the default), predictor, transformer or explainer.")
    ] = None,
    predictor_host: Annotated[str | None, typer.Option(help="HOST:PORT, for --role transformer.")] = None,
    host: Annotated[
        str | None, typer.Option(help="What to listen on: 127.0.0.1, or 0.0.0.0 in a container.")
    ] = None,
    http_port: Annotated[int, typer.Option(help="V1, V2, health and /metrics.")] = 8080,
    public_key: Annotated[Path | None, typer.Option(help="What the signature must match.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Also a training output.")] = False,
    settings: Annotated[Path | None, typer.Option(help="YAML with limits, threads and ports.")] = None,
) -> None:
    """Serve a bundle on KServe's protocols until SIGTERM or Ctrl-C."""
    from serving.server import run_server
    from serving.settings import choose_settings

    run_server(
        model, name=name, http_port=http_port, public_key=public_key, allow_unsigned=allow_unsigned,
        settings=choose_settings(settings, role=role, predictor_host=predictor_host, host=host),
    )  # fmt: skip
