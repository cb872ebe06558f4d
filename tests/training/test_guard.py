from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfcore.errors import WorkFailed
from dfcore.training import Recipe
from dfcore.training.guard import Guard, Suspect


def suspect(number: int = 1) -> Suspect:
    images = torch.full((5, 3, 8, 8), number / 10) + torch.arange(5).view(5, 1, 1, 1) / 100
    parts = [(images[::2] + 0.001,), (images[1::2] + 0.001,)]  # as a step splits its batch
    return Suspect(f"epoch 1, step {number}", images, torch.tensor([0, 0, 1, 1, 1]), parts)


def facts(loss: float = 0.5, healthy: float = 1, skips: float = 0, due: float = 0) -> torch.Tensor:
    return torch.tensor([loss, healthy, skips, due])


def test_a_bad_loss_stops_at_once_and_leaves_its_batch(plain: Recipe, tmp_path: Path) -> None:
    guard = Guard(plain, tmp_path, lagged=False)
    known = guard.note(facts(due=1), suspect())
    assert known is not None
    assert (known.loss, known.healthy, known.skips, known.due) == (0.5, True, 0, True)
    with pytest.raises(WorkFailed, match=r"loss nan in epoch 1, step 2 of tiny; its batch is in .*bad_batch"):
        guard.note(facts(float("nan"), 0), suspect(2))
    saved = load_file(tmp_path / "bad_batch.safetensors")
    assert torch.equal(saved["images"], suspect(2).images)
    assert torch.equal(saved["labels"], suspect(2).labels)
    assert torch.equal(saved["attacked.0"], suspect(2).images + 0.001), "they lie beside other images"


def test_a_lagged_guard_names_the_step_that_was_bad(plain: Recipe, tmp_path: Path) -> None:
    guard = Guard(plain, tmp_path, lagged=True, suffix="_1")
    assert guard.note(facts(), suspect(1)) is None
    known = guard.note(facts(float("inf"), 0), suspect(2))
    assert known is not None
    assert known.loss == 0.5
    with pytest.raises(WorkFailed, match="step 2"):
        guard.note(facts(), suspect(3))
    assert float(load_file(tmp_path / "bad_batch_1.safetensors")["images"].max()) == pytest.approx(0.24)


def test_what_is_unread_is_read_before_a_checkpoint(plain: Recipe, tmp_path: Path) -> None:
    guard = Guard(plain, tmp_path, lagged=True)
    guard.note(facts(healthy=0), suspect())
    with pytest.raises(WorkFailed, match=r"finite loss and gradient, got loss 0\.5"):
        guard.settle()


def test_a_scaler_that_leaves_out_every_step_stops_the_run(plain: Recipe, tmp_path: Path) -> None:
    guard = Guard(plain, tmp_path, lagged=False)
    guard.note(facts(skips=19), suspect())
    with pytest.raises(WorkFailed, match="20 steps in a row that overflowed"):
        guard.note(facts(skips=20), suspect())
