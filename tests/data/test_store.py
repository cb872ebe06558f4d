from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dfcore.data import FAKE, REAL, CropStore
from dfcore.errors import CheckFailed, DataError
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
        assert (crops.labels[i], crops.video_ids[i]) == (row["label"], row["sample_id"])
        assert crops.labels[i] == (FAKE if "/swap/" in crops.video_ids[i] else REAL)


def test_filters(store: CropStore) -> None:
    assert set(store.select(split="val").group_ids) == {"folder:p1"}
    assert set(store.select(methods=["swap"]).labels) == {FAKE}
    assert (
        len(store.select(compression="original")) == len(store.select(compression=["original", "c23"])) == 24
    )
    with pytest.raises(DataError, match="there are"):
        store.select(compression="c40")


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


def test_verify_finds_an_altered_shard(store: CropStore, tmp_path: Path) -> None:
    store.verify()
    shutil.copytree(store.path, tmp_path / "copy")
    copy = CropStore.open(tmp_path / "copy")
    shard = next((tmp_path / "copy" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckFailed, match="SHA-256"):
        copy.verify()


def test_what_is_no_store_is_refused(store: CropStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finished crop store"):
        CropStore.open(tmp_path)
    header = json.loads((store.path / "store.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(store.path, copy)
    (copy / "store.json").write_text(json.dumps(header | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        CropStore.open(copy)
    (copy / "store.json").write_text("[]")
    with pytest.raises(DataError, match="got None"):
        CropStore.open(copy)
    (copy / "store.json").write_text(json.dumps(header))
    pq.write_table(store.index.drop(["blur"]), copy / "index.parquet")
    with pytest.raises(DataError, match="index columns"):
        CropStore.open(copy)
