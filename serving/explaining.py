"""What `:explain` answers: where the detector looked, on which part of the face, and at which frequencies."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from dfcore.config import Config
from dfcore.errors import ConfigError, MediaError
from dfcore.explain import REGIONS, FrequencyConfig, FrequencySensitivity, explain, overlay_png
from dfcore.monitoring.policy import Action
from dfcore.preprocessing import FaceCrop, is_video
from serving.answers import Cam, ExplainedFace, Frequencies, Region
from serving.media import Media, Work
from serving.monitoring import Verdict
from serving.predictor import Examined, Predictor
from serving.rejection import RefusedInput, RejectedInput

__all__ = ["ExplainOptions", "Explainer", "examine", "explain_file"]

_CELLS = 32
_FREQUENCY = FrequencyConfig(bands=16, draws=2, batch_size=32)


class ExplainOptions(Config):
    """What a request may choose, in its `parameters`.

    Attributes:
        target: "fake", or "decision": what speaks for the label that the face gets.
        frequency: measure the frequency sensitivity too: 32 more forward passes a face.
    """

    target: Literal["fake", "decision"] = "fake"
    frequency: bool = True

    @classmethod
    def read(cls, document: object) -> ExplainOptions:
        """Read them from a request.

        Raises:
            RejectedInput: an unknown parameter or value.
        """
        given = document.get("parameters") if isinstance(document, dict) else None
        try:
            return cls.parse(given if given is not None else {}, "parameters")
        except ConfigError as error:
            raise RejectedInput("malformed", str(error)[:200]) from error


def examine(predictor: Predictor, work: Work) -> list[Examined]:
    """Score each instance of a request.

    Raises:
        MediaError: an image or video does not decode or exceeds a limit; the message names it.
        ShapeError: crops of another shape.
    """
    if isinstance(work, np.ndarray):
        return predictor.examine_crops(work)
    return [_examine_media(predictor, media, index) for index, media in enumerate(work)]


def _examine_media(predictor: Predictor, media: Media, index: int) -> Examined:
    try:
        if media.kind == "video":
            return predictor.examine_video(media.data)
        return predictor.examine_image(media.data)
    except MediaError as error:
        raise MediaError(f"instances[{index}].{media.kind}: {error}") from error


def explain_file(predictor: Predictor, data: bytes, options: ExplainOptions | None = None) -> ExplainedFace:
    """Explain an image or a video by its bytes, outside a server.

    Raises:
        MediaError: it does not decode, or exceeds a limit.
    """
    media = Media("video" if is_video(data) else "image", data)
    explainer = Explainer(predictor, lambda _: Verdict((), "log"))
    return explainer.explain([media], options or ExplainOptions())[0]


class Explainer:
    """Explains the scores of a predictor that has its detector at hand.

    It costs one forward and one backward pass a face, and 32 forward passes with frequencies; of an image or
    a video only the most suspicious face is explained.

    Args:
        predictor: with a detector.
        judge: the monitoring policy; what it withholds is not explained either.
    """

    def __init__(self, predictor: Predictor, judge: Callable[[Examined], Verdict]) -> None:
        assert predictor.detector is not None, "the roles that explain load the detector"
        self._predictor = predictor
        self._detector = predictor.detector
        self._judge = judge

    def explain(self, work: Work, options: ExplainOptions) -> list[ExplainedFace]:
        """Explain each instance.

        Raises:
            MediaError: an image or video does not decode or exceeds a limit.
            RefusedInput: the policy refuses one.
            ShapeError: crops of another shape.
        """
        found = examine(self._predictor, work)
        actions = [self._judge(examined).action for examined in found]
        if "refuse" in actions:
            raise RefusedInput("expected no signs of an attack, got some; not explained")
        return [
            self._explain_one(examined, action, options)
            for examined, action in zip(found, actions, strict=True)
        ]

    def _explain_one(self, examined: Examined, action: Action, options: ExplainOptions) -> ExplainedFace:
        outcome = examined.answer.outcome
        if outcome == "ok" and action == "abstain":
            outcome = "abstained"
        if outcome != "ok":
            return ExplainedFace(
                outcome=outcome,
                target=options.target,
                threshold=self._predictor.threshold,
                model=self._predictor.identity,
            )
        worst = examined.worst
        found = self._explain_face(examined.queries[0] if worst is None else worst.image, worst, options)
        if examined.kind == "video" and worst is not None:
            return found.model_copy(update={"frame_index": worst.frame_index})
        return found

    def _explain_face(
        self, crop: np.ndarray, face: FaceCrop | None, options: ExplainOptions
    ) -> ExplainedFace:
        pixels = crop.astype(np.float32) / 255
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self._detector.mean.device)
        found = explain(
            self._detector,
            images,
            None if face is None else face.landmarks[None],
            target=options.target,
            frequency=_FREQUENCY if options.frequency else None,
        )
        regions = {
            part: Region(energy=_finite(found.energies[part][0]), area=_finite(found.areas[part][0]))
            for part in REGIONS
        }
        box = None
        if face is not None:
            x0, y0, x1, y1 = (float(value) for value in face.face.box)
            box = (x0, y0, x1, y1)
        return ExplainedFace(
            outcome="ok",
            target=options.target,
            score=float(1 / (1 + np.exp(-np.float64(found.logits[0])))),
            threshold=self._predictor.threshold,
            box=box,
            cam=_describe_cam(pixels, found.cams[0]),
            regions=regions,
            frequency=None if found.frequency is None else _describe_frequencies(found.frequency),
            model=self._predictor.identity,
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _describe_cam(pixels: np.ndarray, cam: np.ndarray) -> Cam:
    cells = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(cam)[None], (min(_CELLS, cam.shape[0]), min(_CELLS, cam.shape[1]))
    )[0]
    return Cam(
        png=base64.b64encode(overlay_png(pixels, cam)).decode(),
        grid=tuple(tuple(round(float(value), 4) for value in row) for row in cells),
    )


def _describe_frequencies(found: FrequencySensitivity) -> Frequencies:
    return Frequencies(
        edges=tuple(float(edge) for edge in found.edges),
        response=tuple(_finite(value) for value in found.response[0]),
    )
