"""The network as it is served: on a GPU in bf16 and compiled, on a CPU by the faster of two engines.

On a CPU a bundle's ONNX file is run by ONNX Runtime where it gives the same scores and is faster here, which
is measured when it is loaded; else PyTorch runs the network with batch norm folded, channels-last.
"""

from __future__ import annotations

import logging
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from dfcore.errors import BundleError, ConfigError
from dfcore.models import Detector, FoldedDetector
from dfcore.models.export import ONNX_FILE, SCORE_TOLERANCE, OnnxNetwork
from dfcore.monitoring.signals import look
from serving.settings import EngineSettings

__all__ = ["OnnxDetector", "ServedDetector", "TorchDetector", "choose_device", "prepare"]

logger = logging.getLogger(__name__)

_MOVED = 0.01
_PROBES = 8
_ROUNDS = 3

# by backbone, size and threads, as measured before the first request: beside requests the clock says nothing
_onnx_wins: dict[tuple[str, int, int], bool] = {}


class TorchDetector(FoldedDetector):
    """A folded twin that computes in a stated precision; logits are fp32.

    Args:
        detector: in any mode; it is not changed.
        precision: of the convolutions.
    """

    precision = torch.float32

    def __init__(self, detector: Detector, precision: torch.dtype = torch.float32) -> None:
        super().__init__(detector)
        self.precision = precision  # only now: folding compares with the original in fp32
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits (N,) float32 of images (N, 3, H, W) float32 in [0, 1]."""
        with self._cast(images):
            return super().forward(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features (N, D) float32."""
        with self._cast(images):
            return super().features(images)

    def _cast(self, images: torch.Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32)


class _OnnxBackbone(nn.Module):
    """ONNX Runtime behind the interface of a timm backbone: its maps are the features and the logit."""

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self._network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        logits, features = self._network.run(images.numpy())
        return torch.cat([torch.from_numpy(features), torch.from_numpy(logits).unsqueeze(1)], dim=1)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return maps[:, :-1] if pre_logits else maps[:, -1:]


class OnnxDetector(Detector):
    """A detector whose network runs in ONNX Runtime; without gradients and class activation maps.

    Normalisation and calibration are in the graph, so that this detector's own are the identity.

    Args:
        detector: what the file was exported from, for its threshold and card.
        path: the bundle's ONNX file.

    Raises:
        BundleError: this ONNX Runtime can't run it.
    """

    precision = torch.float32

    def __init__(self, detector: Detector, path: Path) -> None:
        super().__init__(detector.config, _OnnxBackbone(OnnxNetwork(path, torch.get_num_threads())))
        self.mean.zero_()
        self.std.fill_(1)
        self.threshold = detector.threshold
        self.card = detector.card
        self.eval()


ServedDetector = TorchDetector | OnnxDetector


