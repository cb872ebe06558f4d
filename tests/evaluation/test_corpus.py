"""Corpora: which crops are one video, and which slices are worth a figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfcore.data import Crops
from dfcore.errors import DataError
from dfcore.evaluation import Corpus
from dfcore.evaluation.corpus import check_corpus, slices, video_keys, whole_videos
from tests.evaluation.conftest import make_crops


@pytest.fixture(scope="module")
def many() -> Crops:
    return make_crops(240, seed=4)


def _qualities(crops: Crops) -> dict[str, np.ndarray]:
    n = len(crops)
    return {
        "face_size": np.where(np.arange(n) // 4 % 4 < 2, 50.0, 130.0).astype(np.float32),
        "blur": np.arange(n, dtype=np.float32)[::-1].copy(),
        "blockiness": np.full(n, np.nan, dtype=np.float32),
    }


def test_videos_of_one_name_and_two_methods_are_two(crops: Crops) -> None:
    keys = video_keys(crops)
    assert len(np.unique(keys)) == len(np.unique(crops.video_ids))
    # numbered as the names sort, so that resampling draws what it always drew
    assert np.array_equal(keys, np.unique(crops.video_ids, return_inverse=True)[1])
    alike = replace(crops, video_ids=np.full(len(crops), "000_003"))
    assert len(np.unique(video_keys(alike))) == len(np.unique(crops.methods))


def test_slices_by_face_size_and_quality(many: Crops) -> None:
    corpus = Corpus(many, _qualities(many))
    found = dict(slices(corpus))
    assert list(found) == [
        "all", "method=swap", "method=warp", "compression=c23", "compression=c40",
        "face_size=<64px", "face_size=128-256px", "sharpness=low", "sharpness=middle", "sharpness=high",
    ]  # fmt: skip
    assert (corpus.qualities["face_size"][found["face_size=<64px"]] == 50).all()
    thirds = [found[f"sharpness={name}"] for name in ("low", "middle", "high")]
    assert np.array_equal(sum(mask.astype(int) for mask in thirds), np.ones(len(many)))
    assert corpus.qualities["blur"][thirds[0]].max() < corpus.qualities["blur"][thirds[2]].min()


def test_slices_of_a_few_videos_are_left_out(many: Crops) -> None:
    size = np.full(len(many), 300.0, dtype=np.float32)
    size[:16] = 80.0  # two videos of each class
    assert not [name for name, _ in slices(Corpus(many, {"face_size": size})) if "80" in name]
    assert not [name for name, _ in slices(Corpus(many, {"face_size": size})) if "64-128" in name]
    same = np.full(len(many), 300.0, dtype=np.float32)  # one bin is no slice
    assert not [name for name, _ in slices(Corpus(many, {"face_size": same})) if "face_size" in name]


def test_qualities_are_part_of_the_digest(crops: Crops) -> None:
    first, second = (Corpus(crops, {"blur": np.full(len(crops), value, np.float32)}) for value in (1, 2))
    assert first.digest() != second.digest() != Corpus(crops).digest()


def test_unfit_corpora_are_refused(crops: Crops) -> None:
    with pytest.raises(DataError, match="expected blur of every crop of 'c'"):
        check_corpus("c", Corpus(crops, {"blur": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(DataError, match="reals and fakes in corpus 'c'"):
        check_corpus("c", Corpus(crops.subset(crops.labels == 1)))


def test_batches_hold_whole_videos(crops: Crops) -> None:
    order = np.random.default_rng(0).permutation(len(crops))
    mixed = crops.subset(order)
    keys = video_keys(mixed)
    batches = whole_videos(mixed, np.arange(len(mixed)), 10)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(mixed)))
    assert all(len(rows) <= 10 for rows in batches)
    homes = [set(keys[rows].tolist()) for rows in batches]
    assert sum(len(home) for home in homes) == len(np.unique(keys))
    assert len(whole_videos(mixed, np.arange(len(mixed)), 1)) == len(np.unique(keys))
