from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dfcore.data import CropStore, prepare, scan
from dfcore.errors import DataError
from dfcore.preprocessing import encode_video
from tests.data.conftest import CONFIG, fill_folder
from tests.preprocessing.clips import moving_astronaut


def _outcomes(path: Path) -> dict[str, str]:
    rows = pq.read_table(path / "report.parquet").to_pylist()
    return {row["sample_id"].rpartition("/")[2]: row["outcome"] for row in rows}


def test_every_input_has_an_outcome(store: CropStore) -> None:
    outcomes = _outcomes(store.path)
    assert outcomes.pop("empty__a.mp4") == "no_face"
    assert outcomes.pop("broken__a.mp4") == "unreadable"
    assert set(outcomes.values()) == {"ok"}
    assert len(outcomes) == 6
    assert len(store) == 24
    row = store.index.to_pylist()[0]
    assert row["crop_id"] == f"{row['sample_id']}#{row['frame_index']}"
    assert row["confidence"] >= 0.9
    assert row["face_size"] >= 40
    assert row["blur"] > 0


def test_a_second_call_does_no_work(store: CropStore, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    started = time.perf_counter()
    again = prepare(scan(folder), store.path, CONFIG)
    assert time.perf_counter() - started < 1
    assert again.digest == store.digest
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_a_broken_off_run_goes_on_and_gives_the_same_store(
    store: CropStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["dfcore.data.prepare"]  # the package's attribute is the function
    monkeypatch.setattr(module, "_SHARD_SAMPLES", 3)
    monkeypatch.setattr(module, "_BATCH_SAMPLES", 2)
    calls: list[tuple[int, int]] = []

    class Stop(Exception):  # what a user's interrupt looks like
        pass

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done >= 5:
            raise Stop

    with pytest.raises(Stop):
        prepare(scan(folder), tmp_path / "out", CONFIG, progress=stop)
    with pytest.raises(DataError, match="finished crop store"):
        CropStore.open(tmp_path / "out")
    kept = (tmp_path / "out" / "parts" / "00000.report.parquet").stat().st_mtime_ns
    resumed = prepare(scan(folder), tmp_path / "out", CONFIG, progress=lambda *done: calls.append(done))
    assert (tmp_path / "out" / "parts" / "00000.report.parquet").stat().st_mtime_ns == kept
    assert calls[-1] == (8, 8)
    assert (resumed.select().images == store.select().images).all()
    # measured by networks in other batches: equal up to rounding
    measured = ["box", "landmarks", "confidence", "face_size"]
    left_out = ["shard", "row", *measured]
    assert resumed.index.drop(left_out).equals(store.index.drop(left_out))
    for name in measured:
        pairs = (resumed.index[name].to_pylist(), store.index[name].to_pylist())
        np.testing.assert_allclose(*pairs, atol=1e-3)


def test_other_content_in_the_folder_is_refused(store: CropStore, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another store"):
        prepare(scan(folder), store.path, CONFIG.model_copy(update={"margin": 0.5}))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DataError, match="other files"):
        prepare(scan(folder), tmp_path, CONFIG)


def test_files_changed_since_the_scan_are_left_out(tmp_path: Path) -> None:
    fill_folder(tmp_path / "data")
    manifest = scan(tmp_path / "data")
    encode_video(tmp_path / "data" / "val" / "real" / "p1__a.mp4", moving_astronaut(3))
    (tmp_path / "data" / "test" / "real" / "p2__a.mp4").unlink()
    store = prepare(manifest, tmp_path / "out", CONFIG)
    outcomes = _outcomes(store.path)
    assert outcomes["p1__a.mp4"] == "altered"
    assert outcomes["p2__a.mp4"] == "missing"
    assert len(store) == 16


def test_a_corpus_without_a_face_is_refused(tmp_path: Path) -> None:
    encode_video(tmp_path / "data" / "real" / "a.mp4", np.zeros((2, 64, 64, 3), np.uint8))
    (tmp_path / "data" / "fake").mkdir()
    with pytest.raises(DataError, match="expected a face"):
        prepare(scan(tmp_path / "data"), tmp_path / "out", CONFIG)
