from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfcore.errors import BundleError, ConfigError
from dfcore.models import Calibration, DetectorCard, load_detector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from tests.models.conftest import settled


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    detector = settled("resnet10t")
    detector.calibrate(2.0, -0.5)
    card = DetectorCard(
        architecture=detector.config,
        preprocessing=PreprocessingConfig(image_size=64),
        threshold=0.4,
        calibration=Calibration(scale=2.0, bias=-0.5),
        provenance={"training_groups": ["a", "b"]},
    )
    save_detector(tmp_path / "out", detector, card)
    return tmp_path / "out"


def test_round_trip(saved: Path, images: torch.Tensor) -> None:
    detector = settled("resnet10t")
    detector.calibrate(2.0, -0.5)
    loaded = load_detector(saved)
    assert not loaded.training
    assert loaded.threshold == 0.4
    assert loaded.card is not None
    assert loaded.card.provenance["training_groups"] == ["a", "b"]
    assert torch.equal(loaded(images), detector(images))
    assert sorted(path.name for path in saved.iterdir()) == ["detector.json", "weights.safetensors"]


def test_calibration_must_agree(saved: Path) -> None:
    detector = load_detector(saved)
    assert detector.card is not None
    wrong = detector.card.model_copy(update={"calibration": Calibration(scale=3.0)})
    with pytest.raises(ConfigError, match="calibration scale"):
        save_detector(saved, detector, wrong)
    state = load_file(saved / "weights.safetensors")
    save_file({**state, "bias": torch.tensor(9.0)}, saved / "weights.safetensors")
    with pytest.raises(BundleError, match="calibration bias"):
        load_detector(saved)


def test_damage_is_named(saved: Path) -> None:
    state = load_file(saved / "weights.safetensors")
    state.pop("mean")
    save_file(state, saved / "weights.safetensors")
    with pytest.raises(BundleError, match="mean"):
        load_detector(saved)
    (saved / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(BundleError, match="expected weights"):
        load_detector(saved)
    (saved / "detector.json").write_text('{"format_version": 2}')
    with pytest.raises(BundleError, match="format_version"):
        load_detector(saved)
