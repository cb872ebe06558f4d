"""python -m serving --model URI [--name NAME] [--role ROLE] [--host HOST] [--http-port PORT] …"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from dfcore.errors import RampartError
from serving.server import run_server
from serving.settings import Role, choose_settings

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving", allow_abbrev=False)
    parser.add_argument(
        "--model", required=True, help="bundle folder, file://, s3:// or registry://NAME@CHANNEL"
    )
    parser.add_argument("--name", default="rampart", help="name on the endpoint's path")
    parser.add_argument("--role", choices=get_args(Role), help="what this process does; all by default")
    parser.add_argument("--predictor-host", help="HOST:PORT of the predictor, for --role transformer")
    parser.add_argument("--host", help="address to listen on; 127.0.0.1 by default")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--public-key", type=Path, help="what the bundle's signature must match")
    parser.add_argument("--allow-unsigned", action="store_true", help="also serve a training output")
    parser.add_argument("--settings", type=Path, help="YAML with limits, threads and ports")
    given = parser.parse_args(arguments)
    try:
        run_server(
            given.model,
            name=given.name,
            http_port=given.http_port,
            public_key=given.public_key,
            allow_unsigned=given.allow_unsigned,
            settings=choose_settings(
                given.settings, role=given.role, host=given.host, predictor_host=given.predictor_host
            ),
        )
    except RampartError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
