from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data, transform

from dfcore.attacks import H264, JPEG, Chain, Channel, GaussianBlur, Resize
from dfcore.data.codec import (
    dead_zone,
    from_blocks,
    jpeg_tables,
    straight_through,
    to_blocks,
    to_rgb,
    to_ycbcr,
)
from dfcore.errors import ConfigError
from dfcore.preprocessing import h264_roundtrip, jpeg_roundtrip
from tests.tolerances import TOLERANCE

ALL: list[Channel] = [
    JPEG(), H264(), GaussianBlur(), Resize(), JPEG(real=True), H264(real=True),
    Chain(channels=(Resize(factors=(0.5,)), JPEG(quality=(40, 60)))),
]  # fmt: skip


def _face(side: int = 160) -> NDArray[np.uint8]:
    face = transform.resize(data.astronaut()[20:180, 150:310], (side, side), anti_aliasing=True)
    return (face * 255).round().astype(np.uint8)[None]


def _tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


@pytest.mark.parametrize(
    ("quality", "agreement"), [(30, 0.97), (50, 0.96), (75, 0.94), (90, 0.88), (100, 0.7)]
)
def test_jpeg_is_pillows(quality: int, agreement: float) -> None:
    pixels = _face()
    images, real = _tensor(pixels), _tensor(jpeg_roundtrip(pixels, quality))
    found = JPEG(quality=(quality, quality))(images, _seeded())
    assert float((found - real).abs().mean()) * 255 < 0.7, "in grey levels"
    assert _correlation(found - images, real - images) > agreement


@pytest.mark.parametrize("crf", [18, 23, 28, 35])
def test_h264_loses_as_much_as_libx264_and_partly_the_same(crf: int) -> None:
    pixels = _face()
    images, real = _tensor(pixels), _tensor(h264_roundtrip(pixels, crf))
    found = H264(crf=(crf, crf))(images, _seeded())
    by_proxy, by_codec = ((other - images).square().mean().log10() * -10 for other in (found, real))
    assert abs(float(by_proxy - by_codec)) < 1.6, "PSNR, in dB"
    assert _correlation(found - images, real - images) > 0.4


def test_worse_settings_lose_more() -> None:
    images = _tensor(_face(96))
    for settings_ in (
        [JPEG(quality=(quality, quality)) for quality in (95, 75, 50, 30)],
        [H264(crf=(crf, crf)) for crf in (15, 23, 30, 40)],
    ):
        losses = [float((channel(images, _seeded()) - images).square().mean()) for channel in settings_]
        assert losses == sorted(losses)


@pytest.mark.parametrize("channel", ALL, ids=repr)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**20), height=st.integers(16, 37), width=st.integers(16, 37))
def test_box_shape_seed_and_gradient(channel: Channel, seed: int, height: int, width: int) -> None:
    images = (torch.rand((2, 3, height, width), generator=_seeded(seed)) * 1.6 - 0.3).clamp(0, 1)
    images.requires_grad_()
    found = channel(images, _seeded(seed))
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert float(found.detach().min()) >= -1e-6
    assert float(found.detach().max()) <= 1 + 1e-6
    assert torch.equal(found, channel(images, _seeded(seed)))
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert torch.isfinite(slope).all()
    assert float(slope.abs().mean()) > 0.1


def test_each_image_draws_its_own() -> None:
    images = _tensor(_face(64)).repeat(8, 1, 1, 1)
    for channel in (JPEG(quality=(10, 90)), H264(crf=(15, 45)), GaussianBlur(sigma=(0.3, 3))):
        losses = (channel(images, _seeded()) - images).square().mean((1, 2, 3))
        assert len(torch.unique(losses)) > 3


@pytest.mark.parametrize(
    ("proxy", "codec"),
    [
        (JPEG(quality=(50, 50)), lambda pixels: jpeg_roundtrip(pixels, 50)),
        (H264(crf=(28, 28)), lambda pixels: h264_roundtrip(pixels, 28)),
    ],
)
def test_real_forward_has_the_proxys_gradient(proxy: Channel, codec: object) -> None:
    pixels = np.concatenate([_face(48), _face(48)[:, ::-1]])
    images = _tensor(pixels).requires_grad_()
    found = proxy.model_copy(update={"real": True})(images, _seeded())
    torch.testing.assert_close(found, _tensor(codec(pixels)), **TOLERANCE[torch.float32])  # type: ignore[operator]
    weights = torch.rand(found.shape, generator=_seeded())
    (slope,) = torch.autograd.grad((found * weights).sum(), images)
    (expected,) = torch.autograd.grad((proxy(images, _seeded()) * weights).sum(), images)
    torch.testing.assert_close(slope, expected)


