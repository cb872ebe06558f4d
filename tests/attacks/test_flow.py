from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dfcore.attacks import Flow
from dfcore.attacks.flow import smooth, warp
from dfcore.models import Detector
from tests.attacks.properties import attacked, batch
from tests.attacks.traits import check_box, check_sound, check_success, gains, mutant
from tests.tolerances import TOLERANCE


def test_zero_flow_is_the_identity_and_whole_pixels_shift() -> None:
    images, _ = batch(0, 2)
    assert torch.equal(warp(images, torch.zeros((2, 2, 32, 32))), images)
    down = torch.zeros((2, 2, 32, 32))
    down[:, 0], down[:, 1] = 2, -3
    torch.testing.assert_close(
        warp(images, down)[..., :30, 3:], images[..., 2:, :29], **TOLERANCE[torch.float32]
    )


def test_agrees_with_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, 7, 9), generator=generator, dtype=torch.float64)
    flow = 6 * torch.rand((2, 2, 7, 9), generator=generator, dtype=torch.float64) - 3
    rows = (torch.arange(7).view(1, -1, 1) + flow[:, 0]) / 6 * 2 - 1
    columns = (torch.arange(9).view(1, 1, -1) + flow[:, 1]) / 8 * 2 - 1
    expected = F.grid_sample(
        images, torch.stack([columns, rows], -1), mode="bilinear", padding_mode="border", align_corners=True
    )
    torch.testing.assert_close(warp(images, flow), expected, **TOLERANCE[torch.float64])


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((1, 2, 5, 4), generator=generator, dtype=torch.float64).requires_grad_()
    # away from whole pixels, where the slope jumps
    flow = (0.2 + 0.6 * torch.rand((1, 2, 5, 4), generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(warp, (images, flow))


def _rough(flow: torch.Tensor) -> float:
    return float(flow.diff(dim=2).abs().sum() + flow.diff(dim=3).abs().sum())


def test_smoothing_removes_variation_and_keeps_plateaus() -> None:
    place = torch.arange(16)
    zigzag = (((place[:, None] + place) % 2) * 2.0 - 1).expand(1, 2, 16, 16)
    assert float(smooth(0.25 * zigzag, 0.25).abs().max()) < 0.07
    half = torch.zeros((1, 2, 16, 16))
    half[..., 8:] = 1
    kept = smooth(half, 0.05)
    assert float((kept[..., :6]).max()) < 0.05
    assert float((kept[..., 10:]).min()) > 0.95
    flow = torch.randn((1, 2, 16, 16), generator=torch.Generator().manual_seed(0))
    variations = [_rough(smooth(flow, weight)) for weight in (0.0, 0.05, 0.1, 0.3)]
    assert variations == sorted(variations, reverse=True)
    assert torch.equal(smooth(flow, 0.0), flow)


def _check_budget(attack: Flow, detector: Detector, seed: int) -> None:
    """A pixel lies between the pixels that a displacement within the budget can reach."""
    images, labels = batch(seed, 4)
    found = attacked(attack, detector, images, labels)
    reach = 2 * int(attack.max_flow + 1) + 1
    high = F.max_pool2d(images, reach, 1, reach // 2)
    low = -F.max_pool2d(-images, reach, 1, reach // 2)
    share = min(1.0, attack.max_flow * 2)  # bilinear: at most this much of a pixel is replaced
    assert bool((found <= images + share * (high - images) + 1e-5).all()), "too far"
    assert bool((found >= images - share * (images - low) - 1e-5).all()), "too far"


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), max_flow=st.floats(0, 2))
def test_stays_in_budget_and_box(detector: Detector, seed: int, max_flow: float) -> None:
    attack = Flow(max_flow=max_flow, steps=2)
    _check_budget(attack, detector, seed)
    check_box(attacked(attack, detector, *batch(seed, 4)))


def test_the_bound_is_on_the_length() -> None:
    flow = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(Flow(max_flow=1).bound(flow), flow / 5)
    assert torch.equal(Flow(max_flow=8).bound(flow), flow)
    assert torch.equal(Flow(max_flow=1).bound(0 * flow), 0 * flow)


@pytest.mark.parametrize("keep_best", [True, False])
def test_sound_and_zero_budget_is_the_identity(
    detector: Detector, trained: Detector, keep_best: bool
) -> None:
    check_sound(Flow(keep_best=keep_best, steps=3), detector)
    check_success(Flow(keep_best=keep_best, steps=3), trained)
    images, labels = batch(1, 4)
    still = Flow(max_flow=0, keep_best=keep_best, steps=2)
    assert torch.equal(attacked(still, detector, images, labels), images)


def test_strength_and_smoothness(trained: Detector) -> None:
    reals, fakes = gains(Flow(), trained)
    assert float(reals.min()) >= 0
    assert float(fakes.mean()) > 1
    wild_reals, wild_fakes = gains(Flow(smoothness=0), trained)
    assert float(wild_reals.mean() + wild_fakes.mean()) > float(reals.mean() + fakes.mean())


def test_mutants_die(detector: Detector, trained: Detector) -> None:
    small = Flow(max_flow=0.1, keep_best=False, steps=4)
    _check_budget(small, detector, 5)
    with pytest.raises(AssertionError, match="too far"):
        _check_budget(mutant(small, bound=lambda self, maps: maps), detector, 5)  # type: ignore[arg-type]
    last = Flow(keep_best=False)
    climbed = float(gains(last, trained)[1].mean())
    downhill = mutant(last, ascend=lambda self, maps, slope: Flow.ascend(self, maps, -slope))
    assert float(gains(downhill, trained)[1].mean()) < climbed / 2
    still = mutant(last, ascend=lambda self, maps, slope: maps)
    assert float(gains(still, trained)[1].abs().max()) == 0
