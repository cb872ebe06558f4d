"""From bytes to an answer: the one path that the server and `rampart predict` share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from dfcore.errors import BundleError, MediaError, ShapeError
from dfcore.models import Detector, load_detector
from dfcore.monitoring import AttackScorer, Judgement
from dfcore.preprocessing import (
    Face,
    FaceCrop,
    FaceDetector,
    Frame,
    MediaLimits,
    blur,
    build_face_detector,
    crop_face,
    decode_image,
    decode_video,
    extract_faces,
)
from serving.answers import Answer, FaceAnswer, FrameAnswer, Quality, VideoAnswer
from serving.engine import choose_device, prepare
from serving.opening import OpenedBundle, open_bundle
from serving.scoring import LocalScorer, Scored, Scorer, strongest
from serving.settings import EngineSettings

__all__ = ["Examined", "Predictor"]

logger = logging.getLogger(__name__)

_MAX_FACES = 256
_WARM_UP_SIDE = 256
_ATTACK_SCORE = "attack_score_"

_thread = threading.local()  # its face detector, which the next version goes on with

Timer = Callable[[str], AbstractContextManager[object]]


class Examined(NamedTuple):
    """An answer, and what monitoring and explaining need beside it.

    Attributes:
        kind: of the input.
        answer: before any policy.
        queries: the crops by which a query is recognised, uint8 (S, S, 3): each face of an image, the first
            frame's of a video.
        worst: the face with the highest score; None for a crop, and without a face.
        embedding: its features (D,), the mean over a video's frames; empty where a predictor in another
            process keeps them.
    """

    kind: Literal["image", "video", "crop"]
    answer: Answer
    queries: Sequence[np.ndarray] = ()
    worst: FaceCrop | None = None
    embedding: np.ndarray = np.zeros(0, dtype=np.float32)


class Predictor:
    """A loaded detector with its preprocessing, threshold and reference.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        name: the name that answers carry.
        public_key: what the bundle's signature must match; by default the registry's key or
            `RAMPART_PUBLIC_KEY`.
        allow_unsigned: also take a training output, which nobody has signed.
        engine: how the network runs.

    Raises:
        BundleError: the bundle is altered, incomplete, or unsigned.
        ConfigError: a GPU is asked for and there is none.

    Attributes:
        histograms: the frozen reference, by the name of the metric that it is compared with.
        signs: of an attack that are measured here.
        limits: of one image or video.
        max_faces: in one image.
        timer: is entered around each stage: "decode", "detect", "score".
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "rampart",
        public_key: Path | None = None,
        allow_unsigned: bool = False,
        engine: EngineSettings | None = None,
    ) -> None:
        engine = engine or EngineSettings()
        bundle = open_bundle(model, name=name, public_key=public_key, allow_unsigned=allow_unsigned)
        device = choose_device(engine)
        detector = load_detector(bundle.address, device, public_key)
        if detector.card != bundle.card:
            raise BundleError(f"{model} changed while it was loaded; load it again")
        attacks = _open_attack_scores(detector, bundle, engine)
        self._take(bundle, LocalScorer(prepare(detector, engine, bundle.folder), attacks), device, attacks)
        self.detector: Detector | None = detector

    @classmethod
    def with_scorer(cls, bundle: OpenedBundle, scorer: Scorer, device: str = "cpu") -> Self:
        """Make a predictor whose crops are scored elsewhere; it loads no weights.

        Args:
            bundle: for preprocessing, threshold and reference.
            scorer: what scores.
            device: where the face detector runs.
        """
        predictor = cls.__new__(cls)
        predictor._take(bundle, scorer, device)
        predictor.detector = None
        return predictor

    def _take(
        self, bundle: OpenedBundle, scorer: Scorer, device: str, attacks: AttackScorer | None = None
    ) -> None:
        self.preprocessing = bundle.card.preprocessing
        self.threshold = bundle.card.threshold
        self.identity = bundle.identity
        self.weights = bundle.weights
        self.signs = () if attacks is None else attacks.parts
        self.histograms = _plain_histograms(bundle.reference) | (attacks.histograms if attacks else {})
        self.scorer = scorer
        self.limits = MediaLimits()
        self.max_faces = _MAX_FACES
        self.timer: Timer = lambda _stage: nullcontext()
        self._device = device

    @property
    def _faces(self) -> FaceDetector:
        """The face detector that the training data came from; YuNet's belongs to one thread."""
        wanted = (self.preprocessing.face_detector, self.preprocessing.detector_weights, self._device)
        if getattr(_thread, "wanted", None) != wanted:
            _thread.faces = build_face_detector(self.preprocessing, self._device)
            _thread.wanted = wanted
        found: FaceDetector = _thread.faces
        return found

    def warm_up(self, crops: Sequence[int] = (1,)) -> None:
        """Run every part once, with each of these numbers of crops, so that no request pays for it."""
        self.predict_image(np.zeros((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), np.uint8))
        size = self.preprocessing.image_size
        for count in crops:
            self.predict_crops(np.zeros((count, size, size, 3), np.uint8))

    def close(self) -> None:
        """Let go of the scorer's threads; requests under way are still answered."""
        self.scorer.close()

    def predict_image(self, image: np.ndarray | bytes) -> Answer:
        """Answer for every face of one image; the image is as fake as its most suspicious face.

        Args:
            image: uint8 (H, W, 3) RGB, or the bytes of an image file.

        Returns:
            The answer; no face is an outcome, not an error.

        Raises:
            MediaError: the bytes don't decode or exceed a limit.
            ShapeError: the array has another shape or type.
        """
        return self.examine_image(image).answer

    def examine_image(self, image: np.ndarray | bytes) -> Examined:
        """Return the answer of `predict_image` with what monitoring needs."""
        crops = self.find_image_faces(image)
        if not crops:
            return Examined("image", Answer(**self._no_face()))
        scored = self._score(crops)
        worst = crops[int(scored.judged.scores.argmax())]
        judged = strongest(scored.judged)
        answer = Answer(
            faces=_describe_faces(crops, scored),
            quality=_measure_quality([worst]),
            **self._decide(scored, judged),
        )
        return Examined("image", answer, [crop.image for crop in crops], worst, judged.features[0])

    def predict_video(self, video: bytes | Path) -> VideoAnswer:
        """Answer for the person who is longest in one video; the score is the mean over the frames.

        Raises:
            MediaError: nothing decodes, or a limit is exceeded.
        """
        answer = self.examine_video(video).answer
        assert isinstance(answer, VideoAnswer), "a video in, a video's answer out"
        return answer

    def examine_video(self, video: bytes | Path) -> Examined:
        """Return the answer of `predict_video` with what monitoring needs."""
        crops, decoded = self.find_video_faces(video)
        if not crops:
            return Examined("video", VideoAnswer(frames_decoded=decoded, **self._no_face()))
        scored = self._score(crops)
        faces = _describe_faces(crops, scored)
        frames = tuple(
            FrameAnswer(index=crop.frame_index, timestamp=crop.timestamp, face=face)
            for crop, face in zip(crops, faces, strict=True)
        )
        judged = scored.judged.pooled()
        answer = VideoAnswer(
            faces=faces,
            quality=_measure_quality(crops),
            frames=frames,
            frames_decoded=decoded,
            **self._decide(scored, judged),
        )
        worst = crops[int(scored.judged.scores.argmax())]
        # one frame: those of one video look alike and are no search
        return Examined("video", answer, [crops[0].image], worst, judged.features[0])

    def predict_crops(self, crops: np.ndarray) -> list[Answer]:
        """Answer for face crops that were made with the model's own preprocessing.

        Args:
            crops: uint8 (N, S, S, 3) RGB with S = `preprocessing.image_size`.

        Raises:
            ShapeError: another shape or type.
        """
        return [found.answer for found in self.examine_crops(crops)]

    def examine_crops(self, crops: np.ndarray) -> list[Examined]:
        """Return the answers of `predict_crops` with what monitoring needs."""
        self.check_crops(crops)
        with self.timer("score"):
            scored = self.scorer.score(crops)
        rows = [scored.rows(row, row + 1) for row in range(len(crops))]
        return [
            Examined("crop", Answer(**self._decide(row, row.judged)), [crop], None, row.judged.features[0])
            for crop, row in zip(crops, rows, strict=True)
        ]

    def check_crops(self, crops: np.ndarray) -> None:
        """Require crops uint8 (N, S, S, 3).

        Raises:
            ShapeError: another shape or type.
        """
        size = self.preprocessing.image_size
        if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise ShapeError(f"expected crops uint8 (N, {size}, {size}, 3), got {crops.dtype} {crops.shape}")

    def find_image_faces(self, image: np.ndarray | bytes) -> list[FaceCrop]:
        """Return the crops of an image's faces; see `predict_image`."""
        if isinstance(image, bytes):
            with self.timer("decode"):
                image = decode_image(image, self.limits)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ShapeError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
        wanted = self.preprocessing
        with self.timer("detect"):
            (faces,) = self._faces.detect([image], min_face=wanted.min_face)
            kept = [
                face
                for face in faces
                if face.confidence >= wanted.min_confidence and _side(face) >= wanted.min_face
            ]
            # none is left out: decoys could push the one that matters out of a shorter list
            if len(kept) > self.max_faces:
                raise MediaError(f"expected at most max_faces={self.max_faces}, got {len(kept)}; send a part")
            frame = Frame(image, 0, 0.0)
            return [crop_face(frame, face, wanted.image_size, wanted.margin) for face in kept]

    def find_video_faces(self, video: bytes | Path) -> tuple[list[FaceCrop], int]:
        """Return the crops of a video's longest track, and how many frames were decoded."""
        with self.timer("decode"):
            frames = decode_video(video, self.preprocessing.frames_per_video, self.limits)
        with self.timer("detect"):
            return list(extract_faces(frames, self._faces, self.preprocessing)), len(frames)

    def _score(self, crops: Sequence[FaceCrop]) -> Scored:
        with self.timer("score"):
            return self.scorer.score(np.stack([crop.image for crop in crops]))

    def _no_face(self) -> dict[str, Any]:
        return {"outcome": "no_face", "threshold": self.threshold, "model": self.identity}

    def _decide(self, scored: Scored, judged: Judgement) -> dict[str, Any]:
        """Describe the one row of a judgement."""
        score = float(judged.scores[0])
        threshold = self.threshold if scored.threshold is None else scored.threshold
        signs: dict[str, Any] = {}
        if judged.flags:
            signs = {
                "attack_score": float(judged.combined[0]),
                "attack_parts": {name: float(values[0]) for name, values in judged.parts.items()},
                "raised": tuple(name for name, raised in judged.flags.items() if raised[0]),
            }
        return {
            "outcome": "ok",
            "label": "fake" if score >= threshold else "real",
            "score": score,
            "threshold": threshold,
            "model": scored.model or self.identity,
            **signs,
        }


