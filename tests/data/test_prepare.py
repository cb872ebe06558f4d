from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import dfcore.data.parts as parts
from dfcore.data import CropStore, Manifest, Sample, known_manifest, prepare, scan
from dfcore.data.parts import Part, PartWriter, plan_parts, temporary_name
from dfcore.errors import DataError, WorkFailed
from dfcore.preprocessing import encode_video
from tests.data.conftest import CONFIG, fill_folder
from tests.preprocessing.clips import moving_astronaut


def _outcomes(path: Path) -> dict[str, str]:
    rows = pq.read_table(path / "report.parquet").to_pylist()
    return {row["path"].rpartition("/")[2]: row["outcome"] for row in rows}


def _details(path: Path) -> dict[str, str]:
    rows = pq.read_table(path / "report.parquet").to_pylist()
    return {row["path"].rpartition("/")[2]: row["detail"] for row in rows}


def _times(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in sorted(path.rglob("*"))}


def test_every_input_has_an_outcome(store: CropStore) -> None:
    outcomes = _outcomes(store.path)
    assert outcomes.pop("empty__a.mp4") == "no_face"
    assert outcomes.pop("broken__a.mp4") in {"unreadable", "skipped"}
    assert set(outcomes.values()) == {"ok"}
    assert len(outcomes) == 6
    assert store.outcomes["ok"] == 6
    assert len(store) == 24
    row = store.index.to_pylist()[0]
    assert row["crop_id"] == f"{row['sample_id']}#{row['frame_index']}"
    assert row["confidence"] >= 0.9
    assert row["face_size"] >= 40
    assert row["blur"] > 0
    assert row["blockiness"] >= 0
    assert store.index["sample_id"].to_pylist() == sorted(store.index["sample_id"].to_pylist())


def test_short_and_damaged_inputs_say_how_much_there_was(tmp_path: Path) -> None:
    root = tmp_path / "data"
    encode_video(root / "train" / "real" / "whole__a.mp4", moving_astronaut(8))
    encode_video(root / "train" / "real" / "short__a.mp4", moving_astronaut(3))
    data = encode_video(None, moving_astronaut(24))
    (root / "train" / "fake").mkdir()
    (root / "train" / "fake" / "cut__a.mp4").write_bytes(data[: len(data) * 2 // 3])
    (root / "train" / "fake" / "notes.txt").write_text("no sample")
    half = np.concatenate((moving_astronaut(8), np.zeros((8, 160, 160, 3), np.uint8)))
    encode_video(root / "train" / "fake" / "leaves__b.mp4", half)
    prepared = prepare(scan(root), tmp_path / "out", CONFIG)
    outcomes, details = _outcomes(prepared.path), _details(prepared.path)
    assert outcomes["whole__a.mp4"] == "ok"
    assert details["whole__a.mp4"] == ""
    assert outcomes["short__a.mp4"] == "partial"
    assert details["short__a.mp4"].startswith("3 of 4 frames")
    assert outcomes["cut__a.mp4"] == "partial"
    assert outcomes["leaves__b.mp4"] == "ok"
    assert details["leaves__b.mp4"] == "a face in 2 of 4 frames"
    assert outcomes["notes.txt"] == "skipped"
    assert details["notes.txt"]
    prepared.verify()

    # Another file that is no sample: the report names it, no video is read again.
    before = _times(prepared.path / "shards")
    (root / "train" / "fake" / "more.txt").write_text("no sample")
    again = prepare(scan(root), tmp_path / "out", CONFIG)
    assert _outcomes(again.path)["more.txt"] == "skipped"
    assert again.digest == prepared.digest
    assert _times(prepared.path / "shards") == before


def test_a_second_call_does_no_work(store: CropStore, folder: Path) -> None:
    before = _times(store.path)
    started = time.perf_counter()
    again = prepare(scan(folder, known=known_manifest(store.path)), store.path, CONFIG)
    assert time.perf_counter() - started < 1
    assert again.digest == store.digest
    assert _times(store.path) == before


def test_touched_files_are_hashed_once_more_and_never_again(
    copied: Path, tmp_path: Path, folder: Path
) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "data", copy_function=shutil.copyfile))
    video = next(root.rglob("*.mp4"))
    os.utime(video, (1, 1))
    manifest = scan(root)
    prepare(manifest, copied, CONFIG)
    known = known_manifest(copied)
    assert known is not None
    assert known.samples == manifest.samples


def test_a_broken_off_run_goes_on_and_gives_the_same_store(
    store: CropStore, folder: Path, tmp_path: Path
) -> None:
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
    kept = _times(tmp_path / "out" / "parts")
    assert len(kept) > 2
    resumed = prepare(scan(folder), tmp_path / "out", CONFIG, progress=lambda *done: calls.append(done))
    assert kept.items() <= _times(tmp_path / "out" / "parts").items()
    assert calls[-1] == (8, 8)
    assert resumed.digest == store.digest
    assert resumed.index.equals(store.index)
    assert (resumed.select().images == store.select().images).all()


