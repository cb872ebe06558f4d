"""From frames to square face crops of one person."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dfcore.errors import ShapeError
from dfcore.preprocessing.alignment import FaceCrop, crop_face
from dfcore.preprocessing.config import PreprocessingConfig
from dfcore.preprocessing.detectors import FaceDetector
from dfcore.preprocessing.face import Face
from dfcore.preprocessing.quality import face_size
from dfcore.preprocessing.tracking import Image, choose_track, find_in_videos, usable_faces
from dfcore.preprocessing.video import Frame

__all__ = ["crop_tracked", "crop_whole", "extract_faces", "find_faces"]


def find_faces(
    videos: Sequence[Sequence[Frame]],
    detector: FaceDetector,
    config: PreprocessingConfig,
    *,
    masks: Sequence[Sequence[Image | None]] | None = None,
) -> list[list[FaceCrop]]:
    """Cut one person out of each video, at most one crop a frame; frames of all videos share batches.

    Args:
        videos: each its frames in display order; a still image is one frame.
        detector: what finds faces.
        config: which faces count, how often detection runs, and how crops are cut.
        masks: for each video one manipulation mask a frame, None where there is none.

    Returns:
        For each video its crops in display order; empty if no face is confident and large enough. It is
        the person that the masks cover most, else the one who is seen in most frames.

    Raises:
        ShapeError: not one sequence of masks for each video, or one mask for each frame.
    """
    if masks is not None and len(masks) != len(videos):
        raise ShapeError(f"expected masks for {len(videos)} videos, got {len(masks)}; pass None for none")
    found = find_in_videos([[frame.image for frame in frames] for frames in videos], detector, config)
    return [
        crop_tracked(frames, faces, config, None if masks is None else masks[place])
        for place, (frames, faces) in enumerate(zip(videos, found, strict=True))
    ]


def extract_faces(
    frames: Sequence[Frame], detector: FaceDetector, config: PreprocessingConfig
) -> list[FaceCrop]:
    """Cut out the person who is seen in most frames of one video; see `find_faces`."""
    return find_faces([frames], detector, config)[0]


def crop_whole(
    frames: Sequence[Frame], detector: FaceDetector, config: PreprocessingConfig
) -> list[FaceCrop]:
    """Take images that are face crops already: the whole image is the face's box, scaled to the crop's size.

    Args:
        frames: the images; each gives a crop.
        detector: finds the landmarks.
        config: the crop's size.

    Returns:
        One crop a frame. Landmarks and confidence are those of the largest face found; without one the
        landmarks are NaN and the confidence is 0.
    """
    crops = []
    for frame, faces in zip(
        frames, detector.detect([frame.image for frame in frames], min_face=config.min_face), strict=True
    ):
        height, width = frame.image.shape[:2]
        box = np.array([0, 0, width, height], np.float32)
        found = max(faces, key=face_size, default=Face(box, np.full((5, 2), np.nan, np.float32), 0.0))
        crops.append(crop_face(frame, found._replace(box=box), config.image_size, 0.0))
    return crops


def crop_tracked(
    frames: Sequence[Frame],
    detections: Sequence[Sequence[Face]],
    config: PreprocessingConfig,
    masks: Sequence[Image | None] | None = None,
) -> list[FaceCrop]:
    """Cut out one person's faces when the detections are already there; see `find_faces`.

    Raises:
        ShapeError: not one list of faces, or not one mask, for each frame.
    """
    if len(frames) != len(detections):
        raise ShapeError(f"expected faces for {len(frames)} frames, got {len(detections)}")
    if masks is not None and len(masks) == len(frames):
        masks = [_fitted(mask, frame) for mask, frame in zip(masks, frames, strict=True)]
    return [
        crop_face(frames[place], face, config.image_size, config.margin, config.alignment)
        for place, face in choose_track([usable_faces(faces, config) for faces in detections], masks)
    ]


def _fitted(mask: Image | None, frame: Frame) -> Image | None:
    """Scale a mask to its frame, as mask videos come in sizes of their own."""
    height, width = frame.image.shape[:2]
    if mask is None or mask.shape[:2] == (height, width):
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
