"""MTCNN face detection, batched over frames and pyramid levels.

The weights are those of the `mtcnn` package (MIT licence), read from its files without importing it,
because importing it needs TensorFlow. Source: Zhang et al., arXiv:1604.02878; `mtcnn` 1.0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

from dfcore.errors import InvalidInput, ShapeError, WorkFailed

__all__ = ["MTCNN", "Face"]

# The files are unpickled, so only these exact bytes are.
_SHA256 = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
_CELL, _STRIDE, _PYRAMID = 12, 2, 0.709
_PNET_SCORE, _RNET_SCORE, _ONET_SCORE = 0.6, 0.7, 0.8
_SCALE_IOU, _IOU, _NESTED = 0.5, 0.7, 0.7
# More proposals than this per image are texture, not faces.
_MAX_PROPOSALS = 128
_BATCH_PIXELS = 16_000_000
_PATCH_BATCH = 2048


class Face(NamedTuple):
    """A face in pixels of its image: `box` (4,) float32 x0, y0, x1, y1; `landmarks` (5, 2) float32.

    Landmarks are, as they appear in the picture: left eye, right eye, nose, left and right mouth corner.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    confidence: float


class _Boxes(NamedTuple):
    """Candidates over a batch: `image` (n,) int64, `box` (n, 4), `score` (n,)."""

    image: Tensor
    box: Tensor
    score: Tensor

    def take(self, keep: Tensor) -> _Boxes:
        return _Boxes(self.image[keep], self.box[keep], self.score[keep])


class _Network(nn.Module):
    """Convolutions with PReLU and max pooling, then 1x1 or dense heads; the last head is the class."""

    def __init__(
        self, arrays: list[NDArray[np.float32]], pools: Sequence[tuple[int, int, bool] | None]
    ) -> None:
        super().__init__()
        self.pools = pools
        arrays = list(arrays)
        convolutions, slopes = [], []
        for _ in pools:
            convolutions.append(_convolution(arrays.pop(0), arrays.pop(0)))
            slopes.append(_slope(arrays.pop(0)))
        self.hidden: nn.Linear | None = None
        if arrays[0].ndim == 2:
            self.hidden = _dense(arrays.pop(0), arrays.pop(0))
            slopes.append(_slope(arrays.pop(0)))
        self.convolutions, self.slopes = nn.ModuleList(convolutions), nn.ModuleList(slopes)
        make: Any = _dense if self.hidden is not None else _convolution
        self.heads = nn.ModuleList(make(arrays[i], arrays[i + 1]) for i in range(0, len(arrays), 2))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        values = images
        for convolution, slope, pool in zip(self.convolutions, self.slopes, self.pools, strict=False):
            values = slope(convolution(values))
            if pool is not None:
                size, stride, pads_end = pool
                values = F.max_pool2d(values, size, stride, ceil_mode=pads_end)
        if self.hidden is not None:
            # Keras flattens (W, H, C): the published weights saw the picture transposed.
            values = self.slopes[-1](self.hidden(values.permute(0, 3, 2, 1).flatten(1)))
        outputs = [head(values) for head in self.heads]
        outputs[-1] = outputs[-1].softmax(1)[:, 1]
        return outputs


def _convolution(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Conv2d:
    height, width, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, (height, width))
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    layer.bias.data = torch.from_numpy(bias.copy())  # type: ignore[union-attr]  # made with a bias
    return layer


def _dense(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Linear:
    layer = nn.Linear(*kernel.shape)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.T))
    layer.bias.data = torch.from_numpy(bias.copy())
    return layer


def _slope(alpha: NDArray[np.float32]) -> nn.PReLU:
    layer = nn.PReLU(alpha.size)
    layer.weight.data = torch.from_numpy(alpha.reshape(-1).copy())
    return layer


def _weights(name: str) -> list[NDArray[np.float32]]:
    spec = importlib.util.find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        raise WorkFailed("expected the package mtcnn (its weights), got none; pip install mtcnn==1.0.0")
    path = Path(spec.submodule_search_locations[0]) / "assets" / "weights" / f"{name}.lz4"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256[name]:
        raise WorkFailed(f"expected mtcnn 1.0's weights in {path}, got other bytes; reinstall mtcnn==1.0.0")
    arrays: list[NDArray[np.float32]] = joblib.load(io.BytesIO(data))
    return arrays


