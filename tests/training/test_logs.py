from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dfcore.training.logs import METRICS_FILE, Logs

RECORDS = [
    {"epoch": 1.0, "loss": 0.5},
    {"epoch": 2.0, "loss": 0.25, "skipped_steps": 1.0},
]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / METRICS_FILE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_one_row_an_epoch_also_in_a_run_that_goes_on(tmp_path: Path) -> None:
    first = Logs(tmp_path)
    first.write(RECORDS[:1])
    first.close()
    again = Logs(tmp_path)
    for count in (1, 2):
        again.write(RECORDS[:count])
    again.close()
    assert rows(tmp_path) == [
        {"epoch": "1.0", "loss": "0.5", "skipped_steps": ""},
        {"epoch": "2.0", "loss": "0.25", "skipped_steps": "1.0"},
    ]


def test_curves_are_drawn_once(tmp_path: Path) -> None:
    for count in (1, 2):
        logs = Logs(tmp_path)
        logs.write(RECORDS[:count])
        logs.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [(point.step, point.value) for point in curves.Scalars("training/loss")] == [(1, 0.5), (2, 0.25)]
    assert [point.step for point in curves.Scalars("training/skipped_steps")] == [2]


def test_without_tensorboard_there_is_the_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    logs = Logs(tmp_path)
    logs.write(RECORDS)
    logs.close()
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]
