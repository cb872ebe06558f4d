"""`rampart evaluate` and `rampart attack` themselves; the evaluation has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from dfcore.errors import CheckFailed, ConfigError, DataError
from dfcore.evaluation import Evidence
from dfcore.models import DetectorCard, DetectorConfig, build_detector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from rampart.attack import attack
from rampart.evaluate import evaluate, read_corpora
from tests.data.crop_stores import write_shards

SIZE = 32


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    images = []
    for split, videos in (("train", 8), ("test", 12)):
        for video in range(videos):
            for frame in range(2):
                shade = 60 + 90 * (video % 2)
                images.append(rng.normal(shade, 12, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8))
                rows.append({
                    "sample_id": f"{split}{video}", "split": split, "label": video % 2,
                    "method": "swap" if video % 2 else "original", "frame_index": frame,
                    "face_size": 40.0 if video < 6 else 100.0, "blur": float(len(rows)),
                })  # fmt: skip
    path = tmp_path_factory.mktemp("evaluate") / "store"
    write_shards(path, np.stack(images), rows, per_shard=20)
    return path


def save(folder: Path, **provenance: Any) -> str:
    """Write a small detector that was never trained."""
    torch.manual_seed(0)
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=SIZE)).eval()
    card = DetectorCard(
        architecture=detector.config,
        preprocessing=PreprocessingConfig(image_size=SIZE),
        threshold=0.5,
        provenance=provenance,
    )
    save_detector(folder, detector, card)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("model") / "m", training_groups=["a"], validation_groups=["b"])


def run(model: str, data: list[str], out: Path, **options: Any) -> None:
    settings: dict[str, Any] = {
        "suite": "quick", "scenario": ["jpeg_50", "fgsm_2_255"], "training": None, "surrogate": None,
        "frames": 2, "seed": 0, "as_json": True,
    }  # fmt: skip
    with pytest.raises(typer.Exit) as code:  # of a detector that was never trained no figure counts
        evaluate(model, data, out, **{**settings, **options})
    assert code.value.exit_code == 1


def test_several_corpora_in_one_run_and_a_second_run_that_does_nothing(
    model: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(model, [f"in={store}", f"cross={store}"], out)
    document = json.loads(capsys.readouterr().out)
    assert list(document["corpora"]) == ["in", "cross"]
    assert {"evidence.json", "samples.parquet", "report.html", "cache"} == {p.name for p in out.iterdir()}
    evidence = Evidence.read(out)
    assert set(evidence.scenarios) == {
        "clean", "jpeg_50", "fgsm_2_255", "pgd20_64_255", "square100_8_255"
    }  # fmt: skip
    assert evidence.suite == "custom"
    assert (
        evidence.find("clean", "cross", "face_size=<64px") is None
    )  # three videos of each class are too few
    before = (out / "evidence.json").read_bytes()
    run(model, [f"in={store}", f"cross={store}"], out)
    assert (out / "evidence.json").read_bytes() == before


def test_wrong_use_is_said_before_any_work(model: str, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="did you mean 'jpeg_50'"):
        run(model, [str(store)], out, scenario=["jpeg_5"])
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        run(model, [str(store)], out, suite="ful")
    with pytest.raises(ConfigError, match="'made' twice; give NAME=STORE"):
        run(model, [str(store), str(store)], out)
    with pytest.raises(DataError, match="finished crop store"):
        run(model, ["name=/nowhere"], out)
    with pytest.raises(ConfigError, match="training identities to fit the attacks of unet_8_255"):
        run(model, [str(store)], out, suite="full", scenario=["unet_8_255"])
    with pytest.raises(ConfigError, match="other than the detector itself"):
        run(model, [str(store)], out, suite="full", scenario=["transfer_8_255"], surrogate=[model])
    assert not out.exists()


def test_videos_of_the_training_are_refused(store: Path, tmp_path: Path) -> None:
    seen = save(tmp_path / "m", training_groups=["test3"], validation_groups=["b"])
    with pytest.raises(CheckFailed, match="1 of made whose people are in its training_groups: test3"):
        run(seen, [str(store)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_path_with_an_equals_sign_is_a_path(store: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.symlink_to(store)
    assert list(read_corpora([str(odd)], 1)) == ["made"]


def fool(model: str, store: Path, out: Path, kind: str, **options: Any) -> None:
    settings: dict[str, Any] = {
        "count": 6, "frames": 1, "training": None, "seed": 0, "assignments": None, "as_json": True
    }  # fmt: skip
    attack(model, str(store), kind, out, **{**settings, **options})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pgd", {"assignments": ["steps=2"]}),
        ("video-consistent", {"frames": 2, "assignments": ["steps=2"]}),
        ("unet", {"training": True, "assignments": ["fit_steps=2"]}),
        ("universal", {"training": True, "assignments": ["steps=2"]}),
    ],
)
def test_attacks_of_every_sort_write_faces(
    model: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, options: Any
) -> None:
    given = {**options, "training": str(store)} if "training" in options else options
    fool(model, store, tmp_path, kind, **given)
    document = json.loads(capsys.readouterr().out)
    assert document["attack"]["kind"] == kind
    assert len(document["faces"]) == len(list(tmp_path.glob("*.png"))) == 6


def test_a_learned_attack_wants_people_who_are_not_attacked(
    model: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="training identities to fit unet on"):
        fool(model, store, tmp_path, "unet")
    from dfcore.data import CropStore

    crops = CropStore.open(store).select(split="test")
    monkeypatch.setattr("rampart.evaluate.training_crops", lambda store: crops)
    with pytest.raises(DataError, match="other people to fit unet on"):
        fool(model, store, tmp_path, "unet", training=str(store))
