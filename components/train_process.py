"""torchrun … -m components.train_process ORDER.json OUT: one of the processes that share a training run."""

import json
import os
import sys
from pathlib import Path


def main(order_file: str, out: str) -> None:
    """Train by an order; the first process looks ahead for all, and tells how it goes."""
    from components.checkpoints import CHECKPOINT
    from components.progress import say, training
    from components.training import read_order
    from dfcore.data import CropStore
    from dfcore.errors import RampartError
    from dfcore.training import preflight, train

    order = read_order(json.loads(Path(order_file).read_text(encoding="utf-8")))
    start = None if order.initial is None else Path(order.initial)
    rank = os.environ.get("RANK", "0")
    try:
        settings, crops = order.settings(), CropStore.open(order.store)
        # the others wait for it in `train`; where it refuses the run, torchrun ends them
        if rank == "0" and not (Path(out) / CHECKPOINT).is_file():
            expected = preflight(settings, crops, initial=start)
            if expected is not None:
                say(order.step, f"expected: {expected.describe()}")
        train(settings, crops, Path(out), initial=start, progress=training(order.step), resume=True)
    except RampartError as error:
        say(order.step, f"process {rank}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
