"""What is exported answers like the detector, and is the same bytes everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dfcore.errors import BundleError, CheckFailed, ConfigError
from dfcore.models import BACKBONES, Detector, DetectorConfig, build_detector, register_backbone
from dfcore.models.export import OPSET, SCORE_TOLERANCE, OnnxNetwork, write_onnx
from dfcore.models.golden import write_golden

SIZE = 64


class Blocks(nn.Module):
    """The least that a backbone is; `bend` is called on the raw logit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer(images)
        return maps

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = maps.mean((2, 3))
        return pooled if pre_logits else self.bend(pooled.sum(1, keepdim=True))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))

    def bend(self, raw: torch.Tensor) -> torch.Tensor:
        return raw


class Undecided(Blocks):
    """Goes another way for another image, which no graph can say."""

    def bend(self, raw: torch.Tensor) -> torch.Tensor:
        return raw * 2 if bool(raw.sum() > 0) else raw


class Counting(Blocks):
    """Fixes the number of images when it is traced."""

    def bend(self, raw: torch.Tensor) -> torch.Tensor:
        return raw + torch.zeros(len(raw), 1)


class Twofaced(Blocks):
    """Is exported as something else than it is."""

    def bend(self, raw: torch.Tensor) -> torch.Tensor:
        return raw + 1 if torch.onnx.is_in_onnx_export() else raw


def export(folder: Path, detector: Detector) -> Path:
    folder.mkdir(exist_ok=True)
    write_golden(folder / "golden.safetensors", detector)
    write_onnx(folder / "detector.onnx", detector, folder / "golden.safetensors")
    return folder / "detector.onnx"


def tiny(backbone: str) -> Detector:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=SIZE), seed=2).eval()
    detector.calibrate(1.7, -0.3)
    return detector


@pytest.mark.parametrize(("backbone", "threads"), [("efficientvit", 1), ("resnet10_narrow", 3)])
def test_it_answers_like_the_detector(tmp_path: Path, backbone: str, threads: int) -> None:
    detector = tiny(backbone)
    network = OnnxNetwork(export(tmp_path, detector), threads)
    images = torch.rand((5, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores, features = detector(images).sigmoid().numpy(), detector.features(images).numpy()
    for count in (1, 2, 5):
        logits, found = network.run(images[:count].numpy())
        assert np.abs(1 / (1 + np.exp(-logits)) - scores[:count]).max() < SCORE_TOLERANCE
        np.testing.assert_allclose(found, features[:count], atol=1e-3, rtol=1e-3)


def test_the_same_bytes_without_a_trace_of_this_machine(tmp_path: Path) -> None:
    one = export(tmp_path / "one", tiny("resnet10_narrow")).read_bytes()
    assert one == export(tmp_path / "two", tiny("resnet10_narrow")).read_bytes()
    for trace in (str(Path(__file__).parents[2]), "site-packages", ".py", str(tmp_path)):
        assert trace.encode() not in one
    assert not list(tmp_path.glob("*/.*"))


def test_the_graph_is_pinned_and_its_batch_is_free(tmp_path: Path) -> None:
    model = onnx.load(export(tmp_path, tiny("resnet10_narrow")))
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
    (images,) = model.graph.input
    assert [(side.dim_param, side.dim_value) for side in images.type.tensor_type.shape.dim] == [
        ("batch", 0), ("", 3), ("", SIZE), ("", SIZE),
    ]  # fmt: skip
    assert [item.name for item in model.graph.output] == ["logits", "features"]


def test_what_onnx_cannot_say_is_refused(tmp_path: Path) -> None:
    for kind, error, message in (
        (Undecided, ConfigError, "expected a backbone that ONNX can express, got undecided"),
        (Counting, ConfigError, "expected a backbone for any number of images, got counting"),
        (Twofaced, CheckFailed, "expected an exported graph of the same scores within 0.0001"),
    ):
        name = f"{kind.__name__.lower()}_for_test"
        try:
            register_backbone(name)(lambda _config, kind=kind: kind())
            detector = build_detector(DetectorConfig(backbone=name, image_size=16)).eval()
            with pytest.raises(error, match=message):
                export(tmp_path, detector)
        finally:
            BACKBONES.pop(name, None)
        assert [path.name for path in tmp_path.iterdir()] == ["golden.safetensors"]


def test_another_file_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"expected a graph that ONNX Runtime .* can run in"):
        OnnxNetwork(tmp_path / "x.onnx", threads=1)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", [value], [out])
    opset = [onnx.helper.make_opsetid("", OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "y.onnx")
    with pytest.raises(BundleError, match="expected images in and logits, features out"):
        OnnxNetwork(tmp_path / "y.onnx", threads=1)
