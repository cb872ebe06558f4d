"""The figures of each epoch beside the detector: `metrics.csv` always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dfcore.training.progress import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["METRICS_FILE", "Logs"]

METRICS_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


class Logs:
    """Writes what a run's records say; a run that goes on writes no row twice.

    Args:
        out: the detector's folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._drawn = 0
        self._writer: SummaryWriter | None = None

    def write(self, records: list[Record]) -> None:
        """Bring the files up to date: one row, and one point of each curve, an epoch."""
        names = list(dict.fromkeys(name for record in records for name in record))
        temporary = self._out / f".{METRICS_FILE}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, restval="")
            writer.writeheader()
            writer.writerows(records)
        temporary.replace(self._out / METRICS_FILE)
        if importlib.util.find_spec("tensorboard") is not None:
            self._draw(records)

    def close(self) -> None:
        """Finish what is being written."""
        if self._writer is not None:
            self._writer.close()

    def _draw(self, records: list[Record]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # a run that goes on draws its curves anew, and this hides what it drew before
            self._writer = SummaryWriter(self._out / TENSORBOARD_FOLDER, purge_step=1)
        for record in records[self._drawn :]:
            for name, value in record.items():
                group = "validation" if name.startswith("val_") else "training"
                self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, int(record["epoch"]))
        self._writer.flush()
        self._drawn = len(records)
