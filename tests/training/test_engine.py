from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dfcore.data import CropStore
from dfcore.errors import ConfigError, DataError, WorkFailed
from dfcore.models import load_detector
from dfcore.training import Recipe, TrainingProgress, train
from tests.training.conftest import MakeStore


def test_learns_and_writes_a_calibrated_detector(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    plain = plain.override(["optimiser.epochs=5"])
    seen: list[TrainingProgress] = []
    state = torch.random.get_rng_state()
    out = train(plain, store, tmp_path / "out", progress=seen.append, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state changed"
    assert sorted(path.name for path in out.iterdir()) == [
        "detector.json", "training.json", "weights.safetensors",
    ]  # fmt: skip
    detector = load_detector(out)
    crops = store.select(split="val")
    scores = torch.sigmoid(detector(crops.tensor())).detach().numpy()
    assert np.mean((scores >= detector.threshold) == crops.labels) > 0.9
    assert detector.card is not None
    provenance = detector.card.provenance
    assert provenance["training_groups"] == sorted(f"train{i}" for i in range(12))
    assert provenance["data_digest"] == store.digest
    assert Recipe.parse(provenance["recipe"]) == plain
    assert detector.card.preprocessing == store.config
    records = json.loads((out / "training.json").read_text())["records"]
    assert [record["epoch"] for record in records] == list(range(1, 6))
    assert records[-1]["loss"] < records[0]["loss"]
    assert {"val_clean_auc", "val_robust_auc", "images_per_second", "eta_seconds"} <= set(records[0])
    assert seen[-1].record == records[-1]
    assert seen[-1].step == seen[-1].steps
    assert [item.step for item in seen if item.record is None] == list(range(1, seen[-1].steps + 1))


def test_adversarial_training_from_a_baseline(
    plain: Recipe, robust: Recipe, store: CropStore, tmp_path: Path
) -> None:
    baseline = train(plain, store, tmp_path / "base", device="cpu")
    recipe = robust.model_copy(update={"initialise_from_baseline": True})
    out = train(recipe, store, tmp_path / "robust", initial=baseline, device="cpu")
    document = json.loads((out / "training.json").read_text())
    assert {"clean_loss", "robust_loss"} <= set(document["records"][0])
    best = document["records"][document["best_epoch"] - 1]
    assert best["val_robust_auc"] == max(record["val_robust_auc"] for record in document["records"])
    with pytest.raises(ConfigError, match="give a baseline"):
        train(recipe, store, tmp_path / "none", device="cpu")
    other = recipe.override(["model.backbone=resnet18"])
    with pytest.raises(ConfigError, match="change the recipe's model"):
        train(other, store, tmp_path / "other", initial=baseline, device="cpu")


class Stop(Exception):
    """What an interrupted run raises."""


def test_resume_gives_what_an_uninterrupted_run_gives(
    robust: Recipe, store: CropStore, tmp_path: Path
) -> None:
    whole = train(robust, store, tmp_path / "whole", device="cpu")

    def stop_in_second_epoch(progress: TrainingProgress) -> None:
        if progress.epoch == 1 and progress.record is None:
            raise Stop

    with pytest.raises(Stop):
        train(robust, store, tmp_path / "cut", progress=stop_in_second_epoch, device="cpu")
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    with pytest.raises(ConfigError, match="same recipe and data"):
        train(robust.override(["seed=5"]), store, tmp_path / "cut", device="cpu", resume=True)
    steps: list[TrainingProgress] = []
    cut = train(robust, store, tmp_path / "cut", progress=steps.append, device="cpu", resume=True)
    assert all(item.epoch >= 1 for item in steps)
    expected, found = (load_file(folder / "weights.safetensors") for folder in (whole, cut))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    again: list[TrainingProgress] = []
    train(robust, store, tmp_path / "cut", progress=again.append, device="cpu", resume=True)
    assert again == [], "a finished run was done again"
    (tmp_path / "cut" / "training.json").unlink()
    (tmp_path / "cut" / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(WorkFailed, match="delete it"):
        train(robust, store, tmp_path / "cut", device="cpu", resume=True)


def test_loss_that_is_not_finite_breaks_off(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = plain.override(["optimiser.learning_rate=1e30", "optimiser.gradient_clip=null"])
    with pytest.raises(WorkFailed, match=r"learning.rate"):
        train(recipe, store, tmp_path / "out", device="cpu")


def test_wrong_data_is_refused(
    plain: Recipe, make_store: MakeStore, store: CropStore, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no fake one"):
        train(plain, make_store(labels=(0,)), tmp_path / "out", device="cpu")
    with pytest.raises(ConfigError, match=r"model.image_size = 64 px"):
        train(plain.override(["model.image_size=64"]), store, tmp_path / "out", device="cpu")


def test_ignored_initial_weights_are_mentioned(
    plain: Recipe, store: CropStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = plain.override(["optimiser.epochs=1", "data.max_train_crops=14", "precision=bf16-mixed"])
    with caplog.at_level(logging.WARNING):
        train(recipe, store, tmp_path / "out", initial=tmp_path, device="cpu")
    assert "initial weights ignored" in caplog.text