def choose_device(settings: EngineSettings) -> str:
    """Return "cuda" or "cpu".

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise ConfigError("expected a GPU for engine.device=cuda, got none; set it to auto or cpu")
    return "cuda" if available and settings.device != "cpu" else "cpu"


def prepare(detector: Detector, settings: EngineSettings, folder: Path | None = None) -> ServedDetector:
    """Make the twin of a detector that is served.

    Args:
        detector: in eval mode, on its device.
        settings: precision and compilation. Asking for bf16 or compilation asks for PyTorch.
        folder: the verified bundle that it was loaded from; None knows of no ONNX file.

    Returns:
        A detector of the same scores: to 1e-4 in fp32, to .01 in bf16.

    Raises:
        ConfigError: compilation is asked for and there is nothing to compile with.
    """
    device = detector.mean.device.type
    wanted = settings.precision
    if wanted == "auto":
        wanted = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    compiled = device == "cuda" if settings.compiled is None else settings.compiled
    if device == "cpu" and wanted == "fp32" and not compiled and folder is not None:
        onnx = _choose_onnx(detector, folder / ONNX_FILE)
        if onnx is not None:
            return onnx
    served = TorchDetector(detector, torch.bfloat16 if wanted == "bf16" else torch.float32)
    if served.precision is torch.bfloat16 and (moved := _difference(detector, served)) > _MOVED:
        logger.warning("bf16 moves a score by %.3f, more than %.2f; serving in fp32", moved, _MOVED)
        served = TorchDetector(detector)
    if compiled:
        _compile(served, asked=settings.compiled is not None)
    return served


def _compile(served: TorchDetector, *, asked: bool) -> None:
    """Compile the backbone in place; without a compiler it runs as before, unless it was asked for."""
    from torch._dynamo.exc import TorchDynamoException  # the compiler takes seconds to import

    parts = ("forward_features", "forward_head")  # not their sum: `look` runs one once, the other twice
    for part in parts:
        setattr(served.backbone, part, torch.compile(getattr(served.backbone, part), dynamic=True))
    try:
        with torch.inference_mode():
            look(served, probes(served))
    except (TorchDynamoException, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        if asked:
            raise ConfigError(
                f"expected what torch.compile needs for engine.compiled=true, got: {reason}; install a C "
                "compiler, or leave engine.compiled out"
            ) from error
        for part in parts:
            delattr(served.backbone, part)  # the class's own come back
        logger.warning("the network is not compiled: %s", reason)


def probes(detector: Detector) -> torch.Tensor:
    """Return noise of several contrasts, (8, 3, S, S)."""
    size = detector.config.image_size
    generator = torch.Generator().manual_seed(0)
    contrast = torch.linspace(0.05, 1, _PROBES).view(-1, 1, 1, 1)
    return (torch.rand((_PROBES, 3, size, size), generator=generator) * contrast).to(detector.mean.device)


def _choose_onnx(detector: Detector, path: Path) -> OnnxDetector | None:
    """Return the detector in ONNX Runtime if its file is there, right, and faster than PyTorch here."""
    shape = (detector.config.backbone, detector.config.image_size, torch.get_num_threads())
    if not _onnx_wins.get(shape, True):
        return None
    if not path.is_file():
        logger.info("the bundle has no %s; PyTorch runs the network", path.name)
        return None
    if find_spec("onnxruntime") is None:
        logger.warning("ONNX Runtime is not installed, PyTorch runs the network; install rampart[serving]")
        return None
    try:
        onnx = OnnxDetector(detector, path)
    except BundleError as error:
        logger.warning("%s; PyTorch runs the network", error)
        return None
    moved = _difference(detector, onnx)
    if not moved <= SCORE_TOLERANCE:  # so that NaN is none either
        logger.warning("ONNX Runtime moves a score by %.2g; PyTorch runs the network", moved)
        return None
    if shape not in _onnx_wins:
        seconds = _measure(onnx), _measure(TorchDetector(detector))
        _onnx_wins[shape] = seconds[0] < seconds[1]
        logger.info(
            "a crop for each thread takes ONNX Runtime %.1f ms and PyTorch %.1f ms; %s runs the network",
            *(1e3 * value for value in seconds), "ONNX Runtime" if _onnx_wins[shape] else "PyTorch",
        )  # fmt: skip
    return onnx if _onnx_wins[shape] else None


@torch.inference_mode()
def _measure(detector: Detector) -> float:
    """Return the seconds of the fastest of a few passes: what others do slows the rest.

    A pass has an image for each thread: what counts is what all cores do, not how soon one image is done.
    """
    images = probes(detector)[-torch.get_num_threads() :]
    detector(images)
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        detector(images)
        times.append(time.perf_counter() - began)
    return min(times)


@torch.inference_mode()
def _difference(detector: Detector, served: Detector) -> float:
    """Return the largest difference of P(fake) on noise of several contrasts."""
    images = probes(detector)
    return float((detector(images).sigmoid() - served(images).sigmoid()).abs().max())
