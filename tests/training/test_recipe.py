from __future__ import annotations

from pathlib import Path

import pytest

from dfcore.data import CropStore
from dfcore.errors import ConfigError
from dfcore.training import Recipe, train


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimiser.epochs=3", "validation.patience=3"], "patience below optimiser.epochs"),
        (["data.batch_size=12", "optimiser.accumulate=5"], "multiple of optimiser.accumulate"),
        (["data.batch_size=12", "optimiser.accumulate=12"], "at least 2 crops in a part"),
        (["weight_perturbation={warmup_epochs: 3}"], "or it never begins"),
        (["optimiser.warmup_epochs=3"], "optimiser.warmup_epochs below optimiser.epochs"),
        (["defence={kind: trades, warmup_epochs: 4}"], "the full size is never reached, got 4 and 3"),
        (["initialise_from_baseline=true", "model.pretrained=true"], "expected one start"),
        (["initialise_from_baseline=true", "model.weights=x.safetensors"], "both and model.weights=x"),
        (["optimiser.schedule=steps"], "decay_every_epochs with schedule=steps"),
        (["optimiser.decay_every_epochs=5"], "set both or neither"),
        (["defence={kind: dual_game}", "precision=16-mixed"], "round to zero"),
        (["defence={kind: pgd_at, lipschitz: {}}", "precision=16-mixed"], "second derivatives round to zero"),
        (["optimiser.acumulate=2"], "did you mean 'accumulate'"),
        (["validation.epsilon=8"], "write 8/255 if you mean 8 grey levels"),
        (["label_smoothing=1.5"], "label_smoothing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    plain: Recipe, settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plain.override(settings)


def test_a_detector_that_the_defence_cannot_train_is_refused_before_work(
    plain: Recipe, store: CropStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="drop_rate 0 with AFSL"):
        train(plain.override(["defence={kind: afsl}"]), store, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_where_crops_lie_is_no_part_of_a_runs_identity(plain: Recipe) -> None:
    other = plain.override(["data.residence=stream", "checkpoint.every_steps=3"])
    assert other.identity() == plain.identity()
    assert plain.override(["optimiser.accumulate=2"]).identity() != plain.identity()
