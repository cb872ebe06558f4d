from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dfcore.data import FAKE, REAL, CropStore, Manifest
from dfcore.errors import CheckFailed, ConflictError, DataError
from dfcore.provenance import sha256_file
from dfcore.storage import open_store
from tests.data.conftest import CONFIG


def test_crops_agree_with_the_index(store: CropStore) -> None:
    crops = CropStore.open(store.path).select()
    assert store.config == CONFIG
    assert len(crops) == len(store) == 24
    assert crops.images.shape == (24, 48, 48, 3)
    assert crops.images.dtype == np.uint8
    assert crops.labels.dtype == np.int64
    assert crops.landmarks.shape == (24, 5, 2)
    for i, row in enumerate(store.index.to_pylist()):
        shard = np.load(store.path / "shards" / row["shard"])
        assert (crops.images[i] == shard[row["row"]]).all()
        assert (crops.landmarks[i].reshape(-1) == np.float32(row["landmarks"])).all()
        assert (crops.labels[i], crops.video_ids[i]) == (row["label"], row["sample_id"])
        assert crops.labels[i] == (FAKE if "/swap/" in crops.video_ids[i] else REAL)


def test_filters(store: CropStore) -> None:
    assert set(store.select(split="val").group_ids) == {"folder:p1"}
    assert set(store.select(methods=["swap"]).labels) == {FAKE}
    assert set(store.read(store.rows(labels=[REAL])).labels) == {REAL}
    assert (
        len(store.select(compression="original")) == len(store.select(compression=["original", "c23"])) == 24
    )
    with pytest.raises(DataError, match="there are"):
        store.select(compression="c40")


def test_rows_are_read_in_the_order_asked_for(store: CropStore) -> None:
    everything = store.select()
    rows = store.rows(split="train")[::-1]
    crops = store.read(rows)
    assert (crops.images == everything.images[rows]).all()
    assert (crops.video_ids == everything.video_ids[rows]).all()
    assert store.read(np.array([], np.int64)).images.shape == (0, 48, 48, 3)
    name = next(iter(store.shards))
    assert store.shard(name).dtype == np.uint8
    assert store.shard(name) is store.shard(name)


def test_limits_spread_frames_and_balance_labels(store: CropStore) -> None:
    thin = store.select(max_frames_per_video=2, max_videos=4)
    videos, counts = np.unique(thin.video_ids, return_counts=True)
    assert counts.tolist() == [2, 2, 2, 2]
    assert sorted("/swap/" in video for video in videos) == [False, False, True, True]
    everything = store.select()
    for video in videos:
        full = everything.images[everything.video_ids == video]
        assert (thin.images[thin.video_ids == video] == full[[1, 3]]).all()
    one = store.select(max_frames_per_video=1)
    assert len(one) == 6


def test_tensor_and_subset(store: CropStore) -> None:
    crops = store.select()
    images = crops.tensor("cpu", [3, 1])
    assert images.shape == (2, 3, 48, 48)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert torch.equal(images[1], torch.from_numpy(crops.images[1]).permute(2, 0, 1) / 255)
    assert crops.tensor().shape == (24, 3, 48, 48)
    fakes = crops.subset(crops.labels == FAKE)
    assert len(fakes) == 12
    assert set(fakes.labels) == {FAKE}
    assert crops.subset([5]).video_ids[0] == crops.video_ids[5]


