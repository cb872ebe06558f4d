from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from dfcore.data import CropStore, prepare, scan
from dfcore.data.parts import Part
from dfcore.data.workers import share
from dfcore.errors import WorkFailed
from tests.data.conftest import CONFIG


def test_a_worker_that_dies_is_tried_again_alone(
    store: CropStore, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []
    calls: list[int] = []

    def kill_one(done: int, total: int) -> None:
        calls.append(done)
        alive = multiprocessing.active_children()
        if done and not killed and alive:
            alive[0].kill()
            killed.append(done)

    with caplog.at_level(logging.WARNING, logger="dfcore.data.workers"):
        prepared = prepare(scan(folder), tmp_path / "out", CONFIG, workers=2, progress=kill_one)
    assert "ended with code -9" in caplog.text
    assert caplog.text.count("tried once more") == 1
    assert calls[-1] == 8
    assert prepared.digest == store.digest
    prepared.verify()


class _Poison(Part):
    """Its process dies as soon as it looks at it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (7,)


def test_a_worker_that_dies_twice_stops_the_run(tmp_path: Path, folder: Path) -> None:
    samples = scan(folder).samples
    with pytest.raises(WorkFailed, match=r"worker 1 of 1 ended with code 7 .*p\d__.*twice"):
        share([_Poison("x", samples)], folder, tmp_path, CONFIG, 1, lambda count: None)


def test_a_workers_error_is_not_tried_again(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "shards").write_text("in the way")
    part = Part("x", scan(folder).samples[-1:])
    with pytest.raises(WorkFailed, match="expected to write"):
        share([part], folder, tmp_path, CONFIG, 2, lambda count: None)