class MTCNN:
    """Find faces in images: PNet over a pyramid, then RNet and ONet on patches.

    Raises:
        WorkFailed: the published weights are missing or altered.

    Source: Zhang et al., arXiv:1604.02878.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        halve, overlap, inner = (2, 2, True), (3, 2, True), (3, 2, False)
        self._pnet = _Network(_weights("pnet"), (halve, None, None)).to(self.device)
        self._rnet = _Network(_weights("rnet"), (overlap, inner, None)).to(self.device)
        self._onet = _Network(_weights("onet"), (overlap, inner, halve, None)).to(self.device)

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
        for image in images:
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise ShapeError(f"expected images (H, W, 3) uint8, got {image.shape} {image.dtype}")
        found: list[list[Face]] = [[] for _ in images]
        for places in _batches(images):
            batch = torch.from_numpy(np.stack([images[place] for place in places])).to(self.device)
            pixels = batch.permute(0, 3, 1, 2).float().sub_(127.5).div_(128)
            for row, face in self._detect(pixels, min_face):
                found[places[row]].append(face)
        return found

    def _detect(self, pixels: Tensor, min_face: int) -> Iterator[tuple[int, Face]]:
        boxes = _square(self._propose(pixels, min_face))
        if len(boxes.score):
            boxes = self._refine(pixels, boxes)
        if not len(boxes.score):
            return
        offsets, points, score = self._look(self._onet, pixels, boxes, 48)
        origin, size = boxes.box[:, None, :2], (boxes.box[:, 2:] - boxes.box[:, :2] + 1)[:, None]
        # x of the five points, then y
        landmarks = torch.stack((points[:, :5], points[:, 5:]), 2) * size + origin - 1
        boxes = _Boxes(boxes.image, _adjust(boxes.box, offsets), score)
        keep = torch.nonzero(score > _ONET_SCORE).flatten()
        keep = keep[score[keep].argsort(descending=True, stable=True)]
        rows, box = boxes.image[keep].tolist(), boxes.box[keep].cpu().numpy()
        place, values = landmarks[keep].cpu().numpy(), score[keep].tolist()
        kept: list[int] = []
        for i, row in enumerate(rows):
            if not any(rows[j] == row and _share_of_smaller(box[i], box[j]) > _NESTED for j in kept):
                kept.append(i)
                yield row, Face(box[i], place[i], float(values[i]))

    def _propose(self, pixels: Tensor, min_face: int) -> _Boxes:
        """Run PNet over the pyramid and keep the best proposals of each image."""
        height, width = pixels.shape[-2:]
        scale, level, levels = _CELL / min_face, pixels, []
        while min(height, width) * scale >= _CELL:
            size = (round(height * scale), round(width * scale))
            # each level from the one before: the full size is read once
            level = F.interpolate(level, size, mode="bilinear", antialias=True, align_corners=False)
            levels.append(self._level(level, height / size[0], width / size[1]))
            scale *= _PYRAMID
        if not levels:
            empty = pixels.new_zeros(0)
            return _Boxes(empty.long(), empty.reshape(0, 4), empty)
        boxes = _Boxes(*(torch.cat(parts) for parts in zip(*levels, strict=True)))
        boxes = boxes.take(batched_nms(boxes.box, boxes.score, boxes.image, _IOU))
        return boxes.take(_best_of_each_image(boxes.image))

    def _level(self, level: Tensor, down_y: float, down_x: float) -> _Boxes:
        offsets, score = self._pnet(level)
        image, y, x = torch.nonzero(score > _PNET_SCORE, as_tuple=True)
        corner = torch.stack((x, y, x, y), 1).float() * _STRIDE
        corner += corner.new_tensor((1, 1, _CELL, _CELL))
        box = corner + offsets[image, :, y, x] * (_CELL - 1)
        box = box * box.new_tensor((down_x, down_y, down_x, down_y))
        boxes = _Boxes(image, box, score[image, y, x])
        return boxes.take(batched_nms(boxes.box, boxes.score, image, _SCALE_IOU))

    def _refine(self, pixels: Tensor, boxes: _Boxes) -> _Boxes:
        offsets, score = self._look(self._rnet, pixels, boxes, 24)
        boxes = _Boxes(boxes.image, _adjust(boxes.box, offsets), score).take(score > _RNET_SCORE)
        return _square(boxes.take(batched_nms(boxes.box, boxes.score, boxes.image, _IOU)))

    def _look(self, network: _Network, pixels: Tensor, boxes: _Boxes, size: int) -> list[Tensor]:
        """Run a network on each box's patch, (n, 3, size, size); outside the image is mid grey."""
        regions = torch.cat((boxes.image[:, None].to(boxes.box), boxes.box), 1)
        parts = [
            network(roi_align(pixels, some, (size, size), sampling_ratio=2, aligned=True))
            for some in torch.split(regions, _PATCH_BATCH)
        ]
        return [torch.cat(part) for part in zip(*parts, strict=True)]


def _batches(images: Sequence[NDArray[np.uint8]]) -> Iterator[list[int]]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(place)
    for shape, places in by_shape.items():
        count = max(1, _BATCH_PIXELS // max(1, shape[0] * shape[1]))
        for start in range(0, len(places), count):
            yield places[start : start + count]


def _best_of_each_image(image: Tensor) -> Tensor:
    """Keep the first `_MAX_PROPOSALS` rows of each image; rows come sorted by score."""
    order = image.argsort(stable=True)
    counts = torch.bincount(image[order])
    starts = (counts.cumsum(0) - counts)[image[order]]
    rank = torch.arange(len(order), device=order.device) - starts
    return order[rank < _MAX_PROPOSALS]


def _adjust(box: Tensor, offsets: Tensor) -> Tensor:
    size = box[:, 2:] - box[:, :2] + 1
    return box + offsets * torch.cat((size, size), 1)


def _square(boxes: _Boxes) -> _Boxes:
    centre = (boxes.box[:, :2] + boxes.box[:, 2:]) / 2
    half = (boxes.box[:, 2:] - boxes.box[:, :2]).amax(1, keepdim=True) / 2
    return boxes._replace(box=torch.cat((centre - half, centre + half), 1))


def _share_of_smaller(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(float(np.prod(a[2:] - a[:2])), float(np.prod(b[2:] - b[:2])))
    return float(np.prod(np.maximum(sides, 0))) / smaller if smaller > 0 else 0.0
