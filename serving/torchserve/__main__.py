"""python -m serving.torchserve start --model URI [--name NAME] [--public-key FILE] … | token | ready"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dfcore.errors import RampartError
from serving.torchserve.keys import is_ready, read_token
from serving.torchserve.launch import Ports, prepare, start

__all__ = ["main"]

_HOME = Path("/tmp/rampart-torchserve")  # noqa: S108  # refused unless it is ours alone


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one verb; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.verb == "token":
            sys.stdout.write(read_token(given.home) + "\n")
        elif given.verb == "ready":
            return 0 if is_ready(given.home) else 1
        else:
            start(
                prepare(
                    given.model, given.home.resolve(), name=given.name, public_key=given.public_key,
                    settings=given.settings, host=given.host, ports=Ports(*given.ports),
                )
            )  # fmt: skip
    except RampartError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.torchserve", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    begin = verbs.add_parser("start", help="verify a bundle and serve it", allow_abbrev=False)
    token = verbs.add_parser("token", help="print a bearer token of the server that runs here")
    ready = verbs.add_parser("ready", help="exit with 0 if its workers have loaded the model")
    for verb in (begin, token, ready):
        verb.add_argument("--home", type=Path, default=_HOME, help="private folder of the server")
    begin.add_argument(
        "--model", required=True, help="bundle folder, file://, s3:// or registry://NAME@CHANNEL"
    )
    begin.add_argument("--name", default="rampart", help="name on the endpoint's path")
    begin.add_argument("--public-key", type=Path, help="what the bundle's signature must match")
    begin.add_argument("--settings", type=Path, help="YAML with limits, threads and engine")
    begin.add_argument("--host", default="127.0.0.1", help="address of inference and metrics")
    begin.add_argument(
        "--ports", type=int, nargs=len(Ports._fields), default=Ports(), metavar="PORT",
        help=f"{', '.join(Ports._fields)}; all but the first and the third on the loopback address",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
