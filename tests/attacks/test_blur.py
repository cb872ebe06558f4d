from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfcore.attacks import PixelBlur, build_attack
from dfcore.attacks.blur import blur_rings, pixelwise_blur
from dfcore.errors import ConfigError
from dfcore.models import Detector
from tests.attacks.properties import attacked, batch
from tests.attacks.traits import check_box, check_sound, check_success, gains, mutant
from tests.tolerances import TOLERANCE


def _by_definition(image: torch.Tensor, sigma: torch.Tensor, window: int) -> torch.Tensor:
    """Pixel by pixel, as the formula is written."""
    radius = window // 2
    padded = torch.nn.functional.pad(image[None], (radius,) * 4, mode="reflect")[0]
    grid = torch.arange(-radius, radius + 1, dtype=image.dtype) ** 2
    result = torch.empty_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            kernel = torch.exp(-(grid[:, None] + grid) / (2 * sigma[0, row, column] ** 2))
            patch = padded[:, row : row + window, column : column + window]
            result[:, row, column] = (patch * kernel / kernel.sum()).sum((1, 2))
    return result


@pytest.mark.parametrize("window", [3, 5, 7])
def test_is_the_formula(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    images = torch.rand((2, 3, 8, 9), generator=generator, dtype=torch.float64)
    sigma = 0.2 + 2 * torch.rand((2, 1, 8, 9), generator=generator, dtype=torch.float64)
    found = pixelwise_blur(blur_rings(images, window), sigma, window)
    for image, own, expected in zip(images, sigma, found, strict=True):
        torch.testing.assert_close(expected, _by_definition(image, own, window), **TOLERANCE[torch.float64])


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e-3, 0.06])
def test_no_blur_is_the_identity_and_has_a_finite_gradient(sigma: float) -> None:
    images, _ = batch(0, 2)
    maps = torch.full((2, 1, 32, 32), sigma, requires_grad=True)
    found = pixelwise_blur(blur_rings(images, 5), maps, 5)
    assert torch.equal(found, images)
    (slope,) = torch.autograd.grad(found.sum(), maps)
    assert torch.isfinite(slope).all()


def test_tends_to_the_identity() -> None:
    images, _ = batch(0, 2)
    rings = blur_rings(images, 5)
    away = [float((pixelwise_blur(rings, torch.full((2, 1, 32, 32), sigma), 5) - images).abs().mean())
            for sigma in (2.0, 1.0, 0.5, 0.3, 0.2, 0.1)]  # fmt: skip
    assert away == sorted(away, reverse=True)
    assert away[-2] < 1e-5


def test_gradcheck() -> None:
    images = torch.rand((1, 2, 5, 4), dtype=torch.float64, requires_grad=True)
    sigma = (0.4 + torch.rand((1, 1, 5, 4), dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image, own: pixelwise_blur(blur_rings(image, 3), own, 3), (images, sigma)
    )


def _check_budget(attack: PixelBlur, detector: Detector, seed: int) -> None:
    """A pixel's own weight is smallest at the largest sigma, and the rest is a mean of its neighbours."""
    images, labels = batch(seed, 4)
    found = attacked(attack, detector, images, labels)
    largest = torch.full((4, 1, 32, 32), float(attack.max_sigma))
    impulse = torch.zeros((4, 1, 32, 32))
    impulse[..., 16, 16] = 1
    own = float(pixelwise_blur(blur_rings(impulse, attack.window), largest, attack.window)[0, 0, 16, 16])
    radius = attack.window // 2
    padded = torch.nn.functional.pad(images, (radius,) * 4, mode="reflect")
    high = torch.nn.functional.max_pool2d(padded, attack.window, 1)
    low = -torch.nn.functional.max_pool2d(-padded, attack.window, 1)
    assert bool((found <= images + (1 - own) * (high - images) + 1e-6).all()), "more blur than allowed"
    assert bool((found >= images - (1 - own) * (images - low) - 1e-6).all()), "more blur than allowed"


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), max_sigma=st.floats(0, 3))
def test_stays_in_budget_and_box(detector: Detector, seed: int, max_sigma: float) -> None:
    attack = PixelBlur(max_sigma=max_sigma, steps=2)
    _check_budget(attack, detector, seed)
    check_box(attacked(attack, detector, *batch(seed, 4)))


