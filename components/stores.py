"""The test crops of several stores, by the data set's name."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = ["test_crops"]


def test_crops(stores: list[Path], frames_per_video: int) -> tuple[dict[str, "Crops"], list[str]]:
    """Read the test split of each store.

    Args:
        stores: crop stores, each of one data set.
        frames_per_video: at most this many crops of each video.

    Returns:
        The crops by data set, and the stores' digests.

    Raises:
        DataError: no crop store, or one without a test split.
    """
    from dfcore.data import CropStore

    corpora, digests = {}, []
    for path in stores:
        store = CropStore.open(path)
        corpora[str(store.index["dataset"][0].as_py())] = store.select(
            split="test", max_frames_per_video=frames_per_video
        )
        digests.append(store.digest)
    return corpora, digests
