from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfcore.data import CropStore
from dfcore.defences import PGDAdversarialTraining
from dfcore.models import DetectorConfig
from dfcore.training import DataConfig, OptimiserConfig, Recipe, ValidationConfig
from tests.data.crop_stores import write_shards

SIZE = 32
MakeStore = Callable[..., CropStore]


def write_store(path: Path, *, labels: tuple[int, ...] = (0, 1), real_share: int = 1) -> CropStore:
    """A small store: fakes carry a coarse checkerboard; no face has landmarks."""
    rng = np.random.default_rng(0)
    board = ((np.indices((SIZE, SIZE)) // 4).sum(0) % 2 * 60)[..., None]
    rows: list[dict[str, object]] = []
    images = []
    for split, videos in (("train", 12), ("val", 8), ("test", 2)):
        for video in range(videos):
            label = labels[video % len(labels)] if video % (real_share + 1) else 0
            for frame in range(3):
                image = rng.normal(rng.uniform(60, 160), 12, (SIZE, SIZE, 3)) + label * board
                images.append(image.clip(0, 255).astype(np.uint8))
                rows.append({
                    "sample_id": f"made/{label}/raw/{split}{video}", "split": split, "label": label,
                    "method": "board" if label else "original", "group_id": f"{split}{video}",
                    "frame_index": frame, "timestamp": float(frame),
                })  # fmt: skip
    return write_shards(path, np.stack(images), rows, per_shard=20)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    return write_store(tmp_path_factory.mktemp("store") / "crops")


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    return lambda **options: write_store(tmp_path / "crops", **options)


@pytest.fixture
def plain() -> Recipe:
    return Recipe(
        name="tiny",
        model=DetectorConfig(backbone="resnet10t", image_size=SIZE, drop_rate=0.1),
        data=DataConfig(batch_size=12),
        optimiser=OptimiserConfig(learning_rate=2e-3, epochs=3, warmup_epochs=0.5),
        validation=ValidationConfig(steps=2, crops=16),
    )


@pytest.fixture
def robust(plain: Recipe) -> Recipe:
    defence = PGDAdversarialTraining(epsilon=2 / 255, step_size=1 / 255, steps=2, warmup_epochs=1)
    optimiser = plain.optimiser.model_copy(update={"epochs": 2, "ema_decay": 0.9})
    return plain.model_copy(update={"name": "tiny_robust", "defence": defence, "optimiser": optimiser})
