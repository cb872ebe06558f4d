"""The detector: pixels in, one calibrated logit for each image out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, model_validator
from timm.models import VisionTransformer
from torch import nn

from dfcore.config import Config
from dfcore.errors import ConfigError, ShapeError
from dfcore.models.splitting import SplitForward, split_backbone
from dfcore.models.weights import InitialWeights

if TYPE_CHECKING:
    from dfcore.models.card import DetectorCard

__all__ = ["Detector", "DetectorConfig", "crafting_mode", "gradient_scale"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_HALF_SCALE = 2.0**10


class DetectorConfig(Config):
    """What the detector is built from.

    Attributes:
        backbone: a name from `BACKBONES` or any timm classifier.
        image_size: side of the face crop, in pixels.
        drop_rate: dropout before the classifier, in [0, 1).
        pretrained: start from timm's ImageNet weights, fetched once into its cache; False fetches nothing.
        weights: file with the backbone's initial weights, or None for random ones.
    """

    backbone: str = "efficientnet_b0"
    image_size: int = Field(default=224, ge=16, le=2048)
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    pretrained: bool = False
    weights: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError(
                "expected pretrained or weights, got both; a file of your own needs pretrained=false"
            )
        return self


class Detector(nn.Module):
    """A backbone with normalisation in front and calibration behind.

    Attributes:
        config: what it was built from.
        threshold: score from which an image is called fake, in (0, 1).
        card: what is known about the weights, or None before they are saved.
        initial_weights: where they came from before training.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, config: DetectorConfig, backbone: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.threshold = 0.5
        self.card: DetectorCard | None = None
        self.initial_weights = InitialWeights()
        self.backbone: Any = backbone  # timm's interface, which nn.Module does not describe
        defaults: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
        self._fixed_size = bool(defaults.get("fixed_input_size"))
        for name, fallback in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            values = torch.tensor(defaults.get(name, fallback), dtype=torch.float32)
            self.register_buffer(name, values.view(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits; the score P(fake) is their sigmoid.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].

        Returns:
            (N,) float32, also under autocast.

        Raises:
            ShapeError: images of another shape, or of a size that the backbone was not built for.
        """
        return self._calibrated(self.backbone(self._normalise(images)))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].

        Returns:
            (N, D) float32.
        """
        maps = self.backbone.forward_features(self._normalise(images))
        pooled: torch.Tensor = self.backbone.forward_head(maps, pre_logits=True)
        return pooled.flatten(1).float()

    def split_forward(self, blocks: int = 2) -> SplitForward:
        """Cut the network behind its first blocks, for work on shallow feature maps.

        Args:
            blocks: how many stages belong to the shallow part; at least one stays behind.

        Returns:
            `shallow`: images (N, 3, H, W) -> maps (N, C, h, w); `deep`: maps -> logits (N,). One after the
            other they are `forward`, in any mode and with gradients.

        Raises:
            ConfigError: the backbone is no chain of blocks, or has too few.
        """
        shallow, deep = split_backbone(self.backbone, blocks, self.config)
        return SplitForward(
            lambda images: shallow(self._normalise(images)), lambda maps: self._calibrated(deep(maps))
        )

    @property
    def cam_layer(self) -> nn.Module:
        """The module whose output is the last feature map (`cam_maps` gives it that shape)."""
        if isinstance(own := getattr(self.backbone, "cam_layer", None), nn.Module):
            return own
        if isinstance(self.backbone, VisionTransformer):
            # behind the last attention only the CLS token reaches the logit
            return self.backbone.get_submodule(f"blocks.{len(self.backbone.blocks) - 1}.norm1")
        information = getattr(self.backbone, "feature_info", None)
        if information:
            found: nn.Module = self.backbone.get_submodule(information[-1]["module"])
            return found
        convolutions = [module for module in self.backbone.modules() if isinstance(module, nn.Conv2d)]
        if not convolutions:
            raise ConfigError(f"expected a convolutional backbone, got {self.config.backbone}; CAM needs one")
        return convolutions[-1]

    def cam_maps(self, output: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Bring the output of `cam_layer` into the shape of a feature map.

        Args:
            output: (N, C, h, w), (N, h, w, C) where the backbone works so, or tokens (N, prefix + cells, C).
            image_size: height and width of the images, in pixels.

        Returns:
            (N, C, h, w); prefix tokens such as CLS are dropped.
        """
        if output.ndim == 3:
            cells = output[:, int(getattr(self.backbone, "num_prefix_tokens", 0)) :]
            height = round((cells.shape[1] * image_size[0] / image_size[1]) ** 0.5)
            return cells.transpose(1, 2).reshape(len(cells), cells.shape[2], height, -1)
        return output.permute(0, 3, 1, 2) if getattr(self.backbone, "output_fmt", "") == "NHWC" else output

    def calibrate(self, scale: float, bias: float) -> None:
        """Set logit = scale * raw + bias.

        Raises:
            ConfigError: a scale that is not positive would turn the decision round.
        """
        if not scale > 0:
            raise ConfigError(f"expected a positive calibration scale, got {scale}")
        self.scale.fill_(scale)
        self.bias.fill_(bias)

    def _calibrated(self, raw: torch.Tensor) -> torch.Tensor:
        return self.scale * raw.squeeze(-1).float() + self.bias

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        side = self.config.image_size
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(f"expected images (N, 3, {side}, {side}), got {tuple(images.shape)}")
        if self._fixed_size and images.shape[2:] != (side, side):
            raise ShapeError(
                f"expected images of {side} px, which {self.config.backbone} was built for, "
                f"got {tuple(images.shape)}; resize them or set model.image_size"
            )
        return (images - self.mean) / self.std


def gradient_scale(device: torch.device) -> float:
    """Return what a loss is multiplied with before its gradient to an input is taken.

    Returns:
        1; under float16 autocast a power of two, which changes no digit: float16 ends at 6e-8, and many a
        pixel's gradient lies below.
    """
    kind = device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
    return _HALF_SCALE if half else 1.0


@contextmanager
def crafting_mode(detector: nn.Module) -> Iterator[None]:
    """Put a detector into the state in which attacks are made; restore it exactly.

    Batch norm and dropout are in eval, and no parameter asks for a gradient, so that only the input's
    gradient is computed and none reaches `.grad`. Each module gets back its own flag, so that a module
    that was frozen stays frozen.
    """
    modules = [(module, module.training) for module in detector.modules() if module.training]
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    for module, _ in modules:
        module.training = False
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, flag in modules:
            module.training = flag
        for parameter in parameters:
            parameter.requires_grad_(True)
