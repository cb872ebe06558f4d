"""python -m serving --model URI [--name NAME] [--http-port PORT] [--public-key FILE] [--settings FILE]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dfcore.errors import RampartError
from serving import ServerSettings, run_server


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving", allow_abbrev=False)
    parser.add_argument(
        "--model", required=True, help="bundle folder, file://, s3:// or registry://NAME@CHANNEL"
    )
    parser.add_argument("--name", default="rampart", help="name on the endpoint's path")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--public-key", type=Path, help="what the bundle's signature must match")
    parser.add_argument("--allow-unsigned", action="store_true", help="also serve a training output")
    parser.add_argument("--settings", type=Path, help="YAML with limits, threads and ports")
    given = parser.parse_args(arguments)
    try:
        settings = ServerSettings.from_yaml(given.settings) if given.settings else None
        run_server(
            given.model,
            name=given.name,
            http_port=given.http_port,
            public_key=given.public_key,
            allow_unsigned=given.allow_unsigned,
            settings=settings,
        )
    except RampartError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
