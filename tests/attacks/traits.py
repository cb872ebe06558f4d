"""What must hold for attacks that no norm bounds: box, seed, an untouched detector, a judged success."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dfcore.attacks import Attack, margin
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.properties import attacked, batch


def check_sound(attack: Attack, detector: Detector) -> None:
    """Everything but strength."""
    images, labels = batch(3, 4)
    before = images.clone()
    modes = [module.training for module in detector.modules()]
    statistics = detector.backbone.body[1].running_mean.clone()
    try:
        detector.train()
        with torch.inference_mode():
            found = attacked(attack, detector, images, labels)
        assert all(module.training for module in detector.modules())
        assert all(p.requires_grad and p.grad is None for p in detector.parameters())
    finally:
        for module, flag in zip(detector.modules(), modes, strict=True):
            module.training = flag
    assert torch.equal(images, before)
    assert torch.equal(detector.backbone.body[1].running_mean, statistics)
    assert torch.equal(found, attacked(attack, detector, images, labels)), "not repeatable, or dropout was on"
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.isfinite(found).all()
    check_box(found)


def check_box(found: torch.Tensor) -> None:
    assert float(found.min()) >= 0, "below the box"
    assert float(found.max()) <= 1, "above the box"


def gains(attack: Attack, trained: Detector, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each real's and each fake's margin moves towards the wrong decision."""
    images, labels = faces(77, count)
    found = attack(trained, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gain = margin(trained, found, labels, 0.5) - margin(trained, images, labels, 0.5)
    return gain[labels == 0], gain[labels == 1]


def check_success(attack: Attack, trained: Detector) -> None:
    """Success at the deployed threshold is what the detector says of the returned image."""
    images, labels = faces(78, 16)
    found = attack(trained, images, labels, threshold=0.7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wrong = (torch.sigmoid(trained(found)) >= 0.7).long() != labels
        assert torch.equal(margin(trained, found, labels, 0.7) > 0, wrong)


def mutant(attack: Attack, **hooks: Callable[..., torch.Tensor]) -> Attack:
    """The same attack with some of its methods replaced."""
    return type("Mutant", (type(attack),), hooks)(**attack.model_dump())
