"""torchrun … -m components.train_process ORDER.json OUT: one of the processes that share a training run."""

import json
import os
import sys
from pathlib import Path


def main(order_file: str, out: str) -> None:
    """Train by an order; the first process tells how it goes."""
    from components.progress import say, training
    from components.training import read_order
    from dfcore.data import CropStore
    from dfcore.errors import RampartError
    from dfcore.training import train

    order = read_order(json.loads(Path(order_file).read_text(encoding="utf-8")))
    start = None if order.initial is None else Path(order.initial)
    try:
        train(
            order.settings(), CropStore.open(order.store), Path(out), initial=start,
            progress=training(order.step), resume=True,
        )  # fmt: skip
    except RampartError as error:
        say(order.step, f"process {os.environ.get('RANK', '0')}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
