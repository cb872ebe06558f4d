"""Tiny ONNX files with the inputs and outputs of YuNet and RetinaFace: their "face" is a bright square.

Written byte by byte (protocol buffers), so that no exporter is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FLOAT, INT64 = 1, 7
# Where the five points of every "face" lie, in strides (YuNet) or prior sizes times 0.1 (RetinaFace).
POINTS = np.array([-1, -1, 1, -1, 0, 0, -1, 1, 1, 1], np.float32)


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    kind = FLOAT if array.dtype == np.float32 else INT64
    dims = b"".join(_field(1, size) for size in array.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, array.tobytes())


def _node(operation: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    parts = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operation)
    for name, value in attributes.items():
        listed = isinstance(value, list)
        values = value if isinstance(value, list) else [value]
        body = b"".join(_field(8 if listed else 3, number) for number in values)
        parts += _field(5, _field(1, name) + body + _field(20, 7 if listed else 2))
    return parts


def _value(name: str, shape: list[int] | list[str]) -> bytes:
    dims = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


class Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.constants.append(_tensor(name, array))
        return name

    def node(self, operation: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        self.nodes.append(_node(operation, inputs, output, **attributes))
        return output

    def head(self, name: str, stride: int, weight: float, bias: NDArray[np.float32], columns: int) -> str:
        """Bias plus weight times the mean level (0 to 1) of each stride's cell, as (1, cells, columns)."""
        kernel = np.full((len(bias), 3, stride, stride), weight / (3 * stride * stride * 255), np.float32)
        kernel *= np.where(np.isfinite(bias), 1, 0)[:, None, None, None]
        inputs = ["input", self.constant(f"{name}_w", kernel), self.constant(f"{name}_b", bias)]
        shape = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        self.node("Conv", inputs, f"{name}_conv", **shape)  # type: ignore[arg-type]
        self.node("Transpose", [f"{name}_conv"], f"{name}_nhwc", perm=[0, 2, 3, 1])
        shape_name = self.constant(f"{name}_shape", np.array([1, -1, columns], np.int64))
        return self.node("Reshape", [f"{name}_nhwc", shape_name], f"{name}_rows")

    def write(self, path: Path, size: int, outputs: list[str]) -> Path:
        graph = b"".join(_field(1, node) for node in self.nodes) + _field(2, "tiny")
        graph += b"".join(_field(5, constant) for constant in self.constants)
        graph += _field(11, _value("input", [1, 3, size, size]))
        graph += b"".join(_field(12, _value(name, ["n", "rows", "columns"])) for name in outputs)
        path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
        return path


def write_yunet(path: Path) -> Path:
    """A face is a cell of 16 pixels that is nearly white; its box is 32 pixels wide, 48 high."""
    graph, outputs = Graph(), []
    for stride in (8, 16, 32):
        weight = 60.0 if stride == 16 else 0.0
        for name in ("cls", "obj"):
            rows = graph.head(f"{name}{stride}", stride, weight, np.array([-50.0], np.float32), 1)
            outputs.append(graph.node("Sigmoid", [rows], f"{name}_{stride}"))
        box = np.array([0.5, 0.5, np.log(2), np.log(3)], np.float32)
        for name, bias in (("bbox", box), ("kps", POINTS / 2 + 0.5)):
            rows = graph.head(f"{name}{stride}", stride, 0.0, bias, len(bias))
            outputs.append(graph.node("Identity", [rows], f"{name}_{stride}"))
    return graph.write(path, 640, sorted(outputs))


def write_retinaface(path: Path) -> Path:
    """A face is a cell of 16 pixels that is nearly white; its box is the prior of 64, twice as high."""
    graph = Graph()
    parts: dict[str, list[str]] = {"conf": [], "landms": [], "loc": []}
    # the mean colour is subtracted, so white is 141 levels above zero
    for stride in (8, 16, 32):
        weight = 60.0 * 255 / 141 if stride == 16 else 0.0
        # two priors a cell, two classes each: only the smaller prior of stride 16 may be a face
        conf = np.array([0.0, -50.0, 0.0, -120.0], np.float32)
        parts["conf"].append(graph.head(f"conf{stride}", stride, weight, conf, 2))
        box = np.tile(np.array([0, 0, 0, np.log(2) / 0.2], np.float32), 2)
        parts["loc"].append(graph.head(f"loc{stride}", stride, 0.0, box, 4))
        parts["landms"].append(graph.head(f"landms{stride}", stride, 0.0, np.tile(POINTS, 2), 10))
    for name, rows in parts.items():
        graph.node("Concat", rows, f"{name}_all", axis=1)
    graph.node("Sigmoid", ["conf_all"], "conf")
    graph.node("Identity", ["landms_all"], "landms")
    graph.node("Identity", ["loc_all"], "loc")
    return graph.write(path, 640, ["landms", "conf", "loc"])
