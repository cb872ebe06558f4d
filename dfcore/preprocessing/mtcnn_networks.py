"""The three networks of MTCNN with their published weights.

The weights are those of the `mtcnn` package (MIT licence), read from its files without importing it,
because importing it needs TensorFlow. Source: Zhang et al., arXiv:1604.02878; `mtcnn` 1.0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dfcore.errors import WorkFailed

__all__ = ["MTCNNNetwork", "load_networks"]

# The files are unpickled, so only these exact bytes are.
_SHA256 = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
_MEAN, _SCALE = 127.5, 128.0
# Channels are filled up with zeros to whole vectors of the CPU: a quarter faster, and the same values.
_LANES = 16


class MTCNNNetwork(nn.Module):
    """Convolutions with PReLU and max pooling, then 1x1 or dense heads; the last head is the class.

    Takes (N, 3, H, W) float32 in grey levels, 0 to 255; gives the heads' outputs, the last as the probability
    of a face.
    """

    def __init__(
        self, arrays: list[NDArray[np.float32]], pools: Sequence[tuple[int, int, bool] | None]
    ) -> None:
        super().__init__()
        self.pools = pools
        arrays = list(arrays)
        convolutions, slopes = [], []
        inputs = 3
        for _ in pools:
            kernel, bias, alpha = arrays.pop(0), arrays.pop(0), arrays.pop(0).reshape(-1)
            extra = -len(bias) % _LANES
            kernel = np.pad(kernel, ((0, 0), (0, 0), (0, inputs - kernel.shape[2]), (0, extra)))
            convolutions.append(_convolution(kernel, np.pad(bias, (0, extra))))
            slopes.append(_slope(np.pad(alpha, (0, extra))))
            inputs = kernel.shape[3]
        self.hidden: nn.Linear | None = None
        if arrays[0].ndim == 2:
            self.hidden = _dense(arrays.pop(0), arrays.pop(0))
            slopes.append(_slope(arrays.pop(0)))
        self.convolutions, self.slopes = nn.ModuleList(convolutions), nn.ModuleList(slopes)
        make: Any = _dense if self.hidden is not None else _convolution
        self.heads = nn.ModuleList(make(arrays[i], arrays[i + 1]) for i in range(0, len(arrays), 2))
        # (x - mean) / scale is part of the first layer: pixels are read once, as they are
        first: Any = self.convolutions[0]
        first.weight.data /= _SCALE
        first.bias.data -= _MEAN * first.weight.data.sum((1, 2, 3))
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


def load_networks(device: torch.device) -> tuple[MTCNNNetwork, MTCNNNetwork, MTCNNNetwork]:
    """Return PNet, RNet and ONet with the published weights.

    Raises:
        WorkFailed: the weights are missing or altered.
    """
    halve, overlap, inner = (2, 2, True), (3, 2, True), (3, 2, False)
    pools: tuple[Sequence[tuple[int, int, bool] | None], ...] = (
        (halve, None, None), (overlap, inner, None), (overlap, inner, halve, None)
    )  # fmt: skip
    networks = [
        MTCNNNetwork(_weights(name), pool).to(device).to(memory_format=torch.channels_last)
        for name, pool in zip(("pnet", "rnet", "onet"), pools, strict=True)
    ]
    return networks[0], networks[1], networks[2]


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
