from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dfcore.attacks import PGD
from dfcore.data import CropStore
from dfcore.errors import ConfigError
from dfcore.training import Recipe, preflight, train
from tests.training.test_engine import same_weights


def test_says_what_a_run_will_take(robust: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = robust.override(["optimiser.epochs=200", "optimiser.accumulate=2"])
    state = torch.get_rng_state()
    found = preflight(recipe, store, device="cpu", always=True)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state changed"
    assert found is not None
    assert (found.device, found.processes, found.steps) == ("cpu", 1, 600)
    assert found.total_seconds > 600 * found.step_seconds > 0
    assert 0 < found.peak_bytes < found.limit_bytes
    assert "600 steps of" in found.describe()
    assert found.document()["steps"] == 600


def test_a_small_run_is_not_measured(robust: Recipe, store: CropStore) -> None:
    assert preflight(robust, store, device="cpu") is None


def test_training_is_the_same_after_it(robust: Recipe, store: CropStore, tmp_path: Path) -> None:
    recipe = robust.override(["optimiser.epochs=1", "defence.warmup_epochs=0.5"])
    alone = train(recipe, store, tmp_path / "alone", device="cpu")
    preflight(recipe, store, device="cpu", always=True)
    after = train(recipe, store, tmp_path / "after", device="cpu")
    same_weights(alone, after)


@pytest.mark.parametrize("free", [-(2**50), 2**20])
def test_a_run_that_will_not_fit_is_refused(
    plain: Recipe, store: CropStore, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """A machine with little memory left; whether it shows by the small step or by the whole one."""
    # the package's attribute of this name is the function
    monkeypatch.setattr(sys.modules[preflight.__module__], "free_memory", lambda _device: free)
    with pytest.raises(ConfigError, match=r"needs about .* GiB; raise optimiser.accumulate .now 1"):
        preflight(plain.override(["data.batch_size=36"]), store, device="cpu", always=True)


def test_the_attack_of_validation_has_to_fit_too(
    plain: Recipe, store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no part of plain training, and in full precision it may need more."""
    sizes: list[int] = []
    craft = PGD.craft

    def watched(attack: PGD, detector: torch.nn.Module, images: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sizes.append(len(images))
        return craft(attack, detector, images, *rest, **more)

    monkeypatch.setattr(PGD, "craft", watched)
    module = sys.modules[preflight.__module__]
    monkeypatch.setattr(module, "peak_memory", lambda _device: 2**50 if sizes else 2**20)
    with pytest.raises(ConfigError, match=r"needs about .* GiB; raise optimiser.accumulate"):
        preflight(plain.override(["optimiser.accumulate=4"]), store, device="cpu", always=True)
    assert set(sizes) == {16}, "parts of a batch have it attack fewer at once"
    sizes.clear()
    monkeypatch.undo()
    monkeypatch.setattr(PGD, "craft", watched)
    recipe = plain.override(["optimiser.accumulate=6", "optimiser.epochs=1"])
    train(recipe, store, tmp_path / "out", device="cpu")
    assert sizes == [10, 6]


def test_settings_are_checked_as_for_training(plain: Recipe, store: CropStore) -> None:
    recipe = plain.model_copy(update={"initialise_from_baseline": True})
    with pytest.raises(ConfigError, match="give a baseline"):
        preflight(recipe, store, device="cpu", always=True)
