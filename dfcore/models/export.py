"""A detector as an ONNX file, for engines that run it faster than PyTorch does.

The graph takes `images` (N, 3, S, S) float32 in [0, 1] and gives `logits` (N,), calibrated, and `features`
(N, D): all that scoring and the attack scores need, from one pass. N is free, S is the detector's.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from dfcore.errors import BundleError, CheckFailed, ConfigError
from dfcore.models.detector import Detector
from dfcore.models.folding import fold_batch_norm

__all__ = ["ONNX_FILE", "OPSET", "SCORE_TOLERANCE", "OnnxNetwork", "write_onnx"]

ONNX_FILE = "detector.onnx"
OPSET = 20
"""Pinned, so that a newer exporter does not shut out the engines that are installed."""
SCORE_TOLERANCE = 1e-4
"""Largest accepted difference of P(fake) between PyTorch and the exported graph."""

_FEATURE_TOLERANCE = 1e-3  # of the largest feature
_INPUT, _OUTPUTS = "images", ("logits", "features")
_RANDOM_CROPS = 6


class OnnxNetwork:
    """The exported graph in ONNX Runtime, on the CPU.

    Images of one pass are shared out between the threads and each is computed by one of them: several threads
    on one image wait for each other at every layer, which costs a sixth more of the processor.

    Args:
        path: what `write_onnx` wrote; verify its bundle first.
        threads: how many images are computed at once.

    Raises:
        BundleError: it is no such graph, or newer than this ONNX Runtime.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort  # here: torch alone is enough for training

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # one plan for each batch size would be kept for ever
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _load_errors() as error:
            reason = str(error).partition("\n")[0]
            raise BundleError(
                f"expected a graph that ONNX Runtime {ort.__version__} can run in {path}, got: {reason}; "
                "install the pinned version, or publish again"
            ) from error
        names = ([item.name for item in self._session.get_inputs()], self._outputs())
        if names != ([_INPUT], list(_OUTPUTS)):
            raise BundleError(
                f"expected {_INPUT} in and {', '.join(_OUTPUTS)} out in {path}, got {names}; publish again"
            )
        self._threads = threads

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits (N,) and features (N, D) of images (N, 3, S, S) in [0, 1]."""
        if self._threads == 1 or len(images) == 1:
            return self._run(images)
        parts = np.array_split(images, min(len(images), self._threads))
        logits, features = zip(*_pool(self._threads).map(self._run, parts), strict=True)
        return np.concatenate(logits), np.concatenate(features)

    def _run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, features = self._session.run(list(_OUTPUTS), {_INPUT: np.ascontiguousarray(images)})
        return logits, features

    def _outputs(self) -> list[str]:
        return [item.name for item in self._session.get_outputs()]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the threads of all graphs; they start together.

    A thread that is started later, while a new version is loaded beside requests, say, would inherit that low
    priority and keep it.
    """
    pool = ThreadPoolExecutor(threads, "rampart-onnx")
    together = threading.Barrier(threads)
    for _ in pool.map(lambda _: together.wait(), range(threads)):
        pass
    return pool


class _Network(nn.Module):
    """One pass through the backbone for both outputs."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        detector = self.detector
        maps = detector.backbone.forward_features((images - detector.mean) / detector.std)
        features = detector.backbone.forward_head(maps, pre_logits=True).flatten(1)
        raw = detector.backbone.forward_head(maps).squeeze(-1)
        return detector.scale * raw + detector.bias, features


def write_onnx(path: Path, detector: Detector, golden: Path) -> None:
    """Export a detector, and compare what was written with PyTorch before it keeps its name.

    The same detector gives the same bytes; no path and no source line of this machine is in them.

    Args:
        path: the file to write.
        detector: in eval mode, on the CPU.
        golden: the bundle's golden input, which is compared beside random crops.

    Raises:
        ConfigError: the backbone does something that ONNX can't express, or fixes the batch.
        CheckFailed: the exported graph answers differently; nothing is written.
    """
    data = _export(detector)
    unchecked = path.with_name(f".{path.name}")
    try:
        unchecked.write_bytes(data)
        _compare(OnnxNetwork(unchecked, threads=1), detector, golden)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)


def _export(detector: Detector) -> bytes:
    size = detector.config.image_size
    example = torch.zeros((2, 3, size, size))  # two: a batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    network = _Network(fold_batch_norm(detector)).eval()  # exports in half the time, too
    # the exporter speaks to developers of exporters, on stdout and by warnings
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network, (example,), dynamo=True, opset_version=OPSET,
                dynamic_shapes=shapes, input_names=[_INPUT], output_names=list(_OUTPUTS),
                external_data=False, verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise ConfigError(
                f"expected a backbone that ONNX can express, got {detector.config.backbone}: {reason}; "
                "it is served by PyTorch"
            ) from error
    assert program is not None, "the exporter returns None only where it writes the file itself"
    model = program.model_proto
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:  # the exporter gives in silently
        raise ConfigError(
            f"expected a backbone for any number of images, got {detector.config.backbone}, whose graph is "
            "for two: take the number from shape[0], not from len(); it is served by PyTorch"
        )
    _strip(model)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Remove what says where and how the graph was made: paths, stack traces."""
    graphs = [model.graph, *model.functions]
    for part in (model, *graphs):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for graph in graphs:
        values = [*graph.node, *graph.value_info]
        if graph is model.graph:
            values += [*graph.input, *graph.output, *graph.initializer]
        for value in values:
            value.ClearField("metadata_props")
            value.ClearField("doc_string")


def _compare(network: OnnxNetwork, detector: Detector, golden: Path) -> None:
    crops = load_file(golden)["crops"].permute(0, 3, 1, 2).float() / 255
    generator = torch.Generator().manual_seed(0)
    contrast = torch.linspace(0.1, 1, _RANDOM_CROPS).view(-1, 1, 1, 1)
    noise = torch.rand((_RANDOM_CROPS, *crops.shape[1:]), generator=generator) * contrast
    images = torch.cat([crops, noise])
    with torch.inference_mode():
        expected, features = _Network(detector)(images)
    scores, wanted = expected.sigmoid().numpy(), features.numpy()
    for part in (slice(0, 1), slice(1, None)):  # alone and together: the batch must be free
        logits, found = network.run(images[part].numpy())
        moved = float(np.abs(1 / (1 + np.exp(-logits.astype(np.float64))) - scores[part]).max())
        far = float(np.abs(found - wanted[part]).max() / max(float(np.abs(wanted).max()), 1e-6))
        if not (moved <= SCORE_TOLERANCE and far <= _FEATURE_TOLERANCE):  # so that NaN fails too
            raise CheckFailed(
                f"expected an exported graph of the same scores within {SCORE_TOLERANCE:g}, got a difference "
                f"of {moved:.2g} (features: {far:.2g} of the largest); nothing was written: "
                f"report the backbone {detector.config.backbone}"
            )


def _load_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors have no common root."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = vars(state).values()
    return tuple(item for item in found if isinstance(item, type) and issubclass(item, Exception))
