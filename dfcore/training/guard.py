"""A loss that is not finite ends the run before it moves a weight, and its batch is kept for the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from dfcore.errors import WorkFailed
from dfcore.models import save_tensors
from dfcore.training.recipe import Recipe

__all__ = ["Facts", "Guard", "Suspect"]

BATCH_FILE = "bad_batch{}.safetensors"

# The scaler starts at 2^16 and halves: after so many it scales down, and the loss is not what overflows.
_SKIPS_IN_A_ROW = 20


class Facts(NamedTuple):
    """What the host learns of a step.

    Attributes:
        loss: of the batch.
        healthy: whether loss and gradient are finite; with a scaler the loss alone.
        skips: steps in a row that the scaler has left out.
        due: whether the first process wants to save.
    """

    loss: float
    healthy: bool
    skips: int
    due: bool


@dataclass(frozen=True)
class Suspect:
    """A batch until its loss is known to be finite.

    Attributes:
        place: "epoch 3, step 17".
        images, labels: as the defence got them.
        attacked: what the defence made of them, for each part of the batch: of n parts every n-th crop.
    """

    place: str
    images: torch.Tensor
    labels: torch.Tensor
    attacked: Sequence[tuple[torch.Tensor, ...]]

    def save(self, path: Path) -> None:
        """Write images, labels and attacked images as safetensors, all in the batch's order."""
        tensors = {"images": self.images, "labels": self.labels}
        for number, kind in enumerate(zip(*self.attacked, strict=True)):
            whole = torch.cat(kind)
            for part, crops in enumerate(kind):
                whole[part :: len(kind)] = crops
            tensors[f"attacked.{number}"] = whole
        save_tensors(path, tensors)


@dataclass
class Guard:
    """Reads each step's facts and ends the run where they are bad.

    On a CPU it knows them before the optimiser's step. A GPU is never waited for: the optimiser leaves out a
    bad step by itself, and the host learns of it one step later, when the copy has long arrived.

    Attributes:
        recipe: for the message.
        out: gets the batch.
        lagged: whether facts are read one step later.
        suffix: of this process's file.
    """

    recipe: Recipe
    out: Path
    lagged: bool
    suffix: str = ""
    _waiting: list[tuple[torch.Tensor, torch.cuda.Event | None, Suspect]] = field(default_factory=list)

    def note(self, facts: torch.Tensor, suspect: Suspect) -> Facts | None:
        """Take a step's facts (4,) as `Facts` orders them; return the latest that are known.

        Raises:
            WorkFailed: a loss or gradient was not finite, or the scaler leaves out every step.
        """
        event = None
        if self.lagged and facts.is_cuda:
            pinned = torch.empty(facts.shape, dtype=facts.dtype, pin_memory=True)
            facts = pinned.copy_(facts, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            event.record()
        self._waiting.append((facts, event, suspect))
        return self.settle(keep=1 if self.lagged else 0)

    def settle(self, keep: int = 0) -> Facts | None:
        """Read facts until so many steps are left unread; return the latest.

        Raises:
            WorkFailed: as `note`.
        """
        latest = None
        while len(self._waiting) > keep:
            values, event, suspect = self._waiting.pop(0)
            if event is not None:
                event.synchronize()
            loss, healthy, skips, due = values.tolist()
            latest = Facts(loss, bool(healthy), int(skips), bool(due))
            if not latest.healthy:
                self._stop(latest, suspect)
            if latest.skips >= _SKIPS_IN_A_ROW:
                raise WorkFailed(
                    f"expected gradients that half precision can hold, got {latest.skips} steps in a row "
                    f"that overflowed, up to {suspect.place} of {self.recipe.name}; use precision "
                    "bf16-mixed or 32-true"
                )
        return latest

    def _stop(self, facts: Facts, suspect: Suspect) -> NoReturn:
        path = self.out / BATCH_FILE.format(self.suffix)
        suspect.save(path)
        raise WorkFailed(
            f"expected a finite loss and gradient, got loss {facts.loss:g} in {suspect.place} of "
            f"{self.recipe.name}; its batch is in {path}, and no weight was moved by it; lower "
            f"optimiser.learning_rate (now {self.recipe.optimiser.learning_rate:g}) or use precision 32-true"
        )