def test_the_gradient_points_through_the_real_codec() -> None:
    """A step along the proxy's gradient moves what comes out of Pillow."""
    images = _tensor(_face(64))
    target = torch.nn.functional.interpolate(
        torch.randn((1, 3, 16, 16), generator=_seeded()), (64, 64), mode="bilinear"
    )
    moved = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad((JPEG(quality=(75, 75))(moved, _seeded()) * target).sum(), moved)
    stepped = (images + 6 / 255 * slope.sign()).clamp(0, 1)
    real = JPEG(quality=(75, 75), real=True)
    gain = ((real(stepped, _seeded()) - real(images, _seeded())) * target).sum()
    ideal = ((images + 6 / 255 * target.sign()).clamp(0, 1) - images) * target
    assert float(gain) > 0.5 * float(ideal.sum())


def test_blur_and_resize_keep_a_constant_and_smooth_the_rest() -> None:
    grey = torch.full((2, 3, 20, 20), 0.3)
    images = torch.rand((2, 3, 20, 20), generator=_seeded())
    for channel in (GaussianBlur(sigma=(1, 2)), Resize(factors=(0.5,))):
        torch.testing.assert_close(channel(grey, _seeded()), grey)
        assert float(channel(images, _seeded()).std()) < 0.6 * float(images.std())


def test_gradcheck_of_the_smooth_ones() -> None:
    images = torch.rand((1, 2, 8, 8), dtype=torch.float64, requires_grad=True)
    for channel in (GaussianBlur(sigma=(0.5, 1)), Resize(factors=(0.5,))):
        assert torch.autograd.gradcheck(lambda x, c=channel: c(x, _seeded()), images)
    plane = torch.rand((1, 1, 8, 16), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: from_blocks(to_blocks(x).pow(3)), plane)


def test_parts_of_the_codec() -> None:
    plane = torch.rand((2, 3, 16, 24), generator=_seeded(), dtype=torch.float64)
    blocks = to_blocks(plane)
    torch.testing.assert_close(from_blocks(blocks), plane, **TOLERANCE[torch.float64])
    torch.testing.assert_close(blocks.square().sum(), plane.square().sum())
    torch.testing.assert_close(blocks[0, 0, 1, 2, 0, 0], plane[0, 0, 8:, 16:].mean() * 8)
    constant = torch.tensor([200.0, 30.0, 90.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    for full in (True, False):
        torch.testing.assert_close(
            to_rgb(*to_ycbcr(constant, full_range=full), full_range=full), constant, rtol=1e-4, atol=1e-2
        )
    assert to_ycbcr(torch.full((1, 3, 2, 2), 255.0), full_range=False)[0].max() == pytest.approx(235)
    luma, _ = jpeg_tables(torch.tensor([50, 100, 1]), plane)
    assert luma[0].flatten()[:3].tolist() == [16, 11, 10]
    assert luma[1].unique().tolist() == [1]  # type: ignore[no-untyped-call]
    assert float(luma[2].max()) == 255


def test_rounding_has_the_gradient_of_what_a_change_moves() -> None:
    levels = torch.tensor([-1.7, -0.6, 0.4, 0.6, 0.7, 1.4], requires_grad=True)
    rounded = dead_zone(levels, 1 / 3)
    assert rounded.tolist() == pytest.approx([-2, 0, 0, 0, 1, 1])
    (slope,) = torch.autograd.grad(rounded.sum(), levels)
    removed = [0.3, -0.6, 0.4, 0.6, -0.3, 0.4]
    assert slope.tolist() == pytest.approx([3 * value**2 for value in removed], abs=1e-5)
    assert straight_through(torch.ones(2), torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (JPEG, {"quality": (90, 50)}),
        (JPEG, {"quality": (0, 50)}),
        (H264, {"crf": (20, 52)}),
        (GaussianBlur, {"sigma": (0, 1)}),
    ],
)
def test_ranges_out_of_order_are_refused(family: type[Channel], settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"\(low, high\) within"):
        family.parse(settings)


def test_empty_lists_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels"):
        Chain.parse({"channels": []})
    with pytest.raises(ConfigError, match="factors"):
        Resize.parse({"factors": []})
