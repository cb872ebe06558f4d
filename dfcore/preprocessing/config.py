"""What turns a file into face crops: travels with every crop store and every bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dfcore.config import Config

__all__ = ["FrameSampling", "MediaLimits", "PreprocessingConfig"]


class PreprocessingConfig(Config):
    """Which frames are read, which faces are kept, and how large a crop is.

    `every_seconds` samples by time; `frames_per_video` is then the cap. Faces are searched for in every
    `detect_every`-th sampled frame and followed in between. `margin` is the share of the face's side that is
    added around it in total: 0.3 makes the square crop 1.3 times as wide as the face box. `detector_weights`
    is the ONNX file of YuNet or RetinaFace.
    """

    decoder: Literal["pyav"] = "pyav"
    face_detector: Literal["mtcnn", "yunet", "retinaface"] = "mtcnn"
    detector_weights: Path | None = None
    frames_per_video: int = Field(default=8, ge=1)
    every_seconds: float | None = Field(default=None, gt=0)
    detect_every: int = Field(default=4, ge=1)
    alignment: Literal["box", "five_points"] = "box"
    image_size: int = Field(default=224, ge=16)
    margin: float = Field(default=0.3, ge=0, le=2)
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    min_face: int = Field(default=40, ge=12)

    @model_validator(mode="after")
    def _weights_fit_the_detector(self) -> Self:
        needed = self.face_detector != "mtcnn"
        if needed and self.detector_weights is None:
            raise ValueError(f"expected detector_weights, the ONNX file of {self.face_detector}, got none")
        if not needed and self.detector_weights is not None:
            raise ValueError(
                "detector_weights is ignored by mtcnn; remove it or choose another face_detector"
            )
        return self


class FrameSampling(Config):
    """Which frames of a video are taken: `count` spread over it by time, or one `every_seconds`.

    With both, it is one every `every_seconds`; where that gives more than `count`, `count` spread over all.
    """

    count: int | None = Field(default=None, ge=1)
    every_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if self.count is None and self.every_seconds is None:
            raise ValueError("expected count, every_seconds or both, got neither")
        return self


class MediaLimits(Config):
    """The largest input that is decoded; whatever exceeds a limit is refused by its name.

    `seconds_to_decode` is wall time for one file, `max_memory_bytes` what its decoded frames may take.
    """

    max_bytes: int = Field(default=512 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0)
    max_frames: int = Field(default=20_000, gt=0)
    max_seconds: float = Field(default=900.0, gt=0)
    seconds_to_decode: float = Field(default=120.0, gt=0)
    max_memory_bytes: int = Field(default=2**30, gt=0)
