"""MTCNN face detection, batched over frames and pyramid levels.

It follows `mtcnn` 1.0, whose weights it runs, step by step: the same pyramid, the same points sampled in each
patch, the same order of regression and suppression. facenet-pytorch 2.6 rounds boxes to whole pixels and
averages over patches, so its boxes differ from both, as those of the two references do from each other.

Source: Zhang et al., arXiv:1604.02878; `mtcnn` 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfcore.errors import InvalidInput, ShapeError
from dfcore.preprocessing.face import Face, check_images
from dfcore.preprocessing.mtcnn_networks import MTCNNNetwork, load_networks
from dfcore.preprocessing.pyramid import area_pyramid

__all__ = ["MTCNN"]

_CELL, _STRIDE = 12, 2
_PNET_SCORE, _RNET_SCORE, _ONET_SCORE = 0.6, 0.7, 0.8
_SCALE_IOU, _IOU, _NESTED = 0.5, 0.7, 0.7
# More boxes than these in one image are texture, not faces.
_MAX_COMPARED, _MAX_PROPOSALS = 512, 128
_BATCH_PIXELS = 16_000_000
# What PNet sees at once: on a CPU its activations should stay in the cache, a GPU wants work.
_CPU_PIXELS, _GPU_PIXELS = 100_000, 4_000_000
_CPU_PATCHES, _GPU_PATCHES = 32, 4096
# Where a face that was in a box may be a moment later: shifts in shares of the side, first near, then all
# round, each a little larger. RNet finds a face from a box that holds about half of it.
_NEAR = ((0.0, 0.0), (-0.2, 0.0), (0.2, 0.0), (0.0, -0.2), (0.0, 0.2))
_FAR = tuple(product((-0.6, -0.2, 0.2, 0.6), repeat=2))
_GROWN = 1.2
_FOUND_IOU = 0.1
# Of the candidates around one box ONet, the dearest network, sees the best.
_REFINED_IOU = 0.3
_GREY = (127, 127, 127)


class _Boxes(NamedTuple):
    """Candidates over a batch: `image` (n,) int64, `box` (n, 4) float32, `score` (n,) float32.

    In NumPy, not torch: on some hundred boxes a call costs more than its work, and NumPy's cost least.
    """

    image: NDArray[np.int64]
    box: NDArray[np.float32]
    score: NDArray[np.float32]

    def take(self, keep: NDArray[Any]) -> _Boxes:
        return _Boxes(self.image[keep], self.box[keep], self.score[keep])


class MTCNN:
    """Find faces in images: PNet over a pyramid, then RNet and ONet on patches.

    Images of one size share PNet's batches level by level, and the patches of all images and levels share
    those of RNet and ONet. Images are scaled and patches are cut on the CPU, so that every device sees the
    same pixels; only the networks run on it.

    Raises:
        WorkFailed: the published weights are missing or altered.

    Source: Zhang et al., arXiv:1604.02878.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        self._chunk = _CPU_PIXELS if on_cpu else _GPU_PIXELS
        self._patch_batch = _CPU_PATCHES if on_cpu else _GPU_PATCHES
        self._pnet, self._rnet, self._onet = load_networks(self.device)

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]], *, min_face: int = 40) -> list[list[Face]]:
        """Detect the faces of each image; images of one size share a batch.

        Args:
            images: each (H, W, 3) uint8 RGB.
            min_face: the smallest face looked for, in pixels.

        Returns:
            For each image its faces, most confident first.

        Raises:
            ShapeError: an image of another shape or type.
            InvalidInput: `min_face` below 12, which the network can't see.
        """
        if min_face < _CELL:
            raise InvalidInput(f"expected min_face of at least {_CELL}, got {min_face}")
        check_images(images)
        found: list[list[Face]] = [[] for _ in images]
        for places in _batches(images):
            batch = [images[place] for place in places]
            for row, face in self._look_closer(batch, _square(self._propose(batch, min_face)), _IOU):
                found[places[row]].append(face)
        return found

    @torch.inference_mode()
    def refine(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[Face]]:
        """Find the faces in and around given boxes: RNet and ONet only, many times cheaper than `detect`.

        Args:
            images: each (H, W, 3) uint8 RGB.
            boxes: for each image (n, 4) x0, y0, x1, y1: where its faces should be, as in a frame just
                before or after. A face that moved by more than its size is lost.

        Returns:
            For each image the faces found, most confident first.

        Raises:
            ShapeError: an image or box of another shape, or not boxes for each image.
        """
        check_images(images)
        if len(images) != len(boxes):
            raise ShapeError(f"expected boxes for {len(images)} images, got {len(boxes)}")
        for given in boxes:
            if given.ndim != 2 or given.shape[1] != 4:
                raise ShapeError(f"expected boxes (n, 4), got {given.shape}")
        found: list[list[Face]] = [[] for _ in images]
        for shifts in (_NEAR, _FAR):
            lost = [
                given[[not any(_touch(box, face.box) for face in faces) for box in given]]
                for given, faces in zip(boxes, found, strict=True)
            ]
            tried = [_neighbours(row, given.astype(np.float32), shifts) for row, given in enumerate(lost)]
            known = [list(faces) for faces in found]
            for row, face in self._look_closer(images, _join(tried), _REFINED_IOU) if tried else ():
                if not any(_touch(face.box, other.box) for other in known[row]):
                    found[row].append(face)
        return [sorted(faces, key=lambda face: -face.confidence) for faces in found]

    def _propose(self, images: Sequence[NDArray[np.uint8]], min_face: int) -> _Boxes:
        """Run PNet over the pyramid and keep the best proposals of each image."""
        found = []
        for scale, level in area_pyramid(images, min_face):
            boxes = self._level(level, scale)
            found.append(boxes.take(_unsuppressed(boxes, _SCALE_IOU)))
        if not found:
            return _Boxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        boxes = _join(found)
        return boxes.take(_unsuppressed(boxes, _IOU))

    def _level(self, level: NDArray[np.float32], scale: float) -> _Boxes:
        count = max(1, self._chunk // (level.shape[1] * level.shape[2]))
        parts = []
        for start in range(0, len(level), count):
            offsets, score = self._pnet(self._pixels(level[start : start + count]))
            image, y, x = torch.nonzero(score > _PNET_SCORE, as_tuple=True)
            corner = torch.stack((x, y, x, y), 1).float() * _STRIDE
            corner += corner.new_tensor((1, 1, _CELL, _CELL))
            box = (corner + offsets[image, :, y, x] * (_CELL - 1)) / scale
            values = (image + start, box, score[image, y, x])
            parts.append(_Boxes(*(value.cpu().numpy() for value in values)))
        return _join(parts)

    def _look_closer(
        self, images: Sequence[NDArray[np.uint8]], boxes: _Boxes, limit: float
    ) -> Iterator[tuple[int, Face]]:
        """Run RNet, suppress by `limit`, run ONet; yield (place of the image, face), most confident first."""
        if len(boxes.score):
            boxes = self._refine(images, boxes, limit)
        if not len(boxes.score):
            return
        offsets, points, score = self._look(self._onet, images, boxes, 48)
        origin, size = boxes.box[:, None, :2], (boxes.box[:, 2:] - boxes.box[:, :2] + 1)[:, None]
        # x of the five points, then y
        landmarks = np.stack((points[:, :5], points[:, 5:]), 2) * size + origin - 1
        boxes = _Boxes(boxes.image, _adjust(boxes.box, offsets), score)
        sure = np.flatnonzero(score > _ONET_SCORE)
        for row in sure[_unsuppressed(boxes.take(sure), _NESTED, of_smaller=True)]:
            yield int(boxes.image[row]), Face(boxes.box[row], landmarks[row], float(score[row]))

    def _refine(self, images: Sequence[NDArray[np.uint8]], boxes: _Boxes, limit: float) -> _Boxes:
        offsets, score = self._look(self._rnet, images, boxes, 24)
        boxes = _Boxes(boxes.image, _adjust(boxes.box, offsets), score).take(score > _RNET_SCORE)
        return _square(boxes.take(_unsuppressed(boxes, limit)))

    def _look(
        self, network: MTCNNNetwork, images: Sequence[NDArray[np.uint8]], boxes: _Boxes, size: int
    ) -> list[NDArray[np.float32]]:
        """Run a network on each box's patch of `size` x `size` pixels."""
        count = self._patch_batch
        parts = [
            network(self._pixels(_patches(images, some, size)))
            for start in range(0, len(boxes.score), count)
            for some in (boxes.take(np.arange(start, min(start + count, len(boxes.score)))),)
        ]
        return [torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)]

    def _pixels(self, images: NDArray[Any]) -> Tensor:
        # a view, not a copy: (N, H, W, 3) in memory is what convolutions on channels_last read fastest
        return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()


