"""From frames to square face crops of one person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.preprocessing.config import PreprocessingConfig
from dfcore.preprocessing.mtcnn import MTCNN, Face
from dfcore.preprocessing.video import Frame

__all__ = ["FaceCrop", "blur", "crop_face", "crop_tracked", "extract_faces", "longest_track"]

# Frames lie far apart in time, so a head may leave its box: boxes are grown before they are compared.
_GROWTH = 2.0
_SAME_FACE_IOU = 0.2


class FaceCrop(NamedTuple):
    """A square crop: `image` (S, S, 3) uint8 RGB; `landmarks` (5, 2) float32 in the crop's pixels.

    `face` holds the detection in the frame's pixels.
    """

    image: NDArray[np.uint8]
    face: Face
    frame_index: int
    timestamp: float
    landmarks: NDArray[np.float32]


def extract_faces(frames: Sequence[Frame], mtcnn: MTCNN, config: PreprocessingConfig) -> list[FaceCrop]:
    """Cut out the person who is seen in most frames, at most one crop a frame.

    Args:
        frames: of one video, in display order; a still image is one frame.
        mtcnn: the detector.
        config: which faces count, and the crop's size.

    Returns:
        The crops in display order; empty if no face is confident and large enough.
    """
    detections = mtcnn.detect([frame.image for frame in frames], min_face=config.min_face)
    return crop_tracked(frames, detections, config)


def crop_tracked(
    frames: Sequence[Frame], detections: Sequence[Sequence[Face]], config: PreprocessingConfig
) -> list[FaceCrop]:
    """Cut out the longest track's faces when the detections are already there.

    Raises:
        ShapeError: not one list of faces for each frame.
    """
    if len(frames) != len(detections):
        raise ShapeError(f"expected faces for {len(frames)} frames, got {len(detections)}")
    usable = [
        [
            face
            for face in faces
            if face.confidence >= config.min_confidence and _side(face) >= config.min_face
        ]
        for faces in detections
    ]
    return [
        crop_face(frames[place], face, config.image_size, config.margin)
        for place, face in longest_track(usable)
    ]


def longest_track(detections: Sequence[Sequence[Face]]) -> list[tuple[int, Face]]:
    """Link faces over frames by the IoU of their grown boxes and return the longest track.

    Of tracks as long as each other the one with the larger faces wins.

    Args:
        detections: the faces of each frame.

    Returns:
        (place of the frame, face) of the longest track; empty without faces.
    """
    tracks: list[list[tuple[int, Face]]] = []
    for place, faces in enumerate(detections):
        pairs = sorted(
            (
                (_overlap(track[-1][1], face), i, j)
                for i, track in enumerate(tracks)
                for j, face in enumerate(faces)
            ),
            reverse=True,
        )
        extended: set[int] = set()
        linked: set[int] = set()
        for overlap, i, j in pairs:
            if overlap >= _SAME_FACE_IOU and i not in extended and j not in linked:
                tracks[i].append((place, faces[j]))
                extended.add(i)
                linked.add(j)
        tracks.extend([(place, face)] for j, face in enumerate(faces) if j not in linked)
    return max(tracks, key=lambda track: (len(track), sum(_side(face) for _, face in track)), default=[])


def crop_face(frame: Frame, face: Face, size: int, margin: float) -> FaceCrop:
    """Cut a square around a face's box, mirroring the frame at its border, and scale it to `size`.

    Args:
        frame: where the face was found.
        face: in the frame's pixels.
        size: side of the crop.
        margin: share of the box's longer side added in total.

    Returns:
        The crop.
    """
    side = max(2, round(_side(face) * (1 + margin)))
    left, top = (round(float(value)) for value in (face.box[:2] + face.box[2:]) / 2 - side / 2)
    height, width = frame.image.shape[:2]
    inside = frame.image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if min(top, left) < 0 or top + side > height or left + side > width:
        border = (max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0))
        inside = np.asarray(cv2.copyMakeBorder(inside, *border, cv2.BORDER_REFLECT_101), np.uint8)
    shrinking = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    image = cv2.resize(inside, (size, size), interpolation=shrinking)
    landmarks = ((face.landmarks - (left, top)) * (size / side)).astype(np.float32)
    return FaceCrop(np.asarray(image, np.uint8), face, frame.index, frame.timestamp, landmarks)


def blur(image: NDArray[np.uint8]) -> float:
    """Measure sharpness as the variance of the Laplacian of the grey image; small means blurred.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        At least 0.
    """
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _side(face: Face) -> float:
    return float(max(face.box[2] - face.box[0], face.box[3] - face.box[1]))


def _overlap(a: Face, b: Face) -> float:
    """IoU of the two boxes grown about their centres."""
    first, second = (_grown(face.box) for face in (a, b))
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - common
    return common / union if union > 0 else 0.0


def _grown(box: NDArray[np.float32]) -> NDArray[np.float32]:
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _GROWTH
    return np.concatenate((centre - half, centre + half))
