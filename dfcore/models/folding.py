"""A faster twin of a detector for crafting and inference: batch norm folded into the convolutions.

With running statistics a batch norm is an affine map, so that it fits into the convolution before it; the
twin is refreshed after each optimiser step by scaling the weights once. Three more passes over the maps fall
away, which count as much as arithmetic does on a CPU: the twin works channels-last there, keeps no second
copy of what an activation overwrites, and pools without writing out the pool's gradient. What it gains is
measured by `python -m benchmarks.folding`.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from dfcore.models.detector import Detector

__all__ = ["FoldedDetector", "fold_batch_norm"]

logger = logging.getLogger(__name__)

_PROBE_TOLERANCE = 1e-3


class _Squeeze(nn.Module):
    """timm's squeeze-and-excite, with the mean as a scaled sum: its gradient is broadcast, never stored."""

    def __init__(self, original: SqueezeExcite) -> None:
        super().__init__()
        self.conv_reduce, self.act1 = original.conv_reduce, original.act1
        self.conv_expand, self.gate = original.conv_expand, original.gate

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        means = maps.sum((2, 3), keepdim=True) * (1 / (maps.shape[2] * maps.shape[3]))
        gate: torch.Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(means))))
        return maps * gate


class FoldedDetector(Detector):
    """An eval-only copy of a detector: no batch norm after convolutions, no parameter gradients."""

    def __init__(self, detector: Detector) -> None:
        self._copy(detector)
        _speed_up(self)
        pairs = _find_pairs(self)
        if pairs and not _reproduces(self, detector, pairs):
            logger.warning("batch norm of %s can't be folded; crafting runs unfolded", self.config.backbone)
            self._copy(detector)
            pairs = []
        self._pairs = pairs
        self.refresh(detector)

    def _copy(self, detector: Detector) -> None:
        super().__init__(detector.config, copy.deepcopy(detector.backbone))
        self.load_state_dict(detector.state_dict())
        self.to(detector.mean.device).requires_grad_(False).eval()

    @torch.no_grad()
    def refresh(self, detector: Detector) -> None:
        """Take over the weights and statistics that `detector` has now; no allocation beyond the products."""
        self.threshold = detector.threshold
        self.card = detector.card
        _copy_weights(self, detector, self._pairs)

    def train(self, mode: bool = True) -> FoldedDetector:
        """Stay in eval: there are no batch statistics left to train."""
        super().train(False)
        return self


def _speed_up(detector: Detector) -> None:
    """Replace what costs a pass over the maps and changes no value; names in the state dict stay."""
    for name, module in list(detector.named_modules()):
        if type(module) is SqueezeExcite:
            parent, _, leaf = name.rpartition(".")
            setattr(detector.get_submodule(parent), leaf, _Squeeze(module))
        elif isinstance(module, nn.SiLU | nn.Hardswish):
            module.inplace = False  # autograd would save a copy of the input before it is overwritten
    if detector.mean.device.type == "cpu":
        detector.to(memory_format=torch.channels_last)


def fold_batch_norm(detector: Detector) -> FoldedDetector:
    """Return an eval copy of a detector with batch norm folded into the convolutions.

    Works for `nn.BatchNorm2d` and timm's `BatchNormAct2d`. Pairs are found by running the detector once, so
    that no architecture needs to be described; the copy is compared with the original and left unfolded
    (with a warning) where a convolution's output is also used elsewhere.

    Args:
        detector: in any mode; it is not changed.

    Returns:
        A detector whose logits equal those of `detector.eval()` to about 1e-4. Call `.refresh(detector)`
        after each change of the original's weights.
    """
    return FoldedDetector(detector)


def _find_pairs(detector: Detector) -> list[tuple[str, str]]:
    """Run once and note which batch norm reads which convolution's output.

    Returns:
        Names (convolution, batch norm).
    """
    outputs: dict[int, tuple[str, torch.Tensor]] = {}  # holds the tensors, so that no id is used twice
    pairs: list[tuple[str, str]] = []
    handles = []

    def after(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            outputs[id(output)] = (name, output)

        return note

    def before(name: str) -> Any:
        def match(_module: nn.Module, inputs: Any) -> None:
            if id(inputs[0]) in outputs:
                pairs.append((outputs[id(inputs[0])][0], name))

        return match

    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before(name)))
    try:
        with torch.no_grad():
            detector(_probe(detector))
    finally:
        for handle in handles:
            handle.remove()
    # a module that runs twice, or in two pairs, has no single affine map
    convolutions = [conv for conv, _ in pairs]
    norms = [norm for _, norm in pairs]
    return [(c, n) for c, n in pairs if convolutions.count(c) == 1 and norms.count(n) == 1]


def _reproduces(folded: Detector, detector: Detector, pairs: list[tuple[str, str]]) -> bool:
    """Fold in place and compare with the original under statistics far from the defaults.

    A fresh batch norm is close to the identity, and would hide a convolution whose output is used elsewhere.
    """
    probe = _probe(folded)
    generator = torch.Generator().manual_seed(0)
    unfolded = Detector(detector.config, copy.deepcopy(detector.backbone))
    unfolded.load_state_dict(detector.state_dict())
    unfolded.to(probe.device).eval()
    with torch.no_grad():
        for _, norm in pairs:
            bn: Any = unfolded.get_submodule(norm)
            for value in (bn.running_mean, bn.running_var, bn.weight, bn.bias):
                if value is not None:
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        expected = unfolded(probe)
        for convolution, norm in pairs:
            conv: Any = folded.get_submodule(convolution)
            if conv.bias is None:
                channels = conv.weight.shape[0]
                conv.bias = nn.Parameter(torch.zeros(channels, device=probe.device), requires_grad=False)
            parent, _, leaf = norm.rpartition(".")
            # timm's BatchNormAct2d carries its activation
            activation = getattr(folded.get_submodule(norm), "act", None) or nn.Identity()
            setattr(folded.get_submodule(parent), leaf, activation)
        _copy_weights(folded, unfolded, pairs)
        actual = folded(probe)
    span = expected.abs().max().clamp_min(1e-3)
    return bool(((actual - expected).abs().max() / span) < _PROBE_TOLERANCE)


def _copy_weights(folded: Detector, detector: Detector, pairs: list[tuple[str, str]]) -> None:
    source = dict(detector.named_modules())
    for convolution, norm in pairs:
        target: Any = folded.get_submodule(convolution)
        conv: Any = source[convolution]
        bn: Any = source[norm]
        factor = torch.rsqrt(bn.running_var + bn.eps)
        factor = factor * bn.weight if bn.weight is not None else factor
        shift = bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
        torch.mul(conv.weight, factor.view(-1, 1, 1, 1), out=target.weight)
        target.bias.copy_(-shift * factor if bn.bias is None else bn.bias - shift * factor)
    done = {f"{convolution}.{leaf}" for convolution, _ in pairs for leaf in ("weight", "bias")}
    own = {name: value for name, value in folded.state_dict().items() if name not in done}
    theirs = detector.state_dict()
    for name, value in own.items():
        value.copy_(theirs[name])


def _probe(detector: Detector) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = detector.config.image_size
    return torch.rand((2, 3, size, size), generator=generator).to(detector.mean.device)
