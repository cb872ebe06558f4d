from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from dfcore.errors import ConfigError, ShapeError
from dfcore.explain import grad_cam
from dfcore.models import (
    BACKBONES,
    DETECTORS,
    DetectorConfig,
    build_detector,
    crafting_mode,
    register_backbone,
)
from dfcore.models.backbones import EfficientViT
from tests.models.conftest import settled
from tests.tolerances import TOLERANCE


def test_xception_is_timms_under_the_name_of_the_field() -> None:
    detector = build_detector(DETECTORS["xception"])
    assert detector.config.image_size == 299
    assert detector.backbone.state_dict().keys() == timm.create_model("legacy_xception").state_dict().keys()
    torch.testing.assert_close(detector.mean.flatten(), torch.full((3,), 0.5))
    torch.testing.assert_close(detector.std.flatten(), torch.full((3,), 0.5))


def test_normalisation_is_the_backbones_own() -> None:
    for backbone, mean in (
        ("efficientnet_b0", 0.485),
        ("efficientvit", 0.485),
        ("vit_tiny_patch16_224", 0.5),
    ):
        detector = build_detector(DetectorConfig(backbone=backbone, image_size=64))
        assert detector.mean.flatten()[0].item() == pytest.approx(mean)


def test_efficientvit_reads_49_cells_and_the_class_token() -> None:
    detector = build_detector(DETECTORS["efficientvit"]).eval()
    with torch.no_grad():
        tokens = detector.backbone.forward_features(torch.rand(1, 3, 224, 224))
        assert tokens.shape == (1, 50, 256)
        assert detector.features(torch.rand(1, 3, 224, 224)).shape == (1, 256)


def test_positions_are_interpolated_for_other_sizes() -> None:
    backbone: EfficientViT = build_detector(DETECTORS["efficientvit"]).backbone
    assert backbone._positions_for(7, 7) is backbone.positions
    resized = backbone._positions_for(3, 5)
    assert resized.shape == (1, 16, 256)
    assert torch.equal(resized[:, 0], backbone.positions[:, 0])
    with torch.no_grad():
        backbone.positions[:, 1:] = 0.25
    torch.testing.assert_close(backbone._positions_for(3, 5)[:, 1:], torch.full((1, 15, 256), 0.25))


def test_positions_and_cells_decide_the_logit(images: torch.Tensor) -> None:
    detector = settled("efficientvit")
    clean = detector(images).detach()
    with torch.no_grad():
        # not the same for all channels: the layer norm takes a common shift out again
        detector.backbone.positions[:, 1].add_(torch.linspace(-3, 3, 256))
    assert not torch.allclose(detector(images), clean)


def test_efficientvit_has_a_second_derivative(images: torch.Tensor) -> None:
    detector = settled("efficientvit")
    pixels = images[:1].requires_grad_()
    first = torch.autograd.grad(detector(pixels).sum(), pixels, create_graph=True)[0]
    first.square().sum().backward()
    gradient = detector.backbone.get_submodule("blocks.0.attn.qkv").weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("backbone", ["efficientvit", "vit_tiny_patch16_224"])
def test_cam_sees_where_tokens_look(backbone: str) -> None:
    detector = settled(backbone)
    output: list[torch.Tensor] = []
    pictures = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(2))
    with detector.cam_layer.register_forward_hook(lambda _m, _i, maps: output.append(maps)):
        pixels = pictures.clone().requires_grad_()
        logits = detector(pixels)
    maps = detector.cam_maps(output[0], (64, 64))
    assert maps.ndim == 4
    assert maps.shape[2] == maps.shape[3]
    gradient = torch.autograd.grad(logits.sum(), output[0])[0]
    assert detector.cam_maps(gradient, (64, 64)).abs().sum() > 0
    assert grad_cam(detector, pictures).shape == (2, 64, 64)


def test_cam_maps_keep_rows_and_columns() -> None:
    detector = build_detector(DetectorConfig(backbone="efficientvit", image_size=64))
    maps = torch.arange(2 * 5 * 3 * 4.0).reshape(2, 5, 3, 4)
    tokens = torch.cat([torch.full((2, 1, 5), -1.0), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(detector.cam_maps(tokens, (96, 128)), maps)
    swin = build_detector(DetectorConfig(backbone="swin_tiny_patch4_window7_224", image_size=64))
    assert torch.equal(swin.cam_maps(maps.permute(0, 2, 3, 1), (96, 128)), maps)


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "efficientvit", "xception", "vit_tiny_patch16_224"])
def test_channels_last_changes_no_logit(backbone: str, images: torch.Tensor) -> None:
    detector = settled(backbone)
    with torch.no_grad():
        expected = detector(images)
        detector.to(memory_format=torch.channels_last)
        actual = detector(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, **TOLERANCE[torch.float32])


def test_image_shape_is_checked(images: torch.Tensor) -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10t", image_size=64))
    with pytest.raises(ShapeError, match=r"expected images \(N, 3, 64, 64\), got \(4, 64, 64, 3\)"):
        detector(images.permute(0, 2, 3, 1))
    with pytest.raises(ShapeError, match="got"):
        detector.features(images[0])
    fixed = build_detector(DetectorConfig(backbone="vit_tiny_patch16_224", image_size=64))
    with pytest.raises(ShapeError, match="64 px, which vit_tiny_patch16_224 was built for"):
        fixed(torch.rand(1, 3, 96, 96))


class Sized(nn.Module):
    """Needs images of 40 px at least, and gives as many logits as it is told."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, 40)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels).mean((2, 3))


def test_unusable_backbones_are_refused_when_built() -> None:
    try:
        register_backbone("sized_for_test")(lambda config: Sized(1 + (config.image_size > 100)))
        assert build_detector(DetectorConfig(backbone="sized_for_test", image_size=48))
        with pytest.raises(ConfigError, match="image size that sized_for_test can read, got 32"):
            build_detector(DetectorConfig(backbone="sized_for_test", image_size=32))
        with pytest.raises(ConfigError, match=r"one logit an image from sized_for_test, got \(1, 2\)"):
            build_detector(DetectorConfig(backbone="sized_for_test", image_size=128))
        with pytest.raises(ConfigError, match="published weights, got Sized"):
            build_detector(DetectorConfig(backbone="sized_for_test", image_size=64, pretrained=True))
    finally:
        del BACKBONES["sized_for_test"]
    with pytest.raises(ConfigError, match="timm can build with one logit at 100 px"):
        build_detector(DetectorConfig(backbone="deit3_base_patch16_224.nothing", image_size=100))


def test_building_leaves_a_frozen_part_frozen() -> None:
    class Frozen(Sized):
        def __init__(self) -> None:
            super().__init__(1)
            self.conv.eval()
            self.conv.requires_grad_(False)

    try:
        register_backbone("frozen_for_test")(lambda config: Frozen())
        detector = build_detector(DetectorConfig(backbone="frozen_for_test", image_size=64))
    finally:
        del BACKBONES["frozen_for_test"]
    assert detector.training
    assert not detector.backbone.conv.training
    assert not detector.backbone.conv.weight.requires_grad
    with crafting_mode(detector):
        assert not detector.training
