"""The face detectors behind one interface: MTCNN, or YuNet and RetinaFace from the user's ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ConfigError, ShapeError
from dfcore.preprocessing.config import PreprocessingConfig
from dfcore.preprocessing.face import Face, check_images

if TYPE_CHECKING:
    import torch

__all__ = ["FaceDetector", "RetinaFace", "YuNet", "build_face_detector"]

# Both files: what counts as a face at all (the settings ask for more), and when two boxes are one face.
_SCORE, _NMS_IOU = 0.6, 0.4
_STRIDES = (8, 16, 32)


class FaceDetector(Protocol):
    """What finds faces in images."""

    def detect(self, images: Sequence[NDArray[np.uint8]], *, min_face: int = 40) -> list[list[Face]]:
        """Return the faces of each (H, W, 3) uint8 RGB image, most confident first."""

    def refine(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[Face]]:
        """Return the faces of each image, given boxes (n, 4) near which they are; may look elsewhere too."""


def build_face_detector(config: PreprocessingConfig, device: str | torch.device = "cpu") -> FaceDetector:
    """Make the detector that the settings name.

    Args:
        config: `face_detector`, and for YuNet and RetinaFace `detector_weights`.
        device: where MTCNN runs; the others run on the CPU.

    Raises:
        ConfigError: the weights are missing or no ONNX file of that detector.
        WorkFailed: MTCNN's weights are missing or altered.
    """
    if config.detector_weights is None:
        from dfcore.preprocessing.mtcnn import MTCNN  # torch takes seconds to load; who only scans needs none

        return MTCNN(device)
    if config.face_detector == "yunet":
        return YuNet(config.detector_weights)
    return RetinaFace(config.detector_weights)


class YuNet:
    """OpenCV's YuNet, `face_detection_yunet_2023mar.onnx` of opencv_zoo.

    It is trained for faces of 10 to 300 pixels, so images are scaled until `min_face` becomes 20. One
    instance belongs to one thread.

    Raises:
        ConfigError: the file is missing or no YuNet.

    Source: Wu et al., Machine Intelligence Research 20, 2023; opencv_zoo.
    """

    _smallest = 20

    def __init__(self, weights: Path) -> None:
        _require_file(weights, "yunet")
        self._weights = weights
        try:
            self._network = cv2.FaceDetectorYN.create(str(weights), "", (32, 32), _SCORE, _NMS_IOU)
            self._network.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise _unusable(weights, "yunet", error) from error

    def detect(self, images: Sequence[NDArray[np.uint8]], *, min_face: int = 40) -> list[list[Face]]:
        """Detect the faces of each image; see `FaceDetector`.

        Raises:
            ShapeError: an image of another shape or type.
        """
        check_images(images)
        return [self._detect(image, min(1.0, self._smallest / min_face)) for image in images]

    def refine(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[Face]]:
        """Detect anew: YuNet has no second stage."""
        return self.detect(images, min_face=_smallest_side(boxes))

    def _detect(self, image: NDArray[np.uint8], scale: float) -> list[Face]:
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize(size)
        _, rows = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        rows = np.asarray(rows, np.float32)
        stretch = np.array((width / size[0], height / size[1]), np.float32)
        corners = np.stack((rows[:, :2], rows[:, :2] + rows[:, 2:4]), 1) * stretch
        points = rows[:, 4:14].reshape(-1, 5, 2) * stretch
        return _by_confidence(corners.reshape(-1, 4), points, rows[:, 14])


class RetinaFace:
    """A RetinaFace of Pytorch_Retinaface's layout: outputs (1, N, 4), (1, N, 2) and (1, N, 10), any order.

    Images are scaled to fit 640 x 640, the size that these files are exported with: faces below about
    1/40 of the image's longer side are not found. One instance belongs to one thread.

    Raises:
        ConfigError: the file is missing or no such RetinaFace.

    Source: Deng et al., arXiv:1905.00641; github.com/biubug6/Pytorch_Retinaface (priors, variances, means).
    """

    _side = 640
    _mean = (123.0, 117.0, 104.0)
    _anchors = ((16, 32), (64, 128), (256, 512))
    _variances = (0.1, 0.2)

    def __init__(self, weights: Path) -> None:
        _require_file(weights, "retinaface")
        self._weights = weights
        try:
            self._network = cv2.dnn.readNetFromONNX(str(weights))
            self._outputs = self._network.getUnconnectedOutLayersNames()
            self._run(np.zeros((self._side, self._side, 3), np.uint8))
        except cv2.error as error:
            raise _unusable(weights, "retinaface", error) from error

    def detect(self, images: Sequence[NDArray[np.uint8]], *, min_face: int = 40) -> list[list[Face]]:
        """Detect the faces of each image of at least `min_face` pixels; see `FaceDetector`.

        Raises:
            ShapeError: an image of another shape or type.
        """
        check_images(images)
        found = []
        for image in images:
            faces = self._detect(image)
            found.append([face for face in faces if (face.box[2:] - face.box[:2]).max() >= min_face])
        return found

    def refine(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[Face]]:
        """Detect anew: RetinaFace has no second stage."""
        return self.detect(images, min_face=_smallest_side(boxes))

    def _detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        # what lies beyond the image is the mean colour, which the network sees as zero
        canvas = np.empty((self._side, self._side, 3), np.uint8)
        canvas[:] = np.array(self._mean, np.uint8)
        canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=how)
        location, score, landmarks = self._run(canvas)
        sure = np.flatnonzero(score > _SCORE)
        prior = _priors(self._side, self._anchors)[sure]
        centre = prior[:, :2] + location[sure, :2] * self._variances[0] * prior[:, 2:]
        extent = prior[:, 2:] * np.exp(location[sure, 2:] * self._variances[1])
        points = (
            prior[:, None, :2] + landmarks[sure].reshape(-1, 5, 2) * self._variances[0] * prior[:, None, 2:]
        )
        corner = centre - extent / 2
        boxes = np.concatenate((corner, extent), 1)
        keep = np.array(cv2.dnn.NMSBoxes(boxes.tolist(), score[sure].tolist(), _SCORE, _NMS_IOU), np.int64)
        stretch = np.array((width / size[0], height / size[1]), np.float32)
        corners = np.stack((corner, corner + extent), 1)[keep] * stretch
        return _by_confidence(corners.reshape(-1, 4), points[keep] * stretch, score[sure][keep])

    def _run(self, canvas: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return location (N, 4), probability of a face (N,), landmarks (N, 10).

        Raises:
            ConfigError: other outputs.
        """
        size = (self._side, self._side)
        # the file wants BGR; OpenCV takes the means in the order of its output
        self._network.setInput(cv2.dnn.blobFromImage(canvas, 1.0, size, self._mean[::-1], swapRB=True))
        outputs = {output.shape[-1]: output for output in self._network.forward(self._outputs)}
        count = len(_priors(self._side, self._anchors))
        shapes = {columns: output.shape for columns, output in outputs.items()}
        if shapes != {columns: (1, count, columns) for columns in (4, 2, 10)}:
            raise _unusable(
                self._weights, "retinaface", f"its outputs have the shapes {list(shapes.values())}"
            )
        return [outputs[4][0], outputs[2][0, :, 1], outputs[10][0]]


