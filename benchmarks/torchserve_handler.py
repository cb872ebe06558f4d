"""The TorchServe handler that `benchmarks.serving` compares with; a worker takes a module's only class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ts.torch_handler import base_handler

from benchmarks import serving_peers

__all__ = ["Handler"]


class Handler(base_handler.BaseHandler):  # type: ignore[misc]  # TorchServe ships no types
    """Answers each request of a batch on its own."""

    def initialize(self, context: Any) -> None:
        """Load the detector from the unpacked archive."""
        self.sample = serving_peers.Sample(Path(context.system_properties["model_dir"]), threads=1)
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer; TorchServe has parsed the JSON."""
        return [self.sample.predict(row["body"]) for row in data]