def _open_attack_scores(
    detector: Detector, bundle: OpenedBundle, engine: EngineSettings
) -> AttackScorer | None:
    if engine.attack_scores == "off":
        return None
    if bundle.reference is None or "attack_scores" not in bundle.reference:
        logger.warning(
            "%s has no calibrated attack scores: none are answered, and the policy on them does nothing",
            bundle.identity.version,
        )
        return None
    squeezers = None if engine.attack_scores == "auto" else engine.attack_scores
    return AttackScorer(detector, bundle.reference, squeezers)


def _plain_histograms(reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the reference's histograms but those of attack scores, which only `AttackScorer` calibrates."""
    found = reference["histograms"] if reference else {}
    return {name: value for name, value in found.items() if not name.startswith(_ATTACK_SCORE)}


def _side(face: Face) -> float:
    return float(max(face.box[2:] - face.box[:2]))


def _describe_faces(crops: Sequence[FaceCrop], scored: Scored) -> tuple[FaceAnswer, ...]:
    found = []
    for crop, score in zip(crops, scored.judged.scores, strict=True):
        x0, y0, x1, y1 = (float(value) for value in crop.face.box)
        found.append(
            FaceAnswer(box=(x0, y0, x1, y1), confidence=float(crop.face.confidence), score=float(score))
        )
    return tuple(found)


def _measure_quality(crops: Sequence[FaceCrop]) -> Quality:
    return Quality(
        face_size=float(np.median([_side(crop.face) for crop in crops])),
        blur=float(np.median([blur(crop.image) for crop in crops])),
    )