@lru_cache(maxsize=2)
def _priors(side: int, anchors: tuple[tuple[int, ...], ...]) -> NDArray[np.float32]:
    """Return (N, 4) centre and extent of every prior, in pixels."""
    rows = [
        ((x + 0.5) * stride, (y + 0.5) * stride, size, size)
        for stride, sizes in zip(_STRIDES, anchors, strict=True)
        for y, x in product(range(side // stride), repeat=2)
        for size in sizes
    ]
    return np.array(rows, np.float32)


def _require_file(weights: Path, name: str) -> None:
    if not weights.is_file():
        raise ConfigError(
            f"expected the ONNX file of {name} at {weights}, got no file; set preprocessing.detector_weights"
        )


def _unusable(weights: Path, name: str, reason: object) -> ConfigError:
    return ConfigError(f"expected the ONNX file of {name}, got {weights}: {reason}; download it again")


def _smallest_side(boxes: Sequence[NDArray[np.float32]]) -> int:
    if any(box.ndim != 2 or box.shape[1] != 4 for box in boxes):
        raise ShapeError(f"expected boxes (n, 4), got {[box.shape for box in boxes]}")
    sides = [float((box[:, 2:] - box[:, :2]).max(axis=1).min()) for box in boxes if len(box)]
    # a face may have become smaller since
    return max(1, int(0.8 * min(sides, default=40.0)))


def _by_confidence(boxes: Any, points: Any, scores: Any) -> list[Face]:
    order = np.argsort(-scores, kind="stable")
    return [
        Face(boxes[i].astype(np.float32), points[i].astype(np.float32), min(1.0, float(scores[i])))
        for i in order
    ]
