"""`rampart train` itself; the engine has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfcore.errors import ConfigError
from rampart.train import train
from tests.training.conftest import write_store

SETTINGS = ["model.image_size=32", "data.batch_size=12", "optimiser.epochs=2", "validation.crops=16"]


def test_a_dry_run_says_what_it_takes_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "crops")
    out = tmp_path / "out"
    train(
        "demo_baseline", tmp_path / "crops", out, device="cpu", dry_run=True, assignments=SETTINGS,
        as_json=True,
    )  # fmt: skip
    said = capsys.readouterr()
    assert "[train] expected: 6 steps of" in said.err
    document = json.loads(said.out)
    assert document["preflight"]["steps"] == 6
    assert document["recipe"]["name"] == "demo_baseline"
    assert not out.exists()


def test_a_run_says_where_it_stands_and_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "crops")
    out = tmp_path / "out"
    train("demo_baseline", tmp_path / "crops", out, device="cpu", assignments=SETTINGS, as_json=True)
    said = capsys.readouterr()
    assert "[train] epoch 1/2, step 1/6, loss" in said.err
    assert "[train] epoch 2/2 done: loss" in said.err
    assert json.loads(said.out)["model"] == str(out)


@pytest.mark.parametrize(
    ("file", "what"),
    [("detector.json", "a trained detector"), ("checkpoint.safetensors", "an interrupted run")],
)
def test_what_stands_in_the_folder_is_kept(tmp_path: Path, file: str, what: str) -> None:
    (tmp_path / file).write_text("hours of work")
    with pytest.raises(ConfigError, match=f"got a folder with {what}; choose another, or give --resume"):
        train("demo_baseline", tmp_path / "crops", tmp_path, device="cpu", assignments=SETTINGS)
