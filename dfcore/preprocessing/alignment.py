"""Square crops of faces: around the box, or turned and scaled so that five points lie on a template."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dfcore.preprocessing.face import Face
from dfcore.preprocessing.quality import blockiness, face_size
from dfcore.preprocessing.video import Frame

__all__ = ["FaceCrop", "crop_face"]

# Where left eye, right eye, nose and mouth corners lie in a face crop of 112 pixels without margin.
# Source: the template of ArcFace (Deng et al., arXiv:1801.07698), which InsightFace and DeepfakeBench share.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_TEMPLATE_SIZE = 112.0
# Shares of the box's side and of the points' own spread: beyond these the landmarks make no face.
_MIN_SPREAD, _MAX_RESIDUAL = 0.08, 0.5
# A scale of just below one needs no averaging.
_EVEN = 0.25
# Pixels a side that are measured; more say no more.
_MEASURED = 384

Image = NDArray[np.uint8]


class FaceCrop(NamedTuple):
    """A square crop: `image` (S, S, 3) uint8 RGB; `landmarks` (5, 2) float32 in the crop's pixels.

    `face` holds the detection in the frame's pixels; `blockiness` is measured in the frame, as scaling
    blurs the grid that compression left.
    """

    image: NDArray[np.uint8]
    face: Face
    frame_index: int
    timestamp: float
    landmarks: NDArray[np.float32]
    blockiness: float


def crop_face(
    frame: Frame,
    face: Face,
    size: int,
    margin: float,
    alignment: Literal["box", "five_points"] = "box",
) -> FaceCrop:
    """Cut out a face and scale it to `size`, mirroring the frame at its border.

    Args:
        frame: where the face was found.
        face: in the frame's pixels.
        size: side of the crop.
        margin: share added in total: to the box's longer side, or to the five points' template.
        alignment: "box" cuts an upright square around the box; "five_points" turns and scales the face so
            that its landmarks lie on the template, or falls back to the box if they make no face.

    Returns:
        The crop.
    """
    transform = _to_template(face, size, margin) if alignment == "five_points" else None
    if transform is None:
        image, transform = _crop_box(frame.image, face, size, margin)
    else:
        image = _crop_turned(frame.image, size, transform)
    landmarks = (face.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
    return FaceCrop(image, face, frame.index, frame.timestamp, landmarks, _blockiness(frame.image, face))


def _blockiness(image: Image, face: Face) -> float:
    """Measure the middle of the face, where it lies in the frame."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.clip(face.box, 0, (width, height, width, height)).round().astype(int)
    x, y = max(0, (x1 - x0 - _MEASURED) // 2), max(0, (y1 - y0 - _MEASURED) // 2)
    inside = image[y0 + y : y1 - y, x0 + x : x1 - x]
    return blockiness(inside) if inside.size else 0.0


def _crop_box(image: Image, face: Face, size: int, margin: float) -> tuple[Image, NDArray[np.float64]]:
    """Return the crop and the (2, 3) matrix from frame to crop."""
    side = max(2, round(face_size(face) * (1 + margin)))
    height, width = image.shape[:2]
    corner = (face.box[:2] + face.box[2:]) / 2 - side / 2
    # at least one pixel of the frame, which OpenCV needs to have something to mirror
    left, top = np.clip(corner.round(), 1 - side, (width - 1, height - 1)).astype(int).tolist()
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if min(top, left) < 0 or top + side > height or left + side > width:
        border = (max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0))
        inside = np.asarray(cv2.copyMakeBorder(inside, *border, cv2.BORDER_REFLECT_101), np.uint8)
    shrinking = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = np.asarray(cv2.resize(inside, (size, size), interpolation=shrinking), np.uint8)
    scale = size / side
    return crop, np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])


def _to_template(face: Face, size: int, margin: float) -> NDArray[np.float64] | None:
    """Return the (2, 3) least-squares similarity from frame to crop, None if the landmarks make no face."""
    place = (_TEMPLATE - _TEMPLATE_SIZE / 2) / (1 + margin) + _TEMPLATE_SIZE / 2
    target = (place * (size / _TEMPLATE_SIZE)).astype(np.float64).view(np.complex128).ravel()
    points = np.ascontiguousarray(face.landmarks, np.float64).view(np.complex128).ravel()
    source, target_spread = points - points.mean(), target - target.mean()
    spread = float(np.sqrt(np.mean(np.abs(source) ** 2)))
    if not np.isfinite(points).all() or spread < _MIN_SPREAD * face_size(face):
        return None
    # As complex numbers a similarity is one product: no mirror image can come out.
    turn = np.vdot(source, target_spread) / np.vdot(source, source)
    residual = float(np.sqrt(np.mean(np.abs(turn * source - target_spread) ** 2)))
    if residual > _MAX_RESIDUAL * float(np.sqrt(np.mean(np.abs(target_spread) ** 2))):
        return None
    shift = target.mean() - turn * points.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _crop_turned(image: Image, size: int, transform: NDArray[np.float64]) -> Image:
    # warpAffine looks at a few pixels only: where it would skip some, draw larger and average
    finer = max(1, math.ceil(1 / float(np.hypot(transform[0, 0], transform[1, 0])) - _EVEN))
    matrix = transform * finer
    matrix[:, 2] += (finer - 1) / 2
    how = cv2.INTER_CUBIC if finer == 1 else cv2.INTER_LINEAR
    drawn = (size * finer, size * finer)
    turned = cv2.warpAffine(image, matrix, drawn, flags=how, borderMode=cv2.BORDER_REFLECT_101)
    if finer > 1:
        turned = cv2.resize(turned, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(turned, np.uint8)
