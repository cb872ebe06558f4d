"""Where a run stands, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Record", "TrainingProgress"]

Record = dict[str, float]


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands; given to the caller after each step and after each epoch.

    Attributes:
        epoch: epochs done.
        epochs: planned.
        step: steps done in all.
        steps: planned in all.
        images_per_second: in the running epoch, crops trained on by all processes.
        eta_seconds: expected time left, validation included.
        loss: of the last step that the host knows of; on a GPU it is one behind. None before it knows any.
        record: the finished epoch's figures, or None between two epochs.
        latest: the last finished epoch's figures, or None in the first.
        stopped: why the run ends before its last epoch, or None.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    eta_seconds: float
    loss: float | None = None
    record: Record | None = None
    latest: Record | None = None
    stopped: str | None = None


Progress = Callable[[TrainingProgress], None]
