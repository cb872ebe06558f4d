"""What must hold for every attack; each check fails for a mutant in `test_mutants.py`."""

from __future__ import annotations

import torch

from dfcore.attacks import Attack, margin
from dfcore.models import Detector
from tests.tolerances import BALL


def batch(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images that touch both ends of the box, and labels of both classes."""
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand((count, 3, 32, 32), generator=generator) * 1.6 - 0.3).clamp(0, 1)
    return images, torch.arange(count) % 2


def attacked(attack: Attack, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return attack(detector, images, labels, generator=torch.Generator().manual_seed(0))


def check_ball(attack: Attack, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    found = attacked(attack, detector, images, labels)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert float((found - images).abs().max()) <= attack.epsilon + BALL, "outside the ball"


def check_box(attack: Attack, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    found = attacked(attack, detector, images, labels)
    assert torch.isfinite(found).all()
    assert float(found.min()) >= 0, "below the box"
    assert float(found.max()) <= 1, "above the box"


def check_harm(attack: Attack, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Each image's margin moves towards the wrong decision, and much further than noise moves it."""
    found = attacked(attack, detector, images, labels)
    with torch.no_grad():
        gain = margin(detector, found, labels, 0.5) - margin(detector, images, labels, 0.5)
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        shaken = (images + attack.epsilon * noise).clamp(0, 1)
        by_noise = (margin(detector, shaken, labels, 0.5) - margin(detector, images, labels, 0.5)).abs()
    assert (gain > 0).all(), "an image was not hurt"
    assert float(gain.mean()) > 2 * float(by_noise.mean()), "no better than noise"


def check_harm_at_any_scale(
    attack: Attack, detector: Detector, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """The step follows the gradient's sign, so that flat logits do not slow it down."""
    detector.calibrate(1e-4, 0.0)
    try:
        check_harm(attack, detector, images, labels)
    finally:
        detector.calibrate(1.0, 0.0)
