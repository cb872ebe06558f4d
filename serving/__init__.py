"""Serving: `Predictor` for one process, `run_server` for KServe's protocol, `Client` for who asks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from serving import _environment as _environment  # before anything loads torch

if TYPE_CHECKING:
    from serving.answers import (
        Answer,
        ExplainedFace,
        FaceAnswer,
        FrameAnswer,
        ModelIdentity,
        Quality,
        VideoAnswer,
    )
    from serving.client import AsyncClient, Client
    from serving.predictor import Predictor
    from serving.server import run_server
    from serving.settings import EngineSettings, ServerSettings

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "EngineSettings",
    "ExplainedFace",
    "FaceAnswer",
    "FrameAnswer",
    "ModelIdentity",
    "Predictor",
    "Quality",
    "ServerSettings",
    "VideoAnswer",
    "run_server",
]

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "EngineSettings": "settings",
    "Predictor": "predictor",
    "ServerSettings": "settings",
    "run_server": "server",
}


def __getattr__(name: str) -> Any:
    # on demand: a client needs neither torch nor KServe
    if name not in __all__:
        raise AttributeError(f"module 'serving' has no attribute {name!r}")
    return getattr(import_module(f"serving.{_HOMES.get(name, 'answers')}"), name)
