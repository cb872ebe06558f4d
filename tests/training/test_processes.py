"""Several processes: real ones, started by torchrun, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from dfcore.data import CropStore
from dfcore.defences import TrainingState
from dfcore.errors import ConfigError
from dfcore.training import Recipe, preflight, train
from dfcore.training.processes import average, join
from dfcore.training.run import prepare
from dfcore.training.step import take_step
from tests.training.test_engine import same_weights

WORKER = """
import json, shutil, sys
from pathlib import Path
import torch
from dfcore.data import CropStore, shards
from dfcore.defences import TrainingState
from dfcore.training import Recipe, train
from dfcore.training.processes import gather, join
from dfcore.training.run import prepare
from dfcore.training.step import take_step

recipe = Recipe.model_validate_json(sys.argv[1])
store, folder = CropStore.open(Path(sys.argv[2])), Path(sys.argv[3])
fabric = join("cpu", recipe)

def statistics_are_shared():
    run = prepare(recipe.override(["model.backbone=resnet10_narrow"]), store, None, fabric, folder)
    run.detector.train()
    before = run.detector.backbone.bn1.running_mean.clone()
    state = TrainingState(1.0, torch.ones(2), run.twin, torch.Generator().manual_seed(0))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(fabric.global_rank))
    take_step(run, images, torch.arange(6) % 2, state, 1)
    ranks = gather(dict(run.detector.state_dict()), fabric)
    same = all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    return same and not torch.equal(before, run.detector.backbone.bn1.running_mean)

def shuffled_in_windows():
    measured, shards.available_memory = shards.available_memory, lambda: 0 if fabric.global_rank else 2**40
    run = prepare(recipe, store, None, fabric, folder)
    shards.available_memory = measured
    return run.training.windowed

def keep(progress):
    if progress.step == 6:  # the checkpoint is that of step 6, in mid-epoch
        (folder / "cut").mkdir()
        shutil.copy(folder / "whole" / "checkpoint.safetensors", folder / "cut")

train(recipe, store, folder / "whole", progress=keep, device="cpu")
seen = []
train(recipe, store, folder / "cut", progress=lambda now: seen.append(now.step), device="cpu", resume=True)
said = {
    "shared": statistics_are_shared(), "windowed": shuffled_in_windows(), "resumed_at": seen[:1],
}
(folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(said))
"""

GAME = """
import sys
from pathlib import Path
from dfcore.data import CropStore
from dfcore.models import save_tensors
from dfcore.training import Recipe
from dfcore.training.processes import join
from tests.training.test_processes import game_gradients

recipe = Recipe.model_validate_json(sys.argv[1])
store, folder = CropStore.open(Path(sys.argv[2])), Path(sys.argv[3])
fabric = join("cpu", recipe)
for mode in ("alternating", "joint"):
    found = game_gradients(recipe.override([f"defence.mode={mode}"]), store, fabric, folder)
    save_tensors(folder / f"{mode}{fabric.global_rank}", found)
"""


def game_gradients(recipe: Recipe, store: CropStore, fabric: Fabric, out: Path) -> dict[str, torch.Tensor]:
    """Take a step on this process's share of six crops; return both sides' gradients."""
    run = prepare(recipe, store, None, fabric, out)
    run.detector.train()
    state = TrainingState(
        1.0, torch.ones(2), run.twin, torch.Generator().manual_seed(0), recipe.label_smoothing, run.players
    )
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    share = slice(fabric.global_rank, None, fabric.world_size)
    take_step(run, images[share], (torch.arange(6) // 2 % 2)[share], state, 1)
    sides = {"detector": run.detector, "attacker": run.players["unet"].network}
    return {
        f"{side}.{name}": value.grad
        for side, network in sides.items()
        for name, value in network.named_parameters()
        if value.grad is not None
    }


def torchrun(script: str, recipe: Recipe, store: CropStore, folder: Path) -> None:
    worker = folder / "worker.py"
    worker.write_text(script)
    found = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", worker,
            recipe.model_dump_json(), store.path, folder,
        ],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-9000:]


def test_two_processes_learn_what_one_does(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = plain.override([
        "model.backbone=test_convnext", "model.drop_rate=0", "data.sampling=natural", "data.last_batch=keep",
        "data.batch_size=10", "data.max_train_crops=35", "optimiser.epochs=3", "checkpoint.every_steps=1",
        "weight_perturbation={gamma: 0.01, warmup_epochs: 1}", "data.augmentation=none",
    ])  # fmt: skip
    torchrun(WORKER, recipe, store, tmp_path)
    one = _document(train(recipe, store, tmp_path / "one", device="cpu"))
    two = _document(tmp_path / "whole")
    assert (one["processes"], two["processes"]) == (1, 2)
    for expected, record in zip(one["records"], two["records"], strict=True):
        # the last batch's five crops are shared three to two
        assert record["crops"] == expected["crops"] == 35
        for name in ("loss", "val_loss", "val_clean_auc", "learning_rate"):
            assert record[name] == pytest.approx(expected[name], abs=1e-5), name
    same_weights(tmp_path / "whole", tmp_path / "cut")
    for rank, resumed_at in ((0, [7]), (1, [])):
        said = json.loads((tmp_path / f"rank{rank}.json").read_text())
        # where one has no room for the crops, all of them stream
        expected = {"shared": True, "windowed": True, "resumed_at": resumed_at}
        assert said == expected, "what processes hold differs"
    files = ["detector.json", "metrics.csv", "tensorboard", "training.json", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == files


def test_both_sides_of_a_game_learn_from_every_processs_crops(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    recipe = plain.override([
        "model.backbone=test_convnext", "model.drop_rate=0", "label_smoothing=0.05",
        "defence={kind: dual_game, steps: 1, random_start: false}",
    ])  # fmt: skip
    torchrun(GAME, recipe, store, tmp_path)
    for mode in ("alternating", "joint"):
        changed = recipe.override([f"defence.mode={mode}"])
        expected = game_gradients(changed, store, join("cpu", changed), tmp_path)
        assert any(name.startswith("attacker.") for name in expected)
        for rank in range(2):
            found = load_file(tmp_path / f"{mode}{rank}")
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def _document(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def test_batches_that_cannot_be_shared_are_refused(
    plain: Recipe, store: CropStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "test"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"),
        ("RANK", "3"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    recipe = plain.override(["data.batch_size=12", "optimiser.accumulate=2"])
    with pytest.raises(ConfigError, match=r"multiple of 4 processes times optimiser\.accumulate=2, got 12"):
        join("cpu", recipe)
    with pytest.raises(ConfigError, match="multiple of 4 processes"):
        preflight(plain.override(["data.batch_size=2"]), store, device="cpu", always=True)
    # a process looks ahead for itself, before it meets the others
    found = preflight(plain.override(["optimiser.epochs=10"]), store, device="cpu", always=True)
    assert found is not None
    assert (found.processes, found.steps) == (4, 30)


@pytest.mark.parametrize("alone", [True, False])
def test_a_machine_with_fewer_gpus_than_processes_is_refused(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "test"), ("LOCAL_WORLD_SIZE", "3"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "2"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="a GPU for each of 3 processes on this machine, got 2; lower"):
        join("auto", plain, alone=alone)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named(plain: Recipe, store: CropStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a GPU for --device cuda, got none.*use --device cpu"):
        train(plain, store, tmp_path / "out", device="cuda")


def test_one_process_has_nothing_to_average(plain: Recipe) -> None:
    value = torch.tensor([1.0, 3.0])
    average([value], 4, join("cpu", plain))
    assert value.tolist() == [1, 3]
