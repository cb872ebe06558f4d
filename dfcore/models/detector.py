"""The detector: pixels in, one calibrated logit for each image out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dfcore.config import Config, suggest
from dfcore.errors import ConfigError

if TYPE_CHECKING:
    from dfcore.models.card import DetectorCard

__all__ = ["BACKBONES", "Detector", "DetectorConfig", "build_detector", "crafting_mode", "register_backbone"]

logger = logging.getLogger(__name__)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

BackboneFactory = Callable[["DetectorConfig"], nn.Module]

BACKBONES: dict[str, BackboneFactory] = {}
"""Backbones of our own; every timm name works besides."""


class DetectorConfig(Config):
    """What the detector is built from.

    Attributes:
        backbone: a name from `BACKBONES` or any timm classifier.
        image_size: side of the face crop, in pixels.
        drop_rate: dropout before the classifier, in [0, 1).
        weights: safetensors file with the backbone's initial weights, or None for random ones.
    """

    backbone: str = "efficientnet_b0"
    image_size: int = Field(default=224, ge=16, le=2048)
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    weights: Path | None = None


class Detector(nn.Module):
    """A backbone with normalisation in front and calibration behind.

    Attributes:
        config: what it was built from.
        threshold: score from which an image is called fake, in (0, 1).
        card: what is known about the weights, or None before they are saved.
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
        self.backbone: Any = backbone  # timm's interface, which nn.Module does not describe
        defaults: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
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
        """
        raw: torch.Tensor = self.backbone(self._normalise(images)).squeeze(-1).float()
        return self.scale * raw + self.bias

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

    @property
    def cam_layer(self) -> nn.Module:
        """The module whose output is the last feature map."""
        information = getattr(self.backbone, "feature_info", None)
        if information:
            found: nn.Module = self.backbone.get_submodule(information[-1]["module"])
            return found
        convolutions = [module for module in self.backbone.modules() if isinstance(module, nn.Conv2d)]
        if not convolutions:
            raise ConfigError(f"expected a convolutional backbone, got {self.config.backbone}; CAM needs one")
        return convolutions[-1]

    def calibrate(self, scale: float, bias: float) -> None:
        """Set logit = scale * raw + bias.

        Raises:
            ConfigError: a scale that is not positive would turn the decision round.
        """
        if not scale > 0:
            raise ConfigError(f"expected a positive calibration scale, got {scale}")
        self.scale.fill_(scale)
        self.bias.fill_(bias)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


def register_backbone(name: str) -> Callable[[BackboneFactory], BackboneFactory]:
    """Register a factory for a backbone of our own.

    The module it returns has `forward` -> (N, 1), `forward_features` and `forward_head(maps, pre_logits)`.

    Raises:
        ConfigError: the name is taken, here or in timm.
    """
    if name in BACKBONES or timm.is_model(name):
        raise ConfigError(f"expected a new backbone name, got {name!r}, which exists; choose another")

    def register(factory: BackboneFactory) -> BackboneFactory:
        BACKBONES[name] = factory
        return factory

    return register


@register_backbone("resnet10_narrow")
def _resnet10_narrow(config: DetectorConfig) -> nn.Module:
    """A ResNet-10 of 0.7 M parameters, for minutes on a CPU: a third of the usual widths, deep stem."""
    stem_width = 12
    return ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates the instance and takes the class
        (1, 1, 1, 1),
        num_classes=1,
        channels=(24, 48, 96, 192),
        stem_width=stem_width,
        stem_type="deep",
        avg_down=True,
        drop_rate=config.drop_rate,
    )


def build_detector(config: DetectorConfig, seed: int = 0) -> Detector:
    """Build a detector with fresh weights (or those of `config.weights`); nothing is downloaded.

    Args:
        config: backbone, size, initial weights.
        seed: of the random weights; the caller's random state is left as it was.

    Raises:
        ConfigError: the backbone is unknown, or the weights do not fit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.backbone in BACKBONES:
            backbone = BACKBONES[config.backbone](config)
        elif timm.is_model(config.backbone):
            backbone = timm.create_model(
                config.backbone, pretrained=False, num_classes=1, drop_rate=config.drop_rate
            )
        else:
            known = [*BACKBONES, *timm.list_models()]
            hint = suggest(config.backbone, known) if len(config.backbone) > 2 else ""
            raise ConfigError(f"unknown backbone {config.backbone!r}{_shorten(hint)}")
    if config.weights is not None:
        _load_backbone(backbone, config.weights)
    return Detector(config, backbone)


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


def _shorten(hint: str) -> str:
    """Drop the list of a thousand timm names; keep a suggestion."""
    return hint if "did you mean" in hint else "; see timm.list_models()"


def _load_backbone(backbone: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"expected a safetensors file at {path}, got: {error}") from error
    own = backbone.state_dict()
    # a checkpoint for another number of classes differs in the classifier only
    fitting = {
        name: value for name, value in weights.items() if name in own and own[name].shape == value.shape
    }
    missing = [name for name in own if name not in fitting]
    classifier = _classifier_names(backbone)
    wrong = [name for name in missing if name not in classifier]
    if wrong:
        raise ConfigError(f"expected every backbone weight in {path}, but {wrong[0]!r} is missing or differs")
    backbone.load_state_dict(fitting, strict=False)
    logger.info("loaded %d of %d tensors from %s", len(fitting), len(own), path)


def _classifier_names(backbone: nn.Module) -> set[str]:
    """The names of the final layer's tensors."""
    found: set[str] = set()
    classifier = getattr(backbone, "get_classifier", lambda: None)()
    for prefix, module in backbone.named_modules():
        if classifier is not None and module is classifier:
            found = {f"{prefix}.{name}" for name in module.state_dict()}
    return found