def test_runs_killed_at_any_point_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for number, place in enumerate(("real/p0__a", "fake/p1__a", "fake/p2__a")):
        encode_video(root / "train" / f"{place}.mp4", moving_astronaut(2, shift=3 * number))
    command = [sys.executable, "-m", "tests.data.killed_runs", str(root), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    killed, status = map(int, done.stdout.split())
    assert status == 0, done.stderr
    assert killed >= 6
    monkeypatch.setattr(parts, "_MOST", 1)
    store = prepare(scan(root), tmp_path / "undisturbed", CONFIG)
    finished = CropStore.open(out)
    finished.verify()
    assert finished.digest == store.digest
    assert sorted(path.name for path in (out / "shards").iterdir()) == sorted(store.shards)
    assert [path.name for path in out.rglob(".*")] == [".lock"]


def test_a_data_set_that_grew_adds_to_its_store(folder: Path, tmp_path: Path) -> None:
    root, out = Path(shutil.copytree(folder, tmp_path / "data")), tmp_path / "out"
    late = root / "test" / "fake" / "swap" / "p2__b.mp4"
    late.rename(tmp_path / "late.mp4")
    first = prepare(scan(root), out, CONFIG)
    assert len(first) == 20
    before = _times(out / "shards")
    (tmp_path / "late.mp4").rename(late)
    done: list[int] = []
    grown = prepare(scan(root), out, CONFIG, progress=lambda count, total: done.append(count))
    assert len(grown) == 24
    assert done[0] > 0, "what did not change was read again"
    assert set(before) & set(_times(out / "shards"))
    grown.verify()
    fresh = prepare(scan(root), tmp_path / "fresh", CONFIG)
    assert grown.digest == fresh.digest
    assert sorted(path.name for path in (out / "shards").iterdir()) == sorted(fresh.shards)
    late.unlink()
    with pytest.raises(DataError, match="only grows"):
        prepare(scan(root), out, CONFIG)


def test_another_split_reads_no_video_again(copied: Path, folder: Path) -> None:
    manifest = scan(folder)
    swapped = {"train": "val", "val": "train", "test": "test"}
    samples = [replace(sample, split=swapped[sample.split]) for sample in manifest.samples]
    before = _times(copied / "shards")
    prepared = prepare(Manifest(samples, folder, skipped=manifest.skipped), copied, CONFIG)
    assert _times(copied / "shards") == before
    assert set(prepared.select(split="train").group_ids) == {"folder:p1"}
    prepared.verify()


def test_other_content_in_the_folder_is_refused(copied: Path, folder: Path, tmp_path: Path) -> None:
    manifest = scan(folder)
    with pytest.raises(DataError, match="another store"):
        prepare(manifest, copied, CONFIG.model_copy(update={"margin": 0.5}))
    shutil.rmtree(copied / "parts")
    with pytest.raises(DataError, match="another store"):
        prepare(manifest, copied, CONFIG.model_copy(update={"margin": 0.5}))
    header = json.loads((copied / "store.json").read_text())
    (copied / "store.json").write_text(json.dumps(header | {"version": 1, "inputs": {}}))
    with pytest.raises(DataError, match="got version 1"):
        prepare(manifest, copied, CONFIG)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(DataError, match="other files"):
        prepare(manifest, other, CONFIG)
    with pytest.raises(DataError, match="at least one worker"):
        prepare(manifest, tmp_path / "new", CONFIG, workers=0)
    weights = CONFIG.model_copy(update={"detector_weights": tmp_path / "none.onnx"})
    with pytest.raises(DataError, match="weights"):
        prepare(manifest, tmp_path / "new", weights)


def test_two_runs_do_not_fill_one_folder(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(WorkFailed, match="another run"):
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
    assert _outcomes(tmp_path / "out") == {"a.mp4": "no_face"}


def _part() -> Part:
    return Part("0" * 20, (Sample("d/m/c/a", "d", "train", 0, "m", "c", "g", "a.mp4", "0" * 64),))


def _fill(out: Path, crops: int) -> None:
    row = {"crop_id": "a", "sample_id": "d/m/c/a", "box": [0.0] * 4, "landmarks": [0.0] * 10}
    image = np.zeros((48, 48, 3), np.uint8)
    with PartWriter(_part(), out, 48) as writer:
        for _ in range(crops):
            writer.add({"sample_id": "d/m/c/a", "outcome": "ok"}, [row], [image])
        writer.commit()


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_nothing_half_is_left(tmp_path: Path) -> None:
    with _files_of_at_most(20_000), pytest.raises(WorkFailed, match=r"shards/0+\.npy, got: File too large"):
        _fill(tmp_path, 40)
    assert not list((tmp_path / "shards").iterdir())
    (tmp_path / "shards").mkdir(exist_ok=True)
    temporary_name(_part().shard(tmp_path)).symlink_to("/dev/full")
    with pytest.raises(WorkFailed, match="No space left on device; free space"):
        _fill(tmp_path, 40)
    assert not list((tmp_path / "shards").iterdir())
    assert not _part().is_done(tmp_path)
    _fill(tmp_path, 40)
    assert _part().is_done(tmp_path)
    assert np.load(_part().shard(tmp_path)).shape == (40, 48, 48, 3)


def test_a_shard_that_was_cut_off_makes_its_part_open(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    os.truncate(_part().shard(tmp_path), 100)
    assert not _part().is_done(tmp_path)


def test_parts_depend_on_their_neighbours_alone() -> None:
    samples = [replace(_part().samples[0], sample_id=f"d/m/c/{i:04d}") for i in range(300)]
    whole = {part.name for part in plan_parts(samples, {})}
    assert len(whole) > 50
    without = {part.name for part in plan_parts(samples[:100] + samples[101:], {})}
    assert len(whole - without) <= 2
    assert not whole & {part.name for part in plan_parts(samples, {"image_size": 1})}
    assert [len(part.samples) for part in plan_parts(samples, {})] != []


def test_a_finished_store_loads_neither_torch_nor_pandas(store: CropStore, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dfcore.data import known_manifest, prepare, scan; "
        "from dfcore.data import CropStore; out = Path(sys.argv[2]); config = CropStore.open(out).config; "
        "prepare(scan(Path(sys.argv[1]), known=known_manifest(out)), out, config, workers=None); "
        "sys.exit(','.join({'torch', 'pandas'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(store.path)], check=True, timeout=120)
