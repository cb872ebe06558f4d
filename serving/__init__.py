"""Serving: `Predictor` for one process, `run_server` for KServe's protocol."""

from serving import _environment as _environment  # isort: skip  # first, before anything loads torch
from serving.answers import (
    Answer,
    AttackScore,
    FaceAnswer,
    FrameAnswer,
    ModelIdentity,
    Quality,
    VideoAnswer,
)
from serving.predictor import Predictor
from serving.server import run_server
from serving.settings import ServerSettings

__all__ = [
    "Answer",
    "AttackScore",
    "FaceAnswer",
    "FrameAnswer",
    "ModelIdentity",
    "Predictor",
    "Quality",
    "ServerSettings",
    "VideoAnswer",
    "run_server",
]