def _flip_a_byte(copy: Path) -> None:
    shard = next((copy / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)


def _lose_a_shard(copy: Path) -> None:
    next((copy / "shards").iterdir()).unlink()


def _lose(name: str) -> Callable[[Path], None]:
    return lambda copy: (copy / name).unlink()


def _edit_header(**changes: Any) -> Callable[[Path], None]:
    def edit(copy: Path) -> None:
        header = json.loads((copy / "store.json").read_text())
        (copy / "store.json").write_text(json.dumps(header | changes))

    return edit


def _edit_table(
    name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> Callable[[Path], None]:
    """Change rows and record the file's new digest: only what they say is wrong."""

    def edit(copy: Path) -> None:
        path = copy / f"{name}.parquet"
        table = pq.read_table(path)
        rows = change(table.to_pylist())
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
        _record(copy)

    return edit


def _record(copy: Path) -> None:
    header = json.loads((copy / "store.json").read_text())
    header["files"] = {name: sha256_file(copy / name) for name in header["files"]}
    (copy / "store.json").write_text(json.dumps(header))


def _of_another_data_set(copy: Path) -> None:
    manifest = Manifest.read(copy / "manifest.parquet")
    Manifest(manifest.samples[:-1], manifest.root).write(copy / "manifest.parquet")
    _record(copy)


def _wider_shard(copy: Path) -> None:
    shard = next((copy / "shards").iterdir())
    np.save(shard, np.zeros((4, 50, 48, 3), np.uint8))


def _relabel(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rows[0] | {"label": 1 - rows[0]["label"]}, *rows[1:]]


def _move(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    others = {"train": "val", "val": "test", "test": "train"}
    return [rows[0] | {"split": others[rows[0]["split"]]}, *rows[1:]]


def _miscount(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"num_crops": row["num_crops"] + 1} for row in rows]


_DAMAGE: dict[str, Callable[[Path], None]] = {
    "does not have its SHA-256": _flip_a_byte,
    "npy is missing": _lose_a_shard,
    "manifest can't be read": _lose("manifest.parquet"),
    "report can't be read": _lose("report.parquet"),
    "is not that of what store.json lists": _edit_header(digest="0" * 64),
    "has no SHA-256 of report.parquet": _edit_header(files={}),
    "1 crop_ids are there twice": _edit_table("index", lambda rows: [*rows, rows[-1]]),
    "the index has 3 rows of it": _edit_table("index", lambda rows: rows[1:]),
    "has label": _edit_table("index", _relabel),
    "groups are in several splits": _edit_table("index", _move),
    "is not in the manifest": _of_another_data_set,
    "not what the store was made from": _of_another_data_set,
    "the report does not have every input once": _edit_table("report", lambda rows: rows[1:]),
    "counts other crops than the index": _edit_table("report", _miscount),
    "the report has the columns": lambda copy: pq.write_table(
        pq.read_table(copy / "report.parquet").drop(["detail"]), copy / "report.parquet"
    ),
    "does not name what the scan skipped": _edit_table(
        "report", lambda rows: [*rows, rows[0] | {"outcome": "skipped", "path": "x"}]
    ),
    "holds crops (50, 48, 3)": _wider_shard,
}


@pytest.mark.parametrize("said", _DAMAGE)
def test_verify_names_what_is_wrong(copied: Path, said: str) -> None:
    CropStore.open(copied).verify()
    _DAMAGE[said](copied)
    with pytest.raises(CheckFailed) as caught:
        CropStore.open(copied).verify()
    assert said in str(caught.value)


def test_what_is_no_store_is_refused(store: CropStore, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finished crop store"):
        CropStore.open(tmp_path)
    header = json.loads((copied / "store.json").read_text())
    (copied / "store.json").write_text(json.dumps(header | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        CropStore.open(copied)
    (copied / "store.json").write_text("[]")
    with pytest.raises(DataError, match="got None"):
        CropStore.open(copied)
    (copied / "store.json").write_text(json.dumps(header))
    pq.write_table(store.index.drop(["blur"]), copied / "index.parquet")
    with pytest.raises(DataError, match="index columns"):
        CropStore.open(copied)
    (copied / "index.parquet").unlink()
    with pytest.raises(DataError, match="finished crop store"):
        CropStore.open(copied)
    shutil.rmtree(copied / "shards")
    shutil.copy(store.path / "index.parquet", copied)
    with pytest.raises(DataError, match="expected the shard"):
        CropStore.open(copied).select()


def test_s3_gives_what_is_asked_for_and_checks_it(store: CropStore, s3_server: str, tmp_path: Path) -> None:
    uri = f"{s3_server}/stores/tiny"
    with pytest.raises(DataError, match="rampart data upload"):
        CropStore.open(uri, cache=tmp_path / "cache")
    store.upload(uri)
    remote = CropStore.open(uri, cache=tmp_path / "cache")
    assert remote.digest == store.digest
    assert not list(tmp_path.rglob("*.npy")), "a shard came before it was asked for"
    part = remote.select(split="val")
    assert (part.images == store.select(split="val").images).all()
    fetched = len(list(tmp_path.rglob("*.npy")))
    assert 0 < fetched < len(store.shards)
    remote.verify()
    assert len(list(tmp_path.rglob("*.npy"))) == len(store.shards)
    assert not list(tmp_path.rglob(".*.npy*"))
    with pytest.raises(DataError, match="in a folder"):
        remote.upload(uri)

    # What was altered there is refused, and not kept.
    name = f"shards/{next(iter(store.shards))}"
    objects = open_store(uri)
    objects.put(name, b"other pixels")
    with pytest.raises(CheckFailed, match="SHA-256"):
        CropStore.open(uri, cache=tmp_path / "second").select()
    assert not list((tmp_path / "second").rglob(Path(name).name))
    objects.close()


def test_an_upload_goes_on_and_never_replaces_another_store(
    store: CropStore, copied: Path, tmp_path: Path
) -> None:
    uri = (tmp_path / "bucket").as_uri()
    name = next(iter(store.shards))
    objects = open_store(uri)
    objects.put(f"shards/{name}", (store.path / "shards" / name).read_bytes())
    before = (tmp_path / "bucket" / "shards" / name).stat().st_mtime_ns
    store.upload(uri)
    store.upload(uri)
    assert (tmp_path / "bucket" / "shards" / name).stat().st_mtime_ns == before
    CropStore.open(uri, cache=tmp_path / "cache").verify()
    _edit_header(digest="0" * 64)(copied)
    with pytest.raises(ConflictError, match="another one"):
        CropStore.open(copied).upload(uri)
    _flip_a_byte(copied)
    with pytest.raises(CheckFailed, match="rampart data verify"):
        CropStore.open(copied).upload((tmp_path / "elsewhere").as_uri())
