"""What one step is made of: parts, players, weight perturbation, the scaler, a bad loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfcore.data import CropStore
from dfcore.defences import TrainingState
from dfcore.errors import ConfigError, WorkFailed
from dfcore.training import Recipe, TrainingProgress, train
from dfcore.training.checkpoint import load_checkpoint
from dfcore.training.processes import join
from dfcore.training.resume import restore_run, save_run
from dfcore.training.run import Run, prepare
from dfcore.training.step import take_step
from tests.training.conftest import MakeStore
from tests.training.test_engine import Stop, losses, same_weights

NO_BATCH_NORM = ["model.backbone=test_convnext", "model.drop_rate=0"]


def made(recipe: Recipe, store: CropStore, out: Path) -> tuple[Run, TrainingState]:
    run = prepare(recipe, store, None, join("cpu", recipe), out)
    run.detector.train()
    draws = torch.Generator().manual_seed(0)
    return run, TrainingState(1.0, torch.ones(2), run.twin, draws, recipe.label_smoothing, run.players)


def test_parts_together_are_the_whole_batch(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    found = {}
    for parts in (1, 2, 3):
        recipe = plain.override([*NO_BATCH_NORM, f"optimiser.accumulate={parts}", "optimiser.epochs=2"])
        out = train(recipe, store, tmp_path / str(parts), device="cpu")
        found[parts] = losses(out), load_file(out / "weights.safetensors")
    for parts in (2, 3):
        assert found[parts][0] == pytest.approx(found[1][0], abs=1e-5)
        for name, value in found[1][1].items():
            torch.testing.assert_close(found[parts][1][name], value, rtol=1e-3, atol=1e-4)


def test_a_batch_without_a_crop_for_each_part_is_refused(
    plain: Recipe, make_store: MakeStore, tmp_path: Path
) -> None:
    recipe = plain.override([
        "data.sampling=natural", "data.last_batch=keep", "data.batch_size=35", "optimiser.accumulate=5",
    ])  # fmt: skip
    with pytest.raises(ConfigError, match=r"got one of 1 crops; use data.last_batch=drop"):
        train(recipe, make_store(), tmp_path / "out", device="cpu")


@pytest.mark.parametrize("mode", ["alternating", "joint"])
def test_a_game_goes_on_bit_for_bit_in_mid_epoch(
    plain: Recipe, store: CropStore, tmp_path: Path, mode: str
) -> None:
    recipe = plain.override([
        f"defence={{kind: dual_game, mode: {mode}, steps: 1, warmup_epochs: 1}}", "optimiser.accumulate=2",
        "weight_perturbation={gamma: 0.01, warmup_epochs: 0.5}", "label_smoothing=0.05",
        "optimiser.name=radam", "optimiser.epochs=2", "model.backbone=resnet10_narrow",
        "data.augmentation=light", "optimiser.ema_decay=0.9", "checkpoint.every_steps=1",
        "validation.steps=1",
    ])  # fmt: skip

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise Stop

    whole = train(recipe, store, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        train(recipe, store, tmp_path / "cut", progress=stop, device="cpu")
    tensors, document = load_checkpoint(tmp_path / "cut" / "checkpoint.safetensors")
    assert document["step"] == 2
    assert any(name.startswith("player.unet.network/") for name in tensors)
    assert any(name.startswith("player.unet.optimiser/") for name in tensors)
    cut = train(recipe, store, tmp_path / "cut", device="cpu", resume=True)
    same_weights(whole, cut)
    assert losses(whole) == losses(cut)


@pytest.mark.parametrize("kind", ["dual_game", "generative_game"])
def test_in_half_precision_a_player_paints_with_the_weights_that_it_has_now(
    plain: Recipe, store: CropStore, tmp_path: Path, kind: str
) -> None:
    recipe = plain.override([f"defence={{kind: {kind}}}", "precision=bf16-mixed"])
    run, state = made(recipe, store, tmp_path)
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
    with run.fabric.autocast():
        painted = recipe.defence.craft(images, labels, state)[-1]
    (player,) = run.players.values()
    with run.fabric.autocast():
        assert torch.equal(painted, player.attack(images, labels))


def test_in_half_precision_the_loss_sees_perturbed_weights(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    found = []
    for setting in ("null", "{gamma: 0.1}"):
        recipe = plain.override([
            f"weight_perturbation={setting}", "precision=bf16-mixed", *NO_BATCH_NORM,
        ])  # fmt: skip
        run, state = made(recipe, store, tmp_path)
        images, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
        found.append(float(take_step(run, images, labels, state, 1)[0]["loss"]))
    assert found[1] > found[0]


def test_perturbed_weights_change_the_run_and_only_after_the_warm_up(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    found = {}
    for name, setting in (
        ("none", "null"), ("on", "{gamma: 0.02}"), ("late", "{gamma: 0.02, warmup_epochs: 1}"),
    ):  # fmt: skip
        recipe = plain.override([
            f"weight_perturbation={setting}", "optimiser.epochs=2", "model.backbone=resnet10_narrow",
            "model.drop_rate=0",
        ])  # fmt: skip
        found[name] = losses(train(recipe, store, tmp_path / name, device="cpu"))
    assert found["late"][0] == found["none"][0]
    assert found["late"][1] != found["none"][1]
    assert found["on"][0] > found["none"][0]


def test_half_precision_scales_skips_and_counts(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = plain.override([
        "precision=16-mixed", "model.backbone=resnet10_narrow", "optimiser.epochs=2",
        "checkpoint.every_steps=1",
    ])  # fmt: skip

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise Stop

    whole = train(recipe, store, tmp_path / "whole", device="cpu")
    records = json.loads((whole / "training.json").read_text())["records"]
    assert all(record["skipped_steps"] == int(record["skipped_steps"]) for record in records)
    with pytest.raises(Stop):
        train(recipe, store, tmp_path / "cut", progress=stop, device="cpu")
    _, document = load_checkpoint(tmp_path / "cut" / "checkpoint.safetensors")
    assert document["scaler"]["scale"] > 0
    cut = train(recipe, store, tmp_path / "cut", device="cpu", resume=True)
    same_weights(whole, cut)


def test_a_step_whose_scaled_gradient_overflows_is_left_out(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    run, state = made(plain.override(["precision=16-mixed"]), store, tmp_path)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [value.clone() for value in run.detector.parameters()]
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
    for number in (1, 2):
        scalars, facts = take_step(run, images, labels, state, number)
        assert facts is not None
        assert (facts.skips, facts.healthy, float(scalars["skipped_steps"])) == (number, True, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, run.detector.parameters(), strict=True))
    assert run.scaler.get_scale() == 2.0**125
    save_run(run)
    again, _ = made(run.recipe, store, tmp_path)
    restore_run(again)
    assert (again.scaler.get_scale(), int(again.skips)) == (2.0**125, 2)


def test_a_bad_batch_moves_no_weight(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    run, state = made(plain, store, tmp_path)
    before = [value.clone() for value in run.detector.parameters()]
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(WorkFailed, match="loss nan in epoch 1, step 1"):
        take_step(run, images, labels, state, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, run.detector.parameters(), strict=True))
    assert torch.isnan(load_file(tmp_path / "bad_batch.safetensors")["images"]).sum() == 1


def test_a_lagged_guard_has_the_optimiser_leave_the_step_out(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    """As on a GPU: the fused optimiser reads a flag, and the host learns of it one step later."""
    run, state = made(plain, store, tmp_path)
    run.optimiser = torch.optim.AdamW(run.detector.parameters(), fused=True)
    run.guard.lagged = True
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
    assert take_step(run, images, labels, state, 1)[1] is None
    before = [value.clone() for value in run.detector.parameters()]
    take_step(run, torch.full_like(images, float("nan")), labels, state, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, run.detector.parameters(), strict=True))
    with pytest.raises(WorkFailed, match="epoch 1, step 2"):
        take_step(run, images, labels, state, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_goes_on_where_it_was(robust: Recipe, store: CropStore, tmp_path: Path) -> None:
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        recipe = robust.override([f"precision={precision}", "checkpoint.every_steps=1"])

        def stop(progress: TrainingProgress) -> None:
            if progress.step == 5:
                raise Stop

        with pytest.raises(Stop):
            train(recipe, store, tmp_path / precision, progress=stop, device="cuda")
        out = train(recipe, store, tmp_path / precision, device="cuda", resume=True)
        assert len(losses(out)) == 2
