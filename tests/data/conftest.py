from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import dfcore.data.parts as parts
from dfcore.data import CropStore, prepare, scan
from dfcore.preprocessing import PreprocessingConfig, encode_video
from tests.preprocessing.clips import moving_astronaut

CONFIG = PreprocessingConfig(frames_per_video=4, image_size=48)
SMALL_PARTS = {"_FEWEST": 1, "_MEAN": 2, "_MOST": 3}


def fill_folder(root: Path) -> None:
    """Three real and three fake videos over the splits, one without a face, one that is no video."""
    for number, split in enumerate(("train", "val", "test")):
        clip = moving_astronaut(8, shift=3 * number)
        encode_video(root / split / "real" / f"p{number}__a.mp4", clip)
        encode_video(root / split / "fake" / "swap" / f"p{number}__b.mp4", clip[:, :, ::-1])
    encode_video(root / "train" / "real" / "empty__a.mp4", np.zeros((4, 64, 64, 3), np.uint8))
    (root / "train" / "fake" / "broken__a.mp4").write_bytes(b"no video")


@pytest.fixture(scope="session", autouse=True)
def _small_parts() -> None:
    """Eight inputs make several parts, as a thousand do in life."""
    for name, value in SMALL_PARTS.items():
        setattr(parts, name, value)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fake-corpus")
    fill_folder(root)
    return root


@pytest.fixture(scope="session")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory, _small_parts: None) -> CropStore:
    return prepare(scan(folder), tmp_path_factory.mktemp("stores") / "store", CONFIG)


@pytest.fixture
def copied(store: CropStore, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(store.path, tmp_path / "copy"))
