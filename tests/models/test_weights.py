from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dfcore.errors import ConfigError
from dfcore.models import (
    Calibration,
    DetectorCard,
    DetectorConfig,
    InitialWeights,
    build_detector,
    load_detector,
    save_detector,
)
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import sha256_file
from tests.models.conftest import settled

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return {name: value.contiguous() for name, value in settled("resnet10t").backbone.state_dict().items()}


def built(path: Path, backbone: str = "resnet10t") -> State:
    config = DetectorConfig(backbone=backbone, image_size=64, weights=path)
    found: State = build_detector(config).backbone.state_dict()
    return found


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_safetensors_in_timms_format(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert same(built(tmp_path / "w.safetensors"), state)


def test_another_classifier_is_left_out(state: State, tmp_path: Path) -> None:
    save_file(
        {**state, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}, tmp_path / "w.safetensors"
    )
    found = built(tmp_path / "w.safetensors")
    assert found["fc.weight"].shape == (1, 512)
    assert not torch.equal(found["fc.weight"], state["fc.weight"])
    del found["fc.weight"], found["fc.bias"]
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_a_detector_that_rampart_wrote(tmp_path: Path) -> None:
    detector = settled("resnet10t")
    card = DetectorCard(
        architecture=detector.config, preprocessing=PreprocessingConfig(image_size=64), threshold=0.5
    )
    save_detector(tmp_path, detector, card)
    assert same(built(tmp_path / "weights.safetensors"), detector.backbone.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_pytorch_files_of_tensors(state: State, tmp_path: Path, wrap: Callable[[State], object]) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    assert same(built(tmp_path / "w.pth"), state)


class Touch:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Touch(tmp_path / "run")}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="plain tensors"):
        built(tmp_path / "w.pth")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"no", "w.safetensors", "expected a safetensors file"),
        (b"no", "w.pth", "plain tensors"),
        (b"", "w.pth", "plain tensors"),
        (None, "w.pth", "expected a safetensors file at"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, name: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        built(tmp_path / name)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="tensors by name"):
        built(tmp_path / "w.pth")
    save_file({}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="got an empty file"):
        built(tmp_path / "w.safetensors")


def test_every_key_that_does_not_fit_is_named(state: State, tmp_path: Path) -> None:
    wrong = {f"extra.{index}": torch.ones(1) for index in range(5)}
    shapes = {"bn1.weight": torch.ones(7)}
    kept = {name: value for name, value in state.items() if name != "conv1.0.weight"}
    save_file({**kept, **wrong, **shapes}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        built(tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "1 missing: conv1.0.weight" in text
    assert "5 unexpected: extra.0, extra.1, extra.2 and 2 more" in text
    assert "1 of another shape: bn1.weight (7,) for (64,)" in text


def test_the_cnn_of_efficientvit_alone(tmp_path: Path) -> None:
    cnn = settled("efficientnet_b0").backbone.state_dict()
    save_file({name: value.contiguous() for name, value in cnn.items()}, tmp_path / "w.safetensors")
    config = DetectorConfig(backbone="efficientvit", image_size=64, weights=tmp_path / "w.safetensors")
    detector = build_detector(config)
    assert torch.equal(detector.backbone.cnn.conv_head.weight, cnn["conv_head.weight"])
    assert detector.initial_weights.part == "cnn"


def test_where_weights_came_from_travels_with_the_card(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    config = DetectorConfig(backbone="resnet10t", image_size=64, weights=path)
    expected = InitialWeights(source="file", name="w.safetensors", sha256=sha256_file(path))
    detector = build_detector(config)
    assert detector.initial_weights == expected
    assert build_detector(DetectorConfig(backbone="resnet10t")).initial_weights == InitialWeights()
    card = DetectorCard(
        architecture=config, preprocessing=PreprocessingConfig(image_size=64), threshold=0.5,
        calibration=Calibration(), provenance={"seed": 3},
    )  # fmt: skip
    save_detector(tmp_path / "out", detector, card)
    path.unlink()
    loaded = load_detector(tmp_path / "out")
    assert loaded.initial_weights == expected
    assert loaded.card is not None
    assert loaded.card.provenance["seed"] == 3


def test_two_sources_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="pretrained or weights, got both"):
        DetectorConfig.parse({"pretrained": True, "weights": "w.safetensors"})
