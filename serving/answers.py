"""What the endpoint and `rampart predict` answer."""

from __future__ import annotations

from typing import Literal

from dfcore.config import Config

__all__ = ["Answer", "AttackScore", "FaceAnswer", "FrameAnswer", "ModelIdentity", "Quality", "VideoAnswer"]

Label = Literal["real", "fake"]


class ModelIdentity(Config):
    """Which model answered; the digest is that of the bundle's manifest, or of its weights if it has none."""

    name: str
    version: str
    digest: str


class FaceAnswer(Config):
    """One face: its box (x0, y0, x1, y1) in pixels of the input, and P(fake)."""

    box: tuple[float, float, float, float]
    confidence: float
    score: float


class Quality(Config):
    """How usable the input was: the face box's longer side in pixels, the crop's sharpness."""

    face_size: float
    blur: float


class AttackScore(Config):
    """Signs of tampering; `jpeg_75` is how far P(fake) moves when the crop is compressed at quality 75.

    It is a measurement in [0, 1], not a probability: weigh it against the bundle's reference.
    """

    jpeg_75: float


class Answer(Config):
    """The answer for one image or crop; the score is the most suspicious face's, or None without a face."""

    outcome: Literal["ok", "no_face"]
    label: Label | None = None
    score: float | None = None
    threshold: float
    faces: tuple[FaceAnswer, ...] = ()
    quality: Quality | None = None
    attack_score: float | None = None
    attack_parts: AttackScore | None = None
    model: ModelIdentity


class FrameAnswer(Config):
    """One frame of a video; the time is in seconds."""

    index: int
    timestamp: float
    face: FaceAnswer


class VideoAnswer(Answer):
    """The answer for one video: `score` is the mean over `frames`."""

    frames: tuple[FrameAnswer, ...] = ()
    frames_decoded: int
    aggregate: Literal["mean"] = "mean"
