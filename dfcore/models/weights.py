"""Initial weights from a local file: every key must fit, and where they came from is recorded."""

from __future__ import annotations

import logging
import pickle  # only its error, which torch raises for what `weights_only` refuses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dfcore.config import Config
from dfcore.errors import ConfigError
from dfcore.provenance import sha256_file

__all__ = ["InitialWeights", "load_weights"]

logger = logging.getLogger(__name__)

_OWN_BUFFERS = {"mean", "std", "scale", "bias"}
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_NAMED = 3


class InitialWeights(Config):
    """Where a detector's weights came from before it was trained.

    Attributes:
        source: drawn at random, a local file, timm's ImageNet weights, or another detector.
        name: of the file or the published weights; no path, which says nothing elsewhere.
        sha256: of the file.
        part: whether they fill the backbone or only its convolutional part; the classifier is fresh where
            the file's has another shape.
    """

    source: Literal["random", "file", "imagenet", "detector"] = "random"
    name: str | None = None
    sha256: str | None = None
    part: Literal["backbone", "cnn"] = "backbone"

    @classmethod
    def of_file(
        cls, source: Literal["file", "imagenet", "detector"], path: Path, **more: Any
    ) -> InitialWeights:
        """Describe weights that were read from a file."""
        return cls(source=source, sha256=sha256_file(path), **{"name": path.name, **more})


def load_weights(backbone: nn.Module, path: Path) -> InitialWeights:
    """Fill a backbone from a file.

    Args:
        backbone: changed in place. One with a `cnn` inside also takes that part's weights alone.
        path: safetensors, or a PyTorch file that holds nothing but tensors; with timm's names or those of a
            detector that Rampart wrote.

    Raises:
        ConfigError: the file can't be read safely, or keys are missing, unexpected or of another shape. A
            classifier for another number of classes is left out.
    """
    weights = _plain_names(_read(path), path)
    cnn = getattr(backbone, "cnn", None)
    alone = isinstance(cnn, nn.Module) and not any(name.startswith("cnn.") for name in weights)
    target = cnn if alone and cnn is not None else backbone
    ignored = _classifier_names(target) | _published_classifier(target)
    own = target.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name not in ignored or (name in own and own[name].shape == value.shape)
    }
    _check_keys(own, fitting, ignored, path)
    target.load_state_dict(fitting, strict=False)
    logger.info("loaded %d of %d tensors from %s", len(fitting), len(own), path)
    return InitialWeights.of_file("file", path, part="cnn" if alone else "backbone")


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors and nothing else; no code in the file is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"expected a safetensors file at {path}, got: {error}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"expected a PyTorch file of plain tensors at {path}, got: {reason}; "
            "save its state dict as safetensors"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ConfigError(
            f"expected tensors by name in {path}, got {type(found).__name__}; save a state dict"
        )
    return {str(name): value for name, value in found.items()}


def _plain_names(weights: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Strip what wrappers and detectors put in front of the backbone's names."""
    if not weights:
        raise ConfigError(f"expected weights in {path}, got an empty file; check how it was written")
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if any(name.startswith("backbone.") for name in weights):
        weights = {
            name.removeprefix("backbone."): value
            for name, value in weights.items()
            if name not in _OWN_BUFFERS
        }
    return weights


def _check_keys(
    own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], ignored: set[str], path: Path
) -> None:
    # a file from before PyTorch counted batches has no such counter
    missing = [
        name
        for name in own
        if name not in given and name not in ignored and "num_batches_tracked" not in name
    ]
    unexpected = [name for name in given if name not in own]
    differing = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in given
        if name in own and given[name].shape != own[name].shape
    ]
    problems = [
        _count(what, names)
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
        if names
    ]
    if problems:
        raise ConfigError(
            f"expected every backbone weight in {path}, but {'; '.join(problems)}; is it the same backbone?"
        )


def _count(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}"


def _classifier_names(backbone: nn.Module) -> set[str]:
    """The names of the final layer's tensors."""
    classifier = getattr(backbone, "get_classifier", lambda: None)()
    for prefix, module in backbone.named_modules():
        if classifier is not None and module is classifier:
            return {f"{prefix}.{name}" for name in module.state_dict()}
    return set()


def _published_classifier(backbone: nn.Module) -> set[str]:
    """The names that timm's checkpoints give the final layer, which a part of ours may lack."""
    published: Any = getattr(backbone, "pretrained_cfg", None) or {}
    names = published.get("classifier") or ()
    prefixes = (names,) if isinstance(names, str) else tuple(names)
    return {f"{prefix}.{leaf}" for prefix in prefixes for leaf in ("weight", "bias")}
