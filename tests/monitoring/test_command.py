"""`rampart monitor` on a saved detector and a small store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from dfcore.errors import BundleError, ConfigError, MediaError
from dfcore.models import DetectorConfig, build_detector, save_detector
from dfcore.models.card import Calibration, DetectorCard
from dfcore.monitoring import AttackScorer, read_payloads
from dfcore.preprocessing import PreprocessingConfig, encode_video
from rampart.main import app
from tests.data.crop_stores import write_shards

SIZE = 32


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["monitor", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that nobody trained: what it says is not looked at here."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("monitor") / "model"
    architecture = DetectorConfig(backbone="resnet10_narrow", image_size=SIZE)
    card = DetectorCard(
        architecture=architecture, preprocessing=PreprocessingConfig(image_size=SIZE, frames_per_video=3),
        threshold=0.5, calibration=Calibration(), provenance={"commit": "unknown"},
    )  # fmt: skip
    save_detector(folder, build_detector(architecture, seed=1), card)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One crop of each of 64 people in a validation and 16 in a test split."""
    folder = tmp_path_factory.mktemp("monitor") / "store"
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((80, 3, 8, 8), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)
    images = (smooth * 255).byte().permute(0, 2, 3, 1).numpy()
    rows: list[dict[str, object]] = [
        {"split": "val" if row < 64 else "test", "label": row % 2, "sample_id": f"s{row}",
         "method": "swap" if row % 2 else "original", "compression": ("c23", "c40")[row // 2 % 2]}
        for row in range(80)
    ]  # fmt: skip
    write_shards(folder, np.ascontiguousarray(images), rows, 80)
    return folder


@pytest.fixture(scope="module")
def evaluated(model: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("monitor") / "out"
    shown = run(
        "evaluate", "--model", model, "--data", store, "--out", out, "--quick", "--count", 16, "--json"
    )
    assert json.loads(shown) == json.loads((out / "attack_scores.json").read_text())
    return out


def test_evaluate_writes_figures_a_plot_and_the_reference(evaluated: Path, model: Path) -> None:
    from dfcore.models import load_detector

    found = json.loads((evaluated / "attack_scores.json").read_text())["attack_scores"]
    assert set(found["attackers"]) == {"pgd 8/255", "apgd 8/255", "adaptive pgd 8/255"}
    for one in found["attackers"].values():
        assert {"auc", "tpr_at_1_fpr", "flagged"} <= set(one["signs"]["combined"])
    assert found["queries"]["square 8/255"]["n"] == 1
    assert [one["kind"] for one in found["fit"]["fitted_against"]] == ["pgd", "pgd", "apgd"]
    with Image.open(evaluated / "attack_scores.png") as picture:
        assert picture.width > 500
    AttackScorer.load(load_detector(model), evaluated / "reference.json")


def test_score_and_drift_of_a_store(evaluated: Path, model: Path, store: Path, tmp_path: Path) -> None:
    known = ["--model", model, "--reference", evaluated / "reference.json"]
    rows = json.loads(run("score", "--data", store, *known, "--out", tmp_path / "log", "--json"))
    assert len(rows) == 64
    assert set(rows[0]["attack"]) == {"jpeg_75", "blur", "bits_4", "mahalanobis", "frequency", "combined"}
    table = read_payloads(str(tmp_path / "log"))
    assert {dict(row)["compression"] for row in table["slices"].to_pylist()} == {"c23", "c40"}
    few = run("score", "--data", store, "--split", "test", *known, "--squeezers", 0)
    assert few.count("P(fake)") == 16
    log = str(tmp_path / "log")
    report = json.loads(run("drift", "--reference", log, "--current", log, "--json"))
    assert not report["drifted"]
    assert report["slices"][0]["current"] == 64
    for _ in range(4):
        run("score", "--data", store, "--split", "test", *known, "--out", tmp_path / "other")
    shown = run(
        "drift", "--reference", log, "--current", tmp_path / "other", "--out", tmp_path / "d.json", code=1
    )
    assert "drifted" in shown  # sixteen videos over and over are not sixty-four
    assert json.loads((tmp_path / "d.json").read_text())["drifted"]


def test_score_files(evaluated: Path, model: Path, tmp_path: Path) -> None:
    portrait = np.ascontiguousarray(data.astronaut()[:256, 96:352])
    Image.fromarray(portrait).save(tmp_path / "face.png")
    clip = encode_video(None, np.stack([np.roll(portrait, step, axis=1) for step in range(6)]))
    (tmp_path / "clip.mp4").write_bytes(clip)
    known = ["--model", model, "--reference", evaluated / "reference.json"]
    rows = json.loads(run("score", tmp_path / "face.png", tmp_path / "clip.mp4", *known, "--json"))
    assert [Path(row["name"]).name for row in rows] == ["face.png", "clip.mp4"]
    assert all(0 <= row["attack"]["combined"] < 1 for row in rows)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "dark.png")
    with pytest.raises(MediaError, match="expected a face"):
        run("score", tmp_path / "dark.png", *known)
    with pytest.raises(MediaError, match="No such file"):
        run("score", tmp_path / "none.png", *known)


def test_wrong_use_is_refused(evaluated: Path, model: Path, store: Path, tmp_path: Path) -> None:
    known = ["--model", model, "--reference", evaluated / "reference.json"]
    with pytest.raises(ConfigError, match="both or neither"):
        run("score", *known)
    with pytest.raises(ConfigError, match="--squeezers"):
        run("score", "--data", store, *known, "--squeezers", 2)
    with pytest.raises(BundleError, match="give --reference"):
        run("score", "--data", store, "--model", model)
    with pytest.raises(BundleError, match="a reference at"):
        run("score", "--data", store, "--model", model, "--reference", tmp_path / "none.json")
