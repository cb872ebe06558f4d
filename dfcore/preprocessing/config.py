"""What turns a file into face crops: travels with every crop store and every bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dfcore.config import Config

__all__ = ["MediaLimits", "PreprocessingConfig"]


class PreprocessingConfig(Config):
    """Which frames are read, which faces are kept, and how large a crop is.

    `margin` is the share of the box's longer side that is added around it in total: 0.3 makes the
    square crop 1.3 times as wide as the face box.
    """

    decoder: Literal["pyav"] = "pyav"
    face_detector: Literal["mtcnn"] = "mtcnn"
    frames_per_video: int = Field(default=8, ge=1)
    image_size: int = Field(default=224, ge=16)
    margin: float = Field(default=0.3, ge=0, le=2)
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    min_face: int = Field(default=40, ge=12)


class MediaLimits(Config):
    """The largest input that is decoded; whatever exceeds a limit is refused by its name."""

    max_bytes: int = Field(default=512 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0)
    max_frames: int = Field(default=20_000, gt=0)
    max_seconds: float = Field(default=900.0, gt=0)
