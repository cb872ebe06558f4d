from __future__ import annotations

import pytest
import torch

from dfcore.defences import DeepImagePrior
from dfcore.errors import ShapeError
from tests.attacks.conftest import faces
from tests.defences.games import trained
from tests.tolerances import TOLERANCE

SMALL = DeepImagePrior(iterations=12, levels=2, channels=8)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_published_budget_is_the_default() -> None:
    assert DeepImagePrior().iterations == 6000


def test_reconstruction_improves_and_stays_in_the_box() -> None:
    images, _ = faces(1, 2)
    psnr = []
    for iterations in (1, 20, 80):
        found = SMALL.model_copy(update={"iterations": iterations}).reconstruct(images, seeded())
        assert found.images.shape == images.shape
        assert found.images.dtype == torch.float32
        assert not found.images.requires_grad
        assert bool(((found.images >= 0) & (found.images <= 1)).all())
        error = (found.images - images).square().flatten(1).mean(1)
        torch.testing.assert_close(found.psnr, 10 * (1 / error).log10(), **TOLERANCE[torch.float32])
        psnr.append(found.psnr)
    assert bool((psnr[1] > psnr[0] + 1).all())
    assert bool((psnr[2] > psnr[1] + 1).all())


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, _ = faces(2, 3)
    together = SMALL.reconstruct(images, seeded())
    for place in range(3):
        alone = SMALL.reconstruct(images[place : place + 1], seeded())
        # Adam magnifies rounding: it scales tiny gradients up
        torch.testing.assert_close(alone.images[0], together.images[place], rtol=0, atol=0.03)
        assert float(alone.psnr[0]) == pytest.approx(float(together.psnr[place]), abs=0.3)
    exact = SMALL._fit(images.double(), seeded(), None)
    for place in range(3):
        alone_exact = SMALL._fit(images[place : place + 1].double(), seeded(), None)
        torch.testing.assert_close(alone_exact[0], exact[place], **TOLERANCE[torch.float64])
    other = SMALL.reconstruct(images[:1], torch.Generator().manual_seed(1))
    assert not torch.allclose(other.images, together.images[:1], atol=1e-3)


def test_smooth_structure_comes_before_noise() -> None:
    """What the defence lives on: noise on a smooth image is fitted last."""
    ramp = torch.linspace(0.2, 0.8, 24).expand(1, 3, 24, 24)
    noise = torch.rand((1, 3, 24, 24), generator=seeded())
    longer = SMALL.model_copy(update={"iterations": 60})
    smooth, rough = (longer.reconstruct(item.contiguous(), seeded()).psnr for item in (ramp, noise))
    assert float(smooth) > float(rough) + 6


def test_classifies_the_reconstruction_and_counts_the_cost() -> None:
    images, _ = faces(3, 2)
    detector, steps = trained().eval(), []
    logits, found = SMALL.classify(detector, images, seeded(), progress=lambda *at: steps.append(at))
    assert steps == [(step + 1, 12) for step in range(12)]
    with torch.no_grad():
        torch.testing.assert_close(logits, detector(found.images))
    assert found.seconds_per_image > 0
    with torch.inference_mode():
        inside, _ = SMALL.classify(detector, images, seeded())
    torch.testing.assert_close(inside, logits, **TOLERANCE[torch.float32])
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_odd_sizes_work() -> None:
    images = torch.rand((1, 3, 19, 25), generator=seeded())
    assert SMALL.reconstruct(images, seeded()).images.shape == images.shape


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 16 px for 2 levels"):
        SMALL.reconstruct(torch.zeros(1, 3, 12, 24))
    with pytest.raises(ShapeError, match="divide by 255"):
        SMALL.reconstruct(torch.full((1, 3, 24, 24), 200.0))