@pytest.mark.parametrize("keep_best", [True, False])
def test_zero_budget_is_the_identity(detector: Detector, keep_best: bool) -> None:
    images, labels = batch(1, 4)
    attack = PixelBlur(max_sigma=0, keep_best=keep_best, steps=2)
    assert torch.equal(attacked(attack, detector, images, labels), images)


@pytest.mark.parametrize("keep_best", [True, False])
def test_sound(detector: Detector, trained: Detector, keep_best: bool) -> None:
    check_sound(PixelBlur(keep_best=keep_best, steps=3), detector)
    check_success(PixelBlur(keep_best=keep_best, steps=3), trained)


def test_removes_what_gives_fakes_away(trained: Detector) -> None:
    reals, fakes = gains(PixelBlur(), trained)
    assert float(reals.min()) >= 0, "the clean image was better and is not kept"
    assert float(fakes.mean()) > 3
    _, random = gains(mutant(PixelBlur(), ascend=lambda self, maps, slope: maps), trained)
    assert float(fakes.mean()) > float(random.mean()) + 0.5, "no better than a random blur"


def test_raw_gradient_is_added_as_it_is() -> None:
    maps, slope = torch.ones((1, 1, 2, 2)), torch.tensor([[[[1e-3, 0.0], [-2e-3, 4e-3]]]])
    raw = PixelBlur(ascent="raw", step_size=10).ascend(maps, slope)
    torch.testing.assert_close(raw, maps + 10 * slope)
    scaled = PixelBlur(step_size=0.5).ascend(maps, 1e-20 * slope) - maps
    assert float(scaled.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(PixelBlur().ascend(maps, 0 * slope), maps)


def test_strength_does_not_depend_on_the_logits_scale(trained: Detector) -> None:
    images, labels = batch(4, 4)
    first = attacked(PixelBlur(steps=3, keep_best=False), trained, images, labels)
    trained.calibrate(1e-4, 0.0)
    try:
        second = attacked(PixelBlur(steps=3, keep_best=False), trained, images, labels)
    finally:
        trained.calibrate(1.0, 0.0)
    torch.testing.assert_close(first, second, **TOLERANCE[torch.float32])


def test_mutants_die(detector: Detector, trained: Detector) -> None:
    small = PixelBlur(max_sigma=0.4, keep_best=False, steps=4)
    _check_budget(small, detector, 5)
    with pytest.raises(AssertionError, match="more blur"):
        _check_budget(mutant(small, bound=lambda self, maps: maps), detector, 5)  # type: ignore[arg-type]
    last = PixelBlur(keep_best=False)
    climbed = float(gains(last, trained)[1].mean())
    assert climbed > 3
    downhill = mutant(last, ascend=lambda self, maps, slope: PixelBlur.ascend(self, maps, -slope))
    assert float(gains(downhill, trained)[1].mean()) < climbed / 2
    # every weight times one may round above one
    white = torch.full((2, 3, 32, 32), 1.0)
    found = attacked(last, detector, white, torch.tensor([0, 1]))
    check_box(found)
    torch.testing.assert_close(found, white)
    with pytest.raises(AssertionError, match="above the box"):
        check_box(attacked(mutant(last, clamp=lambda self, x: x), detector, white, torch.tensor([0, 1])))


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="expected an odd window, got 4"):
        build_attack({"kind": "blur", "window": 4})
    with pytest.raises(ConfigError, match="did you mean 'max_sigma'"):
        build_attack({"kind": "blur", "max_sigmas": 1})
