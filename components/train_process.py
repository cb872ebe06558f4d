"""torchrun … -m components.train_process ORDER.json OUT: one of the processes that share a training run."""

import json
import os
import sys
from pathlib import Path


def main(order_file: str, out: str) -> None:
    """Train by an order; the first process looks ahead for all, and tells how it goes."""
    from components.checkpoints import CHECKPOINT
    from components.progress import say
    from components.training import read_order, train_here
    from dfcore.errors import RampartError

    order = read_order(json.loads(Path(order_file).read_text(encoding="utf-8")))
    rank = os.environ.get("RANK", "0")
    try:
        # the others wait for it in `train`; where it refuses the run, torchrun ends them
        train_here(order, Path(out), ahead=rank == "0" and not (Path(out) / CHECKPOINT).is_file())
    except RampartError as error:
        say(order.step, f"process {rank}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
