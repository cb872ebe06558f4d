"""Where the running epoch stands, beside weights and optimiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["Running"]


@dataclass
class Running:
    """Saved with the weights in mid-epoch.

    Attributes:
        draws: generator of augmentation and random starts, this process's own.
        step: steps done.
        seconds: spent on them.
        crops: that this process has trained on.
        totals: sums of what each step's scalars were, on the device.
    """

    draws: torch.Generator
    step: int = 0
    seconds: float = 0.0
    crops: int = 0
    totals: dict[str, torch.Tensor] = field(default_factory=dict)
