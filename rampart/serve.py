"""rampart serve --model URI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Option(help="A bundle's folder, s3://… or registry://NAME@CHANNEL.")],
    name: Annotated[str, typer.Option(help="The name on the endpoint's path.")] = "rampart",
    http_port: Annotated[int, typer.Option(help="V1, V2, health and /metrics.")] = 8080,
    public_key: Annotated[Path | None, typer.Option(help="What the signature must match.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Also a training output.")] = False,
    settings: Annotated[Path | None, typer.Option(help="YAML with limits, threads and ports.")] = None,
) -> None:
    """Serve a bundle on KServe's protocols until SIGTERM or Ctrl-C."""
    from serving import ServerSettings, run_server

    run_server(
        model, name=name, http_port=http_port, public_key=public_key, allow_unsigned=allow_unsigned,
        settings=ServerSettings.from_yaml(settings) if settings else None,
    )  # fmt: skip
