"""From bytes to an answer: the one path that the server and `rampart predict` share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from dfcore.errors import BundleError, ShapeError
from dfcore.models import load_detector
from dfcore.models.bundle import MANIFEST, SIGNATURE, fetch, read_pointer
from dfcore.models.card import WEIGHTS_FILE
from dfcore.monitoring import score_crops
from dfcore.preprocessing import (
    Face,
    FaceCrop,
    Frame,
    MediaLimits,
    blur,
    build_face_detector,
    crop_face,
    decode_image,
    decode_video,
    extract_faces,
)
from dfcore.provenance import sha256_file
from dfcore.storage import open_store
from serving.answers import Answer, AttackScore, FaceAnswer, FrameAnswer, ModelIdentity, Quality, VideoAnswer

__all__ = ["Predictor"]

_SHORT_DIGEST = 12
_VERSION_DIGEST = 8  # v0001-1a2b3c4d: the registry ends a version with its manifest's digest
_VERSION = re.compile(r"v[0-9]+-[0-9a-f]{8}")

Timer = Callable[[str], AbstractContextManager[object]]


class Predictor:
    """A loaded detector with its preprocessing, threshold and reference.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        name: the name that answers carry.
        public_key: what the bundle's signature must match; by default the registry's key or
            `RAMPART_PUBLIC_KEY`.
        allow_unsigned: also take a training output, which nobody has signed.
        device: where the detector and the face detector run.
        limits: of one image or video.

    Raises:
        BundleError: the bundle is altered, incomplete, or unsigned.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "rampart",
        public_key: Path | None = None,
        allow_unsigned: bool = False,
        device: str = "cpu",
        limits: MediaLimits | None = None,
    ) -> None:
        folder = fetch(str(model), public_key)
        if not allow_unsigned:
            _require_signed(folder, model)
        self.detector = load_detector(model, device, public_key)
        card = self.detector.card
        if card is None:
            raise BundleError(f"expected detector.json in {folder}, got a detector without its card")
        self.preprocessing = card.preprocessing
        self.threshold = card.threshold
        self.limits = limits or MediaLimits()
        self.identity = _identify(folder, name, str(model))
        self.reference = _read_reference(folder / "reference.json")
        self.timer: Timer = lambda _stage: nullcontext()
        # the faces that it was trained on came from this very detector
        self._faces = build_face_detector(self.preprocessing, device)

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
        if isinstance(image, bytes):
            with self.timer("decode"):
                image = decode_image(image, self.limits)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ShapeError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
        with self.timer("detect"):
            crops = self._all_faces(Frame(image, 0, 0.0))
        if not crops:
            return Answer(**self._no_face())
        scores, moved = self._score(crops)
        worst = [int(scores.argmax())]
        return Answer(
            faces=_describe_faces(crops, scores),
            quality=_measure_quality([crops[worst[0]]]),
            **self._decide(scores[worst], moved[worst]),
        )

    def predict_video(self, video: bytes | Path) -> VideoAnswer:
        """Answer for the person who is longest in one video; the score is the mean over the frames.

        Raises:
            MediaError: nothing decodes, or a limit is exceeded.
        """
        with self.timer("decode"):
            frames = decode_video(video, self.preprocessing.frames_per_video, self.limits)
        with self.timer("detect"):
            crops = extract_faces(frames, self._faces, self.preprocessing)
        if not crops:
            return VideoAnswer(frames_decoded=len(frames), **self._no_face())
        scores, moved = self._score(crops)
        faces = _describe_faces(crops, scores)
        answers = tuple(
            FrameAnswer(index=crop.frame_index, timestamp=crop.timestamp, face=face)
            for crop, face in zip(crops, faces, strict=True)
        )
        return VideoAnswer(
            faces=faces,
            quality=_measure_quality(crops),
            frames=answers,
            frames_decoded=len(frames),
            **self._decide(scores, moved),
        )

    def predict_crops(self, crops: np.ndarray) -> list[Answer]:
        """Answer for face crops that were made with the model's own preprocessing.

        Args:
            crops: uint8 (N, S, S, 3) RGB with S = `preprocessing.image_size`.

        Raises:
            ShapeError: another shape or type.
        """
        size = self.preprocessing.image_size
        if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise ShapeError(f"expected crops uint8 (N, {size}, {size}, 3), got {crops.dtype} {crops.shape}")
        with self.timer("score"):
            scores, moved = score_crops(self.detector, crops)
        return [
            Answer(**self._decide(np.array([score]), np.array([move])))
            for score, move in zip(scores, moved, strict=True)
        ]

    def _all_faces(self, frame: Frame) -> list[FaceCrop]:
        wanted = self.preprocessing
        (faces,) = self._faces.detect([frame.image], min_face=wanted.min_face)
        return [
            crop_face(frame, face, wanted.image_size, wanted.margin)
            for face in faces
            if face.confidence >= wanted.min_confidence and _side(face) >= wanted.min_face
        ]

    def _score(self, crops: Sequence[FaceCrop]) -> tuple[np.ndarray, np.ndarray]:
        with self.timer("score"):
            return score_crops(self.detector, np.stack([crop.image for crop in crops]))

    def _no_face(self) -> dict[str, Any]:
        return {"outcome": "no_face", "threshold": self.threshold, "model": self.identity}

    def _decide(self, scores: np.ndarray, moved: np.ndarray) -> dict[str, Any]:
        score, inconsistency = float(scores.mean()), float(moved.mean())
        return {
            "outcome": "ok",
            "label": "fake" if score >= self.threshold else "real",
            "score": score,
            "threshold": self.threshold,
            "attack_score": inconsistency,
            "attack_parts": AttackScore(jpeg_75=inconsistency),
            "model": self.identity,
        }


