"""Referees: the same attacks by foolbox, torchattacks and ART, through their own code, on the same crops.

Our figures are only as good as our attacks. Where a library with the same budget, steps and step size leaves
fewer decisions right than ours does, ours is too weak, and the figures flatter the detector.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from dfcore.attacks import Attack, Threat, TwoLogits, lend_randomness
from dfcore.config import Epsilon
from dfcore.errors import ConfigError

__all__ = ["COUNTERPARTS", "PACKAGES", "Library", "Method", "Referee", "check_installed"]

Library = Literal["art", "foolbox", "torchattacks"]
Method = Literal["fgsm", "pgd", "apgd", "square"]
PACKAGES: dict[str, str] = {
    "art": "adversarial-robustness-toolbox",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
}
"""The distribution of each library, by the name that it is imported under."""

COUNTERPARTS: dict[str, str] = {
    "fgsm": "fgsm", "pgd": "pgd", "apgd": "autoattack-binary", "square": "autoattack-binary"
}  # fmt: skip
"""Which of our attacks a method is held against: the same one, or, where a search is long or left to luck,
the worst case over all of ours, which AutoAttack's scenarios carry."""

_SETTINGS: dict[str, set[str]] = {
    "fgsm": set(),
    "pgd": {"step_size", "steps"},
    "apgd": {"steps"},
    "square": {"queries"},
}


class Referee(Attack):
    """An attack in L-infinity as a library implements it.

    What it returns is brought back into ball and box, and otherwise taken as it is: nothing of our attacks
    takes part, so that a defect there can't weaken both. Its random numbers come from our generator.

    Attributes:
        library: whose code runs.
        method: which attack; foolbox has "fgsm" and "pgd" only.
        epsilon: the budget, in pixel units of [0, 1].
        step_size: of PGD, in the same units.
        steps: of PGD and APGD, from one random start.
        queries: of Square.
    """

    kind: Literal["referee"] = "referee"
    norm: Literal["linf"] = "linf"
    library: Library
    method: Method
    epsilon: Epsilon
    step_size: Epsilon | None = None
    steps: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.library, self.method) not in _RUNS:
            known = sorted(method for library, method in _RUNS if library == self.library)
            raise ValueError(f"expected an attack of {self.library}, got {self.method!r}; known: {known}")
        given = {name for name in ("step_size", "steps", "queries") if getattr(self, name) is not None}
        if given != _SETTINGS[self.method]:
            raise ValueError(
                f"expected {sorted(_SETTINGS[self.method])} for {self.method}, got {sorted(given)}"
            )
        return self

    @property
    def threat_model(self) -> Threat:
        """The budget; Square sees scores only."""
        threat = super().threat_model
        return threat.model_copy(update={"knowledge": "black-box"}) if self.method == "square" else threat

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Run the library on two logits.

        Raises:
            ConfigError: the library is not installed.
        """
        check_installed([self.library])
        # foolbox's model zoo wants a git program otherwise, which it is not used for here
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        two = TwoLogits(detector, threshold).eval()
        with lend_randomness(generator, images.device) as seed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, about versions to come
            found = _RUNS[self.library, self.method](two, images.clone(), labels.long(), self, seed)
        # by rounding, or by a defect there, it may be outside
        low, high = images - self.epsilon, images + self.epsilon
        return torch.minimum(torch.maximum(found.detach().to(images), low), high).clamp(0, 1)


def check_installed(libraries: Iterable[str]) -> None:
    """Require the libraries, without importing them.

    Raises:
        ConfigError: naming the packages that are missing.
    """
    missing = sorted(PACKAGES[name] for name in set(libraries) if importlib.util.find_spec(name) is None)
    if missing:
        raise ConfigError(
            f"expected the packages {', '.join(missing)}, by which our attacks are checked, got an "
            "installation without them; run: pip install 'rampart[referee]'"
        )


Run = Callable[[nn.Module, torch.Tensor, torch.Tensor, Referee, int], torch.Tensor]


def _foolbox(
    two: nn.Module, images: torch.Tensor, labels: torch.Tensor, asked: Referee, seed: int
) -> torch.Tensor:
    library = importlib.import_module("foolbox")
    attacks = importlib.import_module("foolbox.attacks")
    if asked.method == "fgsm":
        attack = attacks.LinfFastGradientAttack(random_start=False)
    else:
        attack = attacks.LinfPGD(abs_stepsize=asked.step_size, steps=asked.steps, random_start=True)
    model = library.PyTorchModel(two, bounds=(0, 1), device=images.device)
    found: torch.Tensor = attack(model, images, labels, epsilons=asked.epsilon)[0]
    return found


def _torchattacks(
    two: nn.Module, images: torch.Tensor, labels: torch.Tensor, asked: Referee, seed: int
) -> torch.Tensor:
    library = importlib.import_module("torchattacks")
    settings: dict[str, dict[str, Any]] = {
        "fgsm": {},
        "pgd": {"alpha": asked.step_size, "steps": asked.steps, "random_start": True},
        "apgd": {"steps": asked.steps, "seed": seed},
        "square": {"n_queries": asked.queries, "seed": seed},
    }
    names = {"fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "square": "Square"}
    attack = getattr(library, names[asked.method])(two, eps=asked.epsilon, **settings[asked.method])
    found: torch.Tensor = attack(images, labels)
    return found


def _art(
    two: nn.Module, images: torch.Tensor, labels: torch.Tensor, asked: Referee, seed: int
) -> torch.Tensor:
    attacks = importlib.import_module("art.attacks.evasion")
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=two,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=2,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )
    names = {
        "fgsm": "FastGradientMethod",
        "pgd": "ProjectedGradientDescentPyTorch",
        "apgd": "AutoProjectedGradientDescent",
        "square": "SquareAttack",
    }
    settings: dict[str, dict[str, Any]] = {
        "fgsm": {},
        "pgd": {"eps_step": asked.step_size, "max_iter": asked.steps, "num_random_init": 1, "verbose": False},
        # its step is halved as it goes; twice the budget is where the published algorithm starts
        "apgd": {
            "eps_step": 2 * asked.epsilon, "max_iter": asked.steps, "nb_random_init": 1, "verbose": False
        },
        "square": {"max_iter": asked.queries, "verbose": False},
    }  # fmt: skip
    attack = getattr(attacks, names[asked.method])(
        classifier, eps=asked.epsilon, batch_size=len(images), **settings[asked.method]
    )
    found: NDArray[np.float32] = attack.generate(images.cpu().numpy(), np.eye(2)[labels.cpu().numpy()])
    return torch.from_numpy(found)


_RUNS: dict[tuple[str, str], Run] = {
    **{("foolbox", method): _foolbox for method in ("fgsm", "pgd")},
    **{("torchattacks", method): _torchattacks for method in _SETTINGS},
    **{("art", method): _art for method in _SETTINGS},
}
