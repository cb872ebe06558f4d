"""The same detector behind TorchServe; `python -m serving.torchserve start --model URI` starts it."""

from __future__ import annotations

__all__: list[str] = []