def _side(face: Face) -> float:
    return float(max(face.box[2:] - face.box[:2]))


def _describe_faces(crops: Sequence[FaceCrop], scores: np.ndarray) -> tuple[FaceAnswer, ...]:
    return tuple(
        FaceAnswer(
            box=(
                float(crop.face.box[0]),
                float(crop.face.box[1]),
                float(crop.face.box[2]),
                float(crop.face.box[3]),
            ),
            confidence=float(crop.face.confidence),
            score=float(score),
        )
        for crop, score in zip(crops, scores, strict=True)
    )


def _measure_quality(crops: Sequence[FaceCrop]) -> Quality:
    return Quality(
        face_size=float(np.median([_side(crop.face) for crop in crops])),
        blur=float(np.median([blur(crop.image) for crop in crops])),
    )


def _require_signed(folder: Path, model: str | Path) -> None:
    missing = [name for name in (MANIFEST, SIGNATURE) if not (folder / name).is_file()]
    if missing:
        raise BundleError(
            f"expected a signed bundle at {model}, got a folder without {' and '.join(missing)}; "
            "publish it first, or allow unsigned models"
        )


def _identify(folder: Path, name: str, model: str) -> ModelIdentity:
    manifest = folder / MANIFEST
    digest = sha256_file(manifest if manifest.is_file() else folder / WEIGHTS_FILE)
    version = _find_version(folder, model)
    if version is None or not version.endswith(f"-{digest[:_VERSION_DIGEST]}"):
        version = digest[:_SHORT_DIGEST]  # not from a registry, or the channel has moved on since
    return ModelIdentity(name=name, version=version, digest=f"sha256:{digest}")


def _find_version(folder: Path, model: str) -> str | None:
    """Return the registry's name of the version, where the address tells it."""
    if folder.parent.name == "versions":
        return folder.name
    parts = model.rstrip("/").split("/")
    if len(parts) > 2 and parts[-2] == "versions":
        return parts[-1]
    if not model.startswith("registry://"):
        return None
    name, _, target = model.removeprefix("registry://").partition("@")
    if _VERSION.fullmatch(target):
        return target
    return str(read_pointer(open_store(os.environ["RAMPART_REGISTRY"]), name, target)["version"])


def _read_reference(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or "histograms" not in document:
        raise BundleError(f"expected histograms in {path}, got another document; rebuild the bundle")
    return document
