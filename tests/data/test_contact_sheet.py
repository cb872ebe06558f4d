from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dfcore.data import CropStore, contact_sheet
from dfcore.errors import DataError


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_sheet_shows_the_crops_with_their_labels(store: CropStore) -> None:
    few = _pixels(contact_sheet(store, store.rows(), count=6, title="tiny"))
    more = _pixels(contact_sheet(store, store.rows(), count=24))
    assert more.shape[0] > few.shape[0]
    crop = np.asarray(
        Image.fromarray(
            store.read(store.rows(split="train", max_frames_per_video=None)[2:3]).images[0]
        ).resize((144, 144), Image.Resampling.NEAREST)
    )
    tiles = [
        more[top : top + 144, left : left + 144]
        for top in range(34, more.shape[0] - 144, 186)
        for left in range(8, more.shape[1] - 144, 152)
    ]
    assert any((tile == crop).all() for tile in tiles)
    for colour in ((31, 119, 180), (214, 108, 10)):
        assert (few == colour).all(axis=2).any()


def test_slices_are_balanced_and_videos_differ(store: CropStore) -> None:
    from dfcore.data.contact_sheet import _balanced

    chosen = store.index.take(_balanced(store, store.rows(), 6))
    assert sorted(zip(chosen["label"].to_pylist(), chosen["split"].to_pylist(), strict=True)) == [
        (label, split) for label in (0, 1) for split in ("test", "train", "val")
    ]
    assert len(set(chosen["sample_id"].to_pylist())) == 6
    assert contact_sheet(store, store.rows(), count=12) == contact_sheet(store, store.rows(), count=12)


@pytest.mark.parametrize("count", [0, 5000])
def test_a_count_out_of_range_is_refused(store: CropStore, count: int) -> None:
    with pytest.raises(DataError, match="count of 1 to"):
        contact_sheet(store, store.rows(), count=count)
