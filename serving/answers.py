"""What the endpoint and `rampart predict` answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import ConfigDict

from dfcore.config import Config

__all__ = [
    "Answer",
    "Cam",
    "ExplainedFace",
    "FaceAnswer",
    "FrameAnswer",
    "Frequencies",
    "ModelIdentity",
    "Quality",
    "Region",
    "VideoAnswer",
]

Label = Literal["real", "fake"]


class _Answered(Config):
    # a client reads the answers of a newer server too
    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelIdentity(_Answered):
    """Which model answered; the digest is that of the bundle's manifest, or of its weights if it has none."""

    name: str
    version: str
    digest: str


class FaceAnswer(_Answered):
    """One face: its box (x0, y0, x1, y1) in pixels of the input, and P(fake); None in an abstention."""

    box: tuple[float, float, float, float]
    confidence: float
    score: float | None

    def withheld(self) -> FaceAnswer:
        """Return the face without its score."""
        return self.model_copy(update={"score": None})


class Quality(_Answered):
    """How usable the input was: the face box's longer side in pixels, the crop's sharpness."""

    face_size: float
    blur: float


class Answer(_Answered):
    """The answer for one image or crop; the score is the most suspicious face's, or None without a face.

    Attributes:
        outcome: "abstained" where the server's policy keeps label and scores back: the input looks attacked.
        attack_score: in [0, 1): the share of clean crops of like quality that look less tampered with, by all
            signs together; None where the bundle has no calibration of it.
        attack_parts: the same by each sign.
        raised: the signs beyond their threshold, "combined" and "queries" (somebody searches around this
            image) among them.
        flagged: the server's policy takes one of them for an attack.
    """

    outcome: Literal["ok", "no_face", "abstained"]
    label: Label | None = None
    score: float | None = None
    threshold: float
    faces: tuple[FaceAnswer, ...] = ()
    quality: Quality | None = None
    attack_score: float | None = None
    attack_parts: Mapping[str, float] | None = None
    raised: tuple[str, ...] = ()
    flagged: bool = False
    model: ModelIdentity

    def withheld(self) -> Self:
        """Return an abstention: each score would tell a search where to go on."""
        faces = tuple(face.withheld() for face in self.faces)
        hidden = {"outcome": "abstained", "label": None, "score": None, "faces": faces}
        return self.model_copy(update=hidden)


class FrameAnswer(_Answered):
    """One frame of a video; the time is in seconds."""

    index: int
    timestamp: float
    face: FaceAnswer


class VideoAnswer(Answer):
    """The answer for one video: `score` is the mean over `frames`."""

    frames: tuple[FrameAnswer, ...] = ()
    frames_decoded: int
    aggregate: Literal["mean"] = "mean"

    def withheld(self) -> Self:
        """Return an abstention, in each frame too."""
        frames = tuple(frame.model_copy(update={"face": frame.face.withheld()}) for frame in self.frames)
        return super().withheld().model_copy(update={"frames": frames})


class Cam(_Answered):
    """A class activation map.

    Attributes:
        png: base64 of a PNG: the crop with the map laid over it.
        grid: rows of the map in [0, 1], averaged down to at most 32 x 32 cells.
    """

    png: str
    grid: tuple[tuple[float, ...], ...]


class Region(_Answered):
    """A part of the face: its share of the map, and of the crop; None where landmarks are not known."""

    energy: float | None
    area: float | None


class Frequencies(_Answered):
    """How the logit reacts to noise in each radial band.

    Attributes:
        edges: of the bands, in cycles a pixel; one more than responses.
        response: root mean square change of the logit; None where the crop has no such frequency.
    """

    edges: tuple[float, ...]
    response: tuple[float | None, ...]


class ExplainedFace(_Answered):
    """The explanation of an image's, a crop's or a video's most suspicious face.

    Attributes:
        outcome: "abstained" as in `Answer`.
        target: "fake", or "decision": what speaks for the label that the face gets.
        frame_index: of a video's frame.
    """

    outcome: Literal["ok", "no_face", "abstained"]
    target: Literal["fake", "decision"]
    score: float | None = None
    threshold: float
    box: tuple[float, float, float, float] | None = None
    frame_index: int | None = None
    cam: Cam | None = None
    regions: Mapping[str, Region] | None = None
    frequency: Frequencies | None = None
    model: ModelIdentity
