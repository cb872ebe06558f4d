from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dfcore.data import CropStore
from dfcore.errors import ConfigError, DataError, WorkFailed
from dfcore.models import load_detector
from dfcore.training import Recipe, TrainingProgress, train
from dfcore.training.checkpoint import load_checkpoint
from tests.training.conftest import MakeStore


def test_learns_and_writes_a_calibrated_detector(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    plain = plain.override(["optimiser.epochs=5"])
    seen: list[TrainingProgress] = []
    state = torch.random.get_rng_state()
    out = train(plain, store, tmp_path / "out", progress=seen.append, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state changed"
    assert sorted(path.name for path in out.iterdir()) == [
        "detector.json", "metrics.csv", "tensorboard", "training.json", "weights.safetensors",
    ]  # fmt: skip
    detector = load_detector(out)
    crops = store.select(split="val")
    scores = torch.sigmoid(detector(crops.tensor())).detach().numpy()
    assert np.mean((scores >= detector.threshold) == crops.labels) > 0.9
    assert detector.card is not None
    provenance = detector.card.provenance
    assert provenance["training_groups"] == sorted(f"train{i}" for i in range(12))
    assert provenance["validation_groups"] == sorted(f"val{i}" for i in range(8))
    assert provenance["data_digest"] == store.digest
    assert Recipe.parse(provenance["recipe"]) == plain
    assert detector.card.preprocessing == store.config
    records = json.loads((out / "training.json").read_text())["records"]
    assert [record["epoch"] for record in records] == list(range(1, 6))
    assert records[-1]["loss"] < records[0]["loss"]
    assert {"val_clean_auc", "val_robust_auc", "images_per_second", "eta_seconds"} <= set(records[0])
    assert {record["crops"] for record in records} == {36}
    assert seen[-1].record == seen[-1].latest == records[-1]
    assert seen[-2].latest == records[-2]
    assert all(item.loss is not None and item.eta_seconds >= 0 for item in seen)
    with (out / "metrics.csv").open(newline="") as stream:
        assert [float(row["loss"]) for row in csv.DictReader(stream)] == [item["loss"] for item in records]
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
    card = Path(baseline / "detector.json")
    text = card.read_text().replace('"train0"', '"elsewhere"')
    card.write_text(text)
    again = load_detector(train(recipe, store, tmp_path / "again", initial=baseline, device="cpu"))
    assert again.card is not None
    assert {"elsewhere", "train0"} <= set(again.card.provenance["training_groups"])
    with pytest.raises(ConfigError, match="give a baseline"):
        train(recipe, store, tmp_path / "none", device="cpu")
    other = recipe.override(["model.backbone=resnet18"])
    with pytest.raises(ConfigError, match="change the recipe's model"):
        train(other, store, tmp_path / "other", initial=baseline, device="cpu")
    with pytest.raises(ConfigError, match="give a detector's folder"):
        train(recipe, store, tmp_path / "none", initial=tmp_path / "nowhere", device="cpu")


def test_a_run_goes_on_from_its_own_initial_weights_only(
    plain: Recipe, robust: Recipe, store: CropStore, tmp_path: Path
) -> None:
    first = train(plain.override(["optimiser.epochs=1"]), store, tmp_path / "first", device="cpu")
    second = shutil.copytree(first, tmp_path / "second")
    weights = load_file(first / "weights.safetensors")
    weights["backbone.fc.bias"] += 1
    save_file(weights, second / "weights.safetensors")
    recipe = robust.override(["initialise_from_baseline=true", "checkpoint.every_steps=1"])

    def stop(progress: TrainingProgress) -> None:
        raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        train(recipe, store, out, initial=first, progress=stop, device="cpu")
    another = r"got another's: initial_weights '\w{64}', now '\w{64}'; choose another folder"
    with pytest.raises(ConfigError, match=another):
        train(recipe, store, out, initial=second, device="cpu", resume=True)
    train(recipe, store, out, initial=first, device="cpu", resume=True)
    with pytest.raises(ConfigError, match=r"finished detector: initial_weights '\w{64}', now"):
        train(recipe, store, out, initial=second, device="cpu", resume=True)
    train(recipe, store, out, initial=first, progress=stop, device="cpu", resume=True)


class Stop(Exception):
    """What an interrupted run raises."""


def test_resume_gives_what_an_uninterrupted_run_gives(
    robust: Recipe, store: CropStore, tmp_path: Path
) -> None:
    whole = train(robust, store, tmp_path / "whole", device="cpu")
    robust = robust.override(["checkpoint.every_steps=1"])

    def stop_in_second_epoch(progress: TrainingProgress) -> None:
        if progress.epoch == 1 and progress.record is None:
            raise Stop

    with pytest.raises(Stop):
        train(robust, store, tmp_path / "cut", progress=stop_in_second_epoch, device="cpu")
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    other = robust.override(["seed=5", "model.backbone=resnet18"])
    with pytest.raises(ConfigError, match=r"model.backbone 'resnet10t', now 'resnet18'; seed 0, now 5"):
        train(other, store, tmp_path / "cut", device="cpu", resume=True)
    steps: list[TrainingProgress] = []
    cut = train(robust, store, tmp_path / "cut", progress=steps.append, device="cpu", resume=True)
    assert [item.step for item in steps if item.record is None] == [5, 6]
    same_weights(whole, cut)
    again: list[TrainingProgress] = []
    train(robust, store, tmp_path / "cut", progress=again.append, device="cpu", resume=True)
    assert again == [], "a finished run was done again"
    with pytest.raises(ConfigError, match=r"finished detector: model.backbone .*; seed 0, now 5; choose"):
        train(other, store, tmp_path / "cut", device="cpu", resume=True)
    same_weights(whole, cut)
    elsewhere = robust.override(["data.residence=stream", "checkpoint.every_steps=null"])
    train(elsewhere, store, tmp_path / "cut", progress=again.append, device="cpu", resume=True)
    assert again == [], "how often a run was saved made it another one"
    (tmp_path / "cut" / "training.json").unlink()
    (tmp_path / "cut" / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(WorkFailed, match="delete it"):
        train(robust, store, tmp_path / "cut", device="cpu", resume=True)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from dfcore.data import CropStore
from dfcore.training import Recipe, train

def kill(progress):
    if progress.step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(int(sys.argv[5]))
recipe = Recipe.model_validate_json(sys.argv[1])
train(recipe, CropStore.open(Path(sys.argv[2])), Path(sys.argv[3]), progress=kill, device="cpu")
"""


def test_a_run_killed_in_mid_epoch_gives_bit_for_bit_the_same(
    robust: Recipe, store: CropStore, tmp_path: Path
) -> None:
    recipe = robust.override([
        "data.augmentation=wide", "data.residence=stream", "data.batch_size=4", "checkpoint.every_steps=2",
        "model.backbone=resnet10_narrow",
    ])  # fmt: skip
    whole = train(recipe.override(["checkpoint.every_steps=null"]), store, tmp_path / "whole", device="cpu")
    cut, steps = tmp_path / "cut", 9  # batches of an epoch
    killed = steps + 7
    command = [sys.executable, "-c", KILLED, recipe.model_dump_json(), store.path, cut]
    process = subprocess.run(
        [*command, str(killed), str(torch.get_num_threads())], capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    _, document = load_checkpoint(cut / "checkpoint.safetensors")
    assert (len(document["records"]), document["step"]) == (1, 6)
    seen: list[TrainingProgress] = []
    train(recipe, store, cut, progress=seen.append, device="cpu", resume=True)
    assert seen[0].step == killed, "it did not go on in mid-epoch"
    same_weights(whole, cut)
    assert losses(whole) == losses(cut)


def same_weights(first: Path, second: Path) -> None:
    expected, found = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in json.loads((out / "training.json").read_text())["records"]]


def test_checkpoints_come_by_time_and_know_how_crops_were_shuffled(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    recipe = plain.override(["checkpoint.every_seconds=1e-9"])

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 2:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, store, tmp_path / "out", progress=stop, device="cpu")
    tensors, document = load_checkpoint(tmp_path / "out" / "checkpoint.safetensors")
    assert document["step"] == 2
    assert "process.0/generator" in tensors
    # where crops lie is no part of the run's identity, but streamed ones come in another order
    with pytest.raises(ConfigError, match=r"set data.residence=memory"):
        train(recipe.override(["data.residence=stream"]), store, tmp_path / "out", device="cpu", resume=True)
    train(recipe.override(["data.residence=memory"]), store, tmp_path / "out", device="cpu", resume=True)


def test_a_loss_that_is_not_finite_is_not_saved(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = plain.override([
        "optimiser.learning_rate=1e30", "optimiser.gradient_clip=null", "checkpoint.every_steps=1",
        "data.batch_size=4", "optimiser.warmup_epochs=0",
    ])  # fmt: skip
    with pytest.raises(WorkFailed, match=r"learning.rate"):
        train(recipe, store, tmp_path / "out", device="cpu")
    path = tmp_path / "out" / "checkpoint.safetensors"
    tensors, _ = load_checkpoint(path)
    assert torch.isfinite(tensors["totals/loss"])
    batch = load_file(tmp_path / "out" / "bad_batch.safetensors")
    assert batch["images"].shape == (4, 3, 32, 32)
    assert all(torch.isfinite(value).all() for name, value in tensors.items() if name.startswith("model/"))


def test_trains_on_weighted_methods_and_all_augmentations(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    recipe = plain.override([
        "data.sampling=weighted", "data.method_weights={original: 2, board: 1}", "data.augmentation=wide",
        "optimiser.epochs=1",
    ])  # fmt: skip
    out = train(recipe, store, tmp_path / "out", device="cpu")
    document = json.loads((out / "training.json").read_text())
    assert document["residence"] == "memory"
    assert np.isfinite(document["records"][0]["loss"])


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


def test_initial_weights_that_nobody_asked_for_are_refused(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected no initial weights .* initialise_from_baseline=true"):
        train(plain, store, tmp_path / "out", initial=tmp_path, device="cpu")


def test_trains_on_few_crops_in_half_precision(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = plain.override(["optimiser.epochs=1", "data.max_train_crops=14", "precision=bf16-mixed"])
    (loss,) = losses(train(recipe, store, tmp_path / "out", device="cpu"))
    assert np.isfinite(loss)


def test_an_early_stop_keeps_the_best_weights_and_says_so(
    plain: Recipe, store: CropStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # steps too small to move a weight, and no batch statistics: no epoch is better than the first
    recipe = plain.override([
        "model.backbone=test_convnext", "optimiser.learning_rate=1e-30", "optimiser.epochs=9",
        "validation.patience=2",
    ])  # fmt: skip
    seen: list[TrainingProgress] = []
    out = train(recipe, store, tmp_path / "out", progress=seen.append, device="cpu")
    document = json.loads((out / "training.json").read_text())
    assert (document["best_epoch"], len(document["records"])) == (1, 3)
    assert document["stopped"].startswith("early stop: clean validation AUC has not risen for 2 epochs")
    assert seen[-1].stopped == document["stopped"]
    assert seen[-1].eta_seconds == 0
    assert document["stopped"] in caplog.text
