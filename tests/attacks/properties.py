"""What must hold for every attack; each check fails for a mutant in `test_mutants.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dfcore.attacks import NORMS, Attack, Transfer, VideoAttack, margin
from dfcore.models import Detector
from tests.tolerances import BALL


def batch(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images that touch both ends of the box, and labels of both classes."""
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand((count, 3, 32, 32), generator=generator) * 1.6 - 0.3).clamp(0, 1)
    return images, torch.arange(count) % 2


def decided(detector: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Labels with which every decision is right, so that every image has something to lose."""
    with torch.no_grad():
        return (detector(images) >= 0).long()


def sized(attack: Attack, epsilon: float) -> Any:
    """The same attack with another budget."""
    if isinstance(attack, Transfer):
        return attack.model_copy(update={"attack": sized(attack.attack, epsilon)})
    return attack.model_copy(update={"epsilon": epsilon})


def attacked(attack: Attack, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(attack, VideoAttack):  # two videos of each class
        ids = labels + 2 * (torch.arange(len(labels)) >= len(labels) // 2)
        return attack(detector, images, labels, generator=generator, video_ids=ids)
    return attack(detector, images, labels, generator=generator)


def size_of(attack: Attack, delta: torch.Tensor) -> float:
    """How large the largest change is, in the attack's norm."""
    norm = attack.threat_model.norm
    assert norm is not None
    return float(NORMS[norm].size(delta).max())


def check_ball(attack: Attack, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    found = attacked(attack, detector, images, labels)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    epsilon = attack.threat_model.epsilon
    assert epsilon is not None
    rounding = BALL if attack.threat_model.norm == "linf" else BALL * math.sqrt(images[0].numel())
    assert size_of(attack, found - images) <= epsilon + rounding, "outside the ball"


def check_box(attack: Attack, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    found = attacked(attack, detector, images, labels)
    assert torch.isfinite(found).all()
    assert float(found.min()) >= 0, "below the box"
    assert float(found.max()) <= 1, "above the box"


def check_harm(attack: Attack, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Each image's margin moves towards the wrong decision, and much further than noise moves it."""
    found = attacked(attack, detector, images, labels)
    threat = attack.threat_model
    assert threat.norm is not None
    assert threat.epsilon is not None
    with torch.no_grad():
        gain = margin(detector, found, labels, 0.5) - margin(detector, images, labels, 0.5)
        noise = NORMS[threat.norm].random_start(images, threat.epsilon, torch.Generator().manual_seed(1))
        shaken = (images + noise).clamp(0, 1)
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


def check_no_harm_undone(
    attack: Attack, detector: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """No image is handed back better for the detector than it came."""
    found = attacked(attack, detector, images, labels)
    with torch.no_grad():
        assert bool(
            (margin(detector, found, labels, 0.5) >= margin(detector, images, labels, 0.5) - 1e-5).all()
        )
