"""Attacks written by somebody else, for breadth and as referees."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from dfcore.attacks.template import NormAttack, log_odds
from dfcore.config import suggest
from dfcore.errors import ConfigError

__all__ = ["TorchAttacks", "TwoLogits", "lend_randomness"]

_REFUSED = {
    "APGDT": "its targeted loss needs four classes; use apgd",
    "AutoAttack": "it runs 10 steps, and its losses need three classes; use autoattack-binary",
    "JSMA": "it assumes ten classes",
    "MultiAttack": "it takes attacks, not settings; run them one by one",
}
_REFUSED_SETTINGS = {
    "loss": ("dlr", "needs three classes; the margin is in apgd"),
    "multi_targeted": (True, "needs four classes; use the untargeted form"),
    "targeted": (True, "is the same as untargeted with two classes"),
}


class TwoLogits(nn.Module):
    """A detector as libraries expect it: its arg-max is the decision at the deployed threshold.

    The logits are -m/2 and +m/2, m being the distance of the logit from the threshold. Their cross-entropy is
    the binary one. Either entry carries half of the gradient: in (0, m) the second alone does, and for a
    confident fake its share, 1 - softmax, rounds to 0 in float32 from m = 17 on.
    """

    def __init__(self, detector: nn.Module, threshold: float = 0.5) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ConfigError(f"expected a threshold in (0, 1), got {threshold}")
        self.detector = detector
        self.offset = log_odds(threshold)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, 2) logits of real and fake; `images` are (N, 3, H, W) in [0, 1]."""
        half = (self.detector(images) - self.offset) / 2
        return torch.stack([-half, half], dim=1)


class TorchAttacks(NormAttack):
    """An attack of torchattacks, by its name there, guarded.

    What it returns is projected into the budget and the box, and kept only where it hurts, so that a defect
    there can't show a change that was never allowed. Its random numbers come from our generator.

    Attributes:
        norm: in which the budget is measured; say "l2" with its L2 attacks.
        name: a class of torchattacks, such as "EOTPGD" or "VMIFGSM".
        settings: its own settings besides `eps`, which is epsilon.
    """

    kind: Literal["torchattacks"] = "torchattacks"
    name: str = "PGD"
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Run it on two logits.

        Raises:
            ConfigError: torchattacks is not installed, has no such attack, or a setting does not fit.
        """
        build = self._find()
        taken = inspect.signature(build).parameters
        settings = {**self.settings}
        if "eps" in taken:
            settings["eps"] = self.epsilon
        if next(detector.parameters(), None) is None:
            raise ConfigError("expected a detector with parameters: torchattacks looks for its device there")
        clean = (images, self.value(detector, images, labels, threshold))
        if self.epsilon == 0:
            return images  # some of its attacks divide by eps
        with lend_randomness(generator, images.device) as seed, _modes(detector):
            if "seed" in taken:  # some set the global state to a constant themselves
                settings.setdefault("seed", seed)
            try:
                attack = build(TwoLogits(detector, threshold).eval(), **settings)
            except TypeError as error:
                raise ConfigError(f"torchattacks.{self.name} does not take {settings}: {error}") from error
            found = attack(images.clone(), labels.long())
        point = self.clamp(self.project(found.detach().to(images), images))
        return self.keep(clean, point, self.value(detector, point, labels, threshold))[0]

    @model_validator(mode="after")
    def _fits_two_classes(self) -> Self:
        if self.name in _REFUSED:
            raise ValueError(f"expected an attack for two classes, got {self.name}: {_REFUSED[self.name]}")
        for key, (value, reason) in _REFUSED_SETTINGS.items():
            if self.settings.get(key) == value:
                raise ValueError(f"expected {self.name} without {key}={value!r}, which {reason}")
        if "eps" in self.settings:
            raise ValueError("expected the budget as epsilon, got settings.eps; move it")
        return self

    def _find(self) -> Any:
        library = _import()
        base = importlib.import_module("torchattacks.attack").Attack
        known = [
            name for name, member in vars(library).items()
            if inspect.isclass(member) and issubclass(member, base) and name not in _REFUSED
        ]  # fmt: skip
        if self.name not in known:
            raise ConfigError(f"unknown attack {self.name!r} of torchattacks{suggest(self.name, known)}")
        return getattr(library, self.name)


def _import() -> ModuleType:
    try:
        return importlib.import_module("torchattacks")
    except ImportError as error:
        raise ConfigError(
            "expected torchattacks, which is not installed; run: pip install 'rampart[referee]'"
        ) from error


@contextmanager
def _modes(detector: nn.Module) -> Iterator[None]:
    """Restore each module's own mode: the library sets the whole model at once."""
    modes = [(module, module.training) for module in detector.modules()]
    try:
        yield
    finally:
        for module, flag in modes:
            module.training = flag


@contextmanager
def lend_randomness(generator: torch.Generator | None, device: torch.device) -> Iterator[int]:
    """Lend a library the global random states (torch, numpy, random), seeded from ours, and put them back.

    Args:
        generator: asked for the seed; None asks torch's own.
        device: that the library computes on.

    Yields:
        The seed, in [0, 2^31).
    """
    own = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**31, (1,), generator=generator, device=own))
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield seed
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
