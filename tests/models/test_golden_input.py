from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfcore.errors import BundleError
from dfcore.models import DetectorCard, DetectorConfig, build_detector, load_detector, save_detector
from dfcore.models.golden import GOLDEN_FILE, TOLERANCE, check_golden, write_golden
from dfcore.preprocessing import PreprocessingConfig

CONFIG = DetectorConfig(backbone="mobilenetv3_small_050", image_size=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with its golden file; tests get copies."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("made") / "model"
    detector = build_detector(CONFIG).eval()
    card = DetectorCard(architecture=CONFIG, preprocessing=PreprocessingConfig(image_size=32), threshold=0.5)
    save_detector(out, detector, card)
    write_golden(out / GOLDEN_FILE, detector)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_the_same_libraries_pass(folder: Path) -> None:
    assert load_detector(folder).threshold == 0.5
    tensors = load_file(folder / GOLDEN_FILE)
    assert tensors["crops"].dtype == torch.uint8
    assert tensors["crops"].shape == (2, 32, 32, 3)
    assert tensors["crops"].float().std() > 20  # not a flat grey that every change leaves alone


def test_crops_are_the_same_everywhere(folder: Path, tmp_path: Path) -> None:
    write_golden(tmp_path / "again", load_detector(folder))
    assert (tmp_path / "again").read_bytes() == (folder / GOLDEN_FILE).read_bytes()


def test_a_library_that_computes_otherwise_is_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch.nn.functional.hardswish
    monkeypatch.setattr("torch.nn.functional.hardswish", lambda x, inplace=False: true(x) * 1.01)
    with pytest.raises(BundleError, match=r"expected the logits \[.*\] of .*golden.* within 0.001, got \["):
        load_detector(folder)


@pytest.mark.parametrize("shift", [2 * TOLERANCE, float("nan"), float("inf")])
def test_a_logit_beyond_the_tolerance_is_caught(folder: Path, shift: float) -> None:
    _shift(folder, shift)
    with pytest.raises(BundleError, match="score differently from those that were evaluated"):
        load_detector(folder)


def test_rounding_is_forgiven(folder: Path) -> None:
    _shift(folder, TOLERANCE / 4)
    load_detector(folder)


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_broken_golden_file_is_named(folder: Path, content: bytes) -> None:
    (folder / GOLDEN_FILE).write_bytes(content)
    with pytest.raises(BundleError, match="expected golden crops and logits in"):
        load_detector(folder)


def test_a_golden_file_without_its_tolerance_is_refused(folder: Path) -> None:
    save_file(load_file(folder / GOLDEN_FILE), folder / GOLDEN_FILE)
    with pytest.raises(BundleError, match="expected golden crops and logits in"):
        check_golden(folder / GOLDEN_FILE, build_detector(CONFIG).eval())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: no CUDA device")
def test_a_gpu_gives_the_same_logits(folder: Path) -> None:
    load_detector(folder, device="cuda")


def _shift(folder: Path, shift: float) -> None:
    tensors = load_file(folder / GOLDEN_FILE)
    tensors["logits"] = tensors["logits"] + shift
    save_file(tensors, folder / GOLDEN_FILE, metadata={"tolerance": repr(TOLERANCE)})
