"""The one tolerance table: what "equal" means for each type."""

from __future__ import annotations

import torch

TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}
"""By dtype, for `torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])`."""

BALL = 1e-6
"""How far beyond epsilon rounding may put a pixel."""
