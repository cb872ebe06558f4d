"""Take one part out of an attack: a property check must notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dfcore.attacks import FGSM, PGD, Attack
from dfcore.models import Detector
from tests.attacks.properties import batch, check_ball, check_box, check_harm, check_harm_at_any_scale

Check = Callable[[Attack, Detector, torch.Tensor, torch.Tensor], None]


def _no_projection(self: Attack, candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return candidates


def _no_clamp(self: Attack, candidates: torch.Tensor) -> torch.Tensor:
    return candidates


def _no_step(self: Attack, candidates: torch.Tensor, gradient: torch.Tensor, size: float) -> torch.Tensor:
    return candidates


def _downhill(self: Attack, candidates: torch.Tensor, gradient: torch.Tensor, size: float) -> torch.Tensor:
    return candidates - size * gradient.sign()


def _no_sign(self: Attack, candidates: torch.Tensor, gradient: torch.Tensor, size: float) -> torch.Tensor:
    return candidates + size * gradient


def _projection_around_the_last_point(
    self: Attack, candidates: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    return images + (candidates - images).clamp(-2 * self.epsilon, 2 * self.epsilon)


SOUND = {
    "pgd": PGD(epsilon=4 / 255, step_size=2 / 255, steps=6),
    "pgd_last": PGD(epsilon=4 / 255, step_size=2 / 255, steps=6, keep_best=False),
    "fgsm": FGSM(epsilon=4 / 255),
}
MUTANTS = [
    ("pgd", "project", _no_projection, check_ball),
    ("pgd", "project", _projection_around_the_last_point, check_ball),
    ("pgd_last", "project", _no_projection, check_ball),
    ("pgd", "clamp", _no_clamp, check_box),
    ("pgd_last", "clamp", _no_clamp, check_box),
    ("fgsm", "clamp", _no_clamp, check_box),
    *((kind, "step", broken, check_harm) for kind in SOUND for broken in (_no_step, _downhill)),
    *((kind, "step", _no_sign, check_harm_at_any_scale) for kind in SOUND),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "hook", "broken", "check"), MUTANTS)
def test_mutant_dies(
    kind: str, hook: str, broken: Callable[..., torch.Tensor], check: Check, detector: Detector
) -> None:
    sound = SOUND[kind]
    images, labels = batch(0)
    check(sound, detector, images, labels)
    mutant = type("Mutant", (type(sound),), {hook: broken})(**sound.model_dump())
    with pytest.raises(AssertionError):
        check(mutant, detector, images, labels)
