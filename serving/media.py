"""What a request brings: files, or crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Media", "Work"]


@dataclass(frozen=True)
class Media:
    """One file of a request."""

    kind: Literal["image", "video"]
    data: bytes


Work = np.ndarray | list[Media]
"""Crops uint8 (N, S, S, 3), or files."""
