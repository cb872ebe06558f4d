"""What is served computes what was trained."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dfcore.errors import ConfigError
from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.models.export import write_onnx
from dfcore.models.golden import write_golden
from dfcore.monitoring.signals import look
from serving.engine import OnnxDetector, TorchDetector, _compile, choose_device, prepare, probes
from serving.settings import EngineSettings

ON_CPU = EngineSettings(device="cpu")


def make(seed: int = 3) -> Detector:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=seed).eval()
    detector.threshold = 0.37
    detector.calibrate(1.3, 0.2)
    return detector


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ONNX file of `make()`."""
    folder = tmp_path_factory.mktemp("bundled")
    write_golden(folder / "golden.safetensors", make())
    write_onnx(folder / "detector.onnx", make(), folder / "golden.safetensors")
    return folder


def let_win(monkeypatch: pytest.MonkeyPatch, winner: type[Detector]) -> None:
    """Turn the clock so that one engine is the faster one."""
    monkeypatch.setattr("serving.engine._onnx_wins", {})
    monkeypatch.setattr("serving.engine._measure", lambda one: 0.0 if isinstance(one, winner) else 1.0)


def test_onnx_runtime_gives_the_same_where_it_is_faster(
    bundled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    detector = make()
    caplog.set_level(logging.INFO, "serving")
    let_win(monkeypatch, OnnxDetector)
    served = prepare(detector, ON_CPU, bundled)
    assert isinstance(served, OnnxDetector)
    assert (served.threshold, served.precision) == (0.37, torch.float32)
    assert "ONNX Runtime runs the network" in caplog.text
    images = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for count in (1, 5):
            part = images[:count].contiguous(memory_format=torch.channels_last)
            logits, features = look(served, part)
            expected = detector(part)
            assert (logits.sigmoid() - expected.sigmoid()).abs().max() < 1e-4
            assert torch.equal(served(part), logits)
            torch.testing.assert_close(features, detector.features(part), atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(served.features(part), features)


def test_the_faster_engine_is_measured(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(prepare(make(), ON_CPU, bundled), OnnxDetector | TorchDetector)
    let_win(monkeypatch, TorchDetector)
    assert isinstance(prepare(make(), ON_CPU, bundled), TorchDetector)
    # a later version of the same shape is not measured again
    monkeypatch.setattr("serving.engine._measure", lambda one: pytest.fail("measured again"))
    assert isinstance(prepare(make(), ON_CPU, bundled), TorchDetector)


def test_pytorch_serves_what_onnx_runtime_cannot(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving")
    let_win(monkeypatch, OnnxDetector)
    assert isinstance(prepare(make(), ON_CPU), TorchDetector)
    assert isinstance(prepare(make(), ON_CPU, tmp_path), TorchDetector)
    assert "has no detector.onnx" in caplog.text
    assert isinstance(prepare(make(seed=4), ON_CPU, bundled), TorchDetector)
    assert "ONNX Runtime moves a score by" in caplog.text
    (tmp_path / "detector.onnx").write_bytes(b"no graph")
    assert isinstance(prepare(make(), ON_CPU, tmp_path), TorchDetector)
    assert "expected a graph that ONNX Runtime" in caplog.text
    for asked in ({"precision": "bf16"}, {"compiled": True}):
        chosen = prepare(make(), EngineSettings.parse({"device": "cpu", **asked}), bundled)
        assert isinstance(chosen, TorchDetector)
    monkeypatch.setattr("serving.engine.find_spec", lambda _: None)
    assert isinstance(prepare(make(), ON_CPU, bundled), TorchDetector)
    assert "ONNX Runtime is not installed" in caplog.text


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "resnet10_narrow"])
def test_scores_are_those_of_the_detector(backbone: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=32), seed=3).eval()
    images = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    served = prepare(detector, EngineSettings(device="cpu"))
    with torch.inference_mode():
        assert (served(images).sigmoid() - detector(images).sigmoid()).abs().max() < 1e-4
        torch.testing.assert_close(served.features(images), detector.features(images), atol=1e-3, rtol=1e-3)


def test_bf16_stays_close_and_gives_fp32_logits() -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=3).eval()
    served = TorchDetector(detector, torch.bfloat16)
    images = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = served(images)
        assert logits.dtype is torch.float32
        assert not torch.equal(logits, detector(images))
        assert (logits.sigmoid() - detector(images).sigmoid()).abs().max() < 0.02


def test_bf16_that_moves_scores_is_not_served(caplog: pytest.LogCaptureFixture) -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=3).eval()
    with torch.inference_mode():
        middle = float(detector(probes(detector))[4])
    detector.calibrate(1000.0, -1000 * middle)  # tiny differences of the raw logit decide
    served = prepare(detector, EngineSettings(device="cpu", precision="bf16"))
    assert served.precision is torch.float32
    assert "serving in fp32" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device(EngineSettings()) == "cpu"
    with pytest.raises(ConfigError, match=r"engine\.device=cuda"):
        choose_device(EngineSettings(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_scores_are_those_of_the_cpu() -> None:
    detector = build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=64), seed=3).eval()
    images = torch.rand((5, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = detector(images).sigmoid()
        for precision, moved in (("fp32", 1e-3), ("bf16", 0.02)):
            served = prepare(detector.cuda(), EngineSettings(device="cuda", precision=precision))
            for count in (1, 2, 5):
                found = served(images[:count].cuda()).sigmoid().cpu()
                assert (found - expected[:count]).abs().max() < moved


def test_without_a_compiler_the_network_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Any:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=refuse))
    with pytest.raises(ConfigError, match=r"engine\.compiled=true, got: .*install a C compiler"):
        prepare(make(), EngineSettings(device="cpu", compiled=True))
    served = TorchDetector(make())
    _compile(served, asked=False)
    assert "the network is not compiled" in caplog.text
    images = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (served(images).sigmoid() - make()(images).sigmoid()).abs().max() < 1e-4


def test_what_the_server_runs_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def count(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    detector = make()
    served = prepare(detector, EngineSettings(device="cpu", compiled=True))
    images = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, features = look(served, images)
        assert len(seen) >= 3  # the features, and the head with and without the last layer
        assert (logits.sigmoid() - detector(images).sigmoid()).abs().max() < 1e-4
        torch.testing.assert_close(features, detector.features(images), atol=1e-3, rtol=1e-3)
