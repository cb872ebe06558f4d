from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dfcore.config import Config
from dfcore.data.augmentation import (
    PRESETS,
    Augmentation,
    AugmentationConfig,
    Blur,
    Colour,
    Flip,
    Jpeg,
    Noise,
    Resize,
    augment,
    resample,
)
from dfcore.errors import ConfigError

FULL = {
    "flip": Flip(probability=1),
    "resize": Resize(probability=1),
    "colour": Colour(probability=1, brightness=0.2, tint=0.1, contrast=0.3, saturation=0.5, hue=0.1),
    "blur": Blur(probability=1),
    "noise": Noise(probability=1, std=(0.1, 0.2)),
    "jpeg": Jpeg(probability=1),
}
EACH = {name: AugmentationConfig(**{"flip": Flip(), name: transform}) for name, transform in FULL.items()}
ALL = AugmentationConfig(**FULL)


def pictures(count: int = 6, height: int = 24, width: int = 24) -> torch.Tensor:
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def changed(config: AugmentationConfig, images: torch.Tensor, seed: int = 2) -> torch.Tensor:
    return augment(images, config, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [*EACH.values(), ALL, *PRESETS.values()])
def test_shape_range_and_repetition(config: AugmentationConfig) -> None:
    images = pictures(6, 20, 30)  # no multiple of a JPEG block
    kept, state = images.clone(), torch.random.get_rng_state()
    found = changed(config, images)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(found, changed(config, images))
    assert torch.equal(images, kept), "the caller's images changed"
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state was used"


@pytest.mark.parametrize("name", EACH)
def test_every_image_draws_for_itself(name: str) -> None:
    same = pictures(1).repeat(4, 1, 1, 1)
    found = changed(EACH[name], same)
    assert not torch.equal(found, same)
    if name != "flip":
        assert all(not torch.equal(found[0], found[i]) for i in range(1, 4))
    # and nobody else's pixels matter
    other = pictures()[:4]
    other[0] = same[0]
    assert torch.equal(changed(EACH[name], other)[0], found[0])


def test_probability_is_the_share_of_images_that_change() -> None:
    images = pictures(400, 8, 8)
    for name, transform in FULL.items():
        config = AugmentationConfig(
            **{"flip": Flip(), name: transform.model_copy(update={"probability": 0.25})}
        )
        touched = (changed(config, images) != images).flatten(1).any(1)
        assert 70 <= int(touched.sum()) <= 130, name
        assert torch.equal(changed(config, images)[~touched], images[~touched])


@pytest.mark.parametrize(
    "transform",
    [Colour(), Blur(sigma=(0, 0)), Noise(std=(0, 0)), Resize(scale=(1, 1))],
    ids=lambda transform: type(transform).__name__,
)
def test_zero_strength_changes_nothing(transform: Colour | Blur | Noise | Resize) -> None:
    images = pictures()
    torch.testing.assert_close(transform.apply(images, torch.Generator()), images, atol=1e-6, rtol=0)


def test_no_probability_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    state, images = generator.get_state(), pictures()
    assert augment(images, PRESETS["none"], generator) is images
    assert torch.equal(generator.get_state(), state)


def test_light_is_mirroring_with_one_draw_an_image() -> None:
    images = pictures(16)
    found, generator = changed(PRESETS["light"], images), torch.Generator().manual_seed(2)
    mirrored = torch.rand((16, 1, 1, 1), generator=generator) < 0.5
    assert torch.equal(found, torch.where(mirrored, images.flip(3), images))
    assert PRESETS["light"] == AugmentationConfig()


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(0.1, 1.0),
    # not down to one column: there torch 2.14 repeats the first row
    height=st.integers(20, 60),
    width=st.integers(20, 60),
)
def test_resample_is_torch_there_and_back(scale: float, height: int, width: int) -> None:
    images = pictures(2, height, width).double()
    small = (max(1, round(scale * height)), max(1, round(scale * width)))
    down = F.interpolate(images, size=small, mode="bilinear", antialias=True)
    expected = F.interpolate(down, size=(height, width), mode="bilinear", antialias=True)
    # the other image has another scale
    scales = torch.tensor([scale, 1.0], dtype=torch.float64)
    found = resample(images, scales)
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], images[1], atol=1e-6, rtol=0)


def test_blur_has_the_width_that_was_asked_for() -> None:
    dot = torch.zeros(1, 3, 31, 31)
    dot[:, :, 15, 15] = 1
    spread = Blur(sigma=(1.5, 1.5), kernel=13).apply(dot, torch.Generator())[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(31) - 15.0
    assert float((spread.sum(0) * offsets**2).sum()) ** 0.5 == pytest.approx(1.5, rel=0.02)


def test_noise_has_the_strength_that_was_asked_for() -> None:
    grey = torch.full((200, 3, 16, 16), 0.5)
    noise = Noise(std=(0.02, 0.1)).apply(grey, torch.Generator().manual_seed(0)) - grey
    std = noise.flatten(1).std(1)
    assert 0.015 < float(std.min()) < 0.03
    assert 0.09 < float(std.max()) < 0.11


def test_colour_moves_channels_together_or_apart() -> None:
    grey = torch.full((8, 3, 4, 4), 0.5)
    shift = Colour(brightness=0.2).apply(grey, torch.Generator().manual_seed(0)) - grey
    torch.testing.assert_close(shift[:, 0], shift[:, 1])
    assert float(shift.abs().max()) <= 0.2
    tint = Colour(tint=0.2).apply(grey, torch.Generator().manual_seed(0)) - grey
    assert not torch.allclose(tint[:, 0], tint[:, 1])
    hue = Colour(hue=0.5, saturation=0.5, contrast=0.5).apply(grey, torch.Generator().manual_seed(0))
    torch.testing.assert_close(hue, grey)


class Holder(Config):
    augmentation: Augmentation = AugmentationConfig()


def test_a_preset_is_chosen_by_name_and_refined() -> None:
    holder = Holder().override(["augmentation=strong"])
    assert holder.augmentation == PRESETS["strong"]
    finer = holder.override(["augmentation.jpeg.quality=[50, 90]"])
    assert finer.augmentation.jpeg == Jpeg(probability=0.5, quality=(50, 90))
    assert Holder.model_validate_json(finer.model_dump_json()) == finer
    with pytest.raises(ConfigError, match="did you mean 'strong'"):
        Holder().override(["augmentation=stong"])
    with pytest.raises(ConfigError, match="lowest, highest"):
        holder.override(["augmentation.jpeg.quality=[90, 50]"])