def _batches(images: Sequence[NDArray[np.uint8]]) -> Iterator[list[int]]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(place)
    for shape, places in by_shape.items():
        count = max(1, _BATCH_PIXELS // max(1, shape[0] * shape[1]))
        for start in range(0, len(places), count):
            yield places[start : start + count]


def _patches(images: Sequence[NDArray[np.uint8]], boxes: _Boxes, size: int) -> NDArray[np.uint8]:
    """Sample (n, size, size, 3) uint8 points of each box, corner to corner; outside the image is mid grey."""
    patches = np.empty((len(boxes.score), size, size, 3), np.uint8)
    matrix = np.zeros((2, 3))
    rows = zip(patches, boxes.image.tolist(), boxes.box.tolist(), strict=True)
    for patch, row, (x0, y0, x1, y1) in rows:
        height, width = images[row].shape[:2]
        # as tf.image.crop_and_resize: the box is given in shares of the size, its points count from 0
        across, down = (width - 1) / width, (height - 1) / height
        matrix[0] = ((x1 - x0) * across / (size - 1), 0, x0 * across)
        matrix[1] = (0, (y1 - y0) * down / (size - 1), y0 * down)
        cv2.warpAffine(
            images[row], matrix, (size, size), dst=patch, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=_GREY,
        )  # fmt: skip
    return patches


def _neighbours(row: int, boxes: NDArray[np.float32], shifts: Sequence[tuple[float, ...]]) -> _Boxes:
    """Return the squares around boxes (n, 4) of one image, at every shift."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0)
    middle = np.concatenate([centre + side * np.array(shift, np.float32) for shift in shifts])
    half = np.tile(side * np.float32(_GROWN / 2), (len(shifts), 1))
    squares = np.concatenate((middle - half, middle + half), 1)
    return _Boxes(np.full(len(squares), row), squares, np.ones(len(squares), np.float32))


def _touch(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = float(sides.prod())
    return common > _FOUND_IOU * (float((a[2:] - a[:2]).prod()) + float((b[2:] - b[:2]).prod()) - common)


def _join(parts: Sequence[_Boxes]) -> _Boxes:
    return _Boxes(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _unsuppressed(boxes: _Boxes, limit: float, *, of_smaller: bool = False) -> NDArray[np.int64]:
    """Return the rows that no surer box of their image overlaps by more than `limit`, the surest first.

    As in the reference, a box that is itself suppressed still suppresses others. The overlap is the IoU, or
    what part of the smaller box both cover.
    """
    order = np.argsort(-boxes.score, kind="stable")
    image = boxes.image[order]
    keep = [order[:0]]
    for place in np.unique(image):
        rows = order[image == place][:_MAX_COMPARED]
        x0, y0, x1, y1 = boxes.box[rows].T
        width = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
        height = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
        common = np.maximum(width, 0) * np.maximum(height, 0)
        area = (x1 - x0) * (y1 - y0)
        whole = np.minimum.outer(area, area) if of_smaller else np.add.outer(area, area) - common
        # multiplied, not divided: an empty box has no overlap
        hidden = np.triu(common > limit * whole, 1).any(axis=0)
        keep.append(rows[~hidden][:_MAX_PROPOSALS])
    return np.concatenate(keep)


def _adjust(box: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    size = box[:, 2:] - box[:, :2] + 1
    return box + offsets * np.concatenate((size, size), 1)


def _square(boxes: _Boxes) -> _Boxes:
    centre = (boxes.box[:, :2] + boxes.box[:, 2:]) / 2
    half = (boxes.box[:, 2:] - boxes.box[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return boxes._replace(box=np.concatenate((centre - half, centre + half), 1))
