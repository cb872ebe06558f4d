"""A small trained detector and a corpus with a faint, honest trace."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dfcore.attacks import FGSM, PGD, RandomNoise, Square
from dfcore.data import Crops
from dfcore.evaluation import SUITES, Evidence, Scenario, evaluate
from dfcore.models import Detector, DetectorConfig

SIZE = 24


class TinyBackbone(nn.Module):
    """Two convolutions with batch norm, a pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 1)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps(images)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = maps.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def make_crops(n: int, seed: int, prefix: str = "test") -> Crops:
    """Smooth faces-to-be; fakes carry a checkerboard of a few grey levels; four crops a video."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(n) // 4 % 2).astype(np.int64)
    coarse = torch.from_numpy(generator.random((n, 3, 4, 4), dtype=np.float32) * 0.6 + 0.2)
    smooth = nn.functional.interpolate(coarse, SIZE, mode="bilinear").permute(0, 2, 3, 1).numpy()
    board = np.where(np.indices((SIZE, SIZE)).sum(axis=0) % 2, 1, -1)[None, :, :, None] * 0.03
    noise = generator.normal(0, 0.01, smooth.shape)
    images = np.clip(smooth + board * labels[:, None, None, None] + noise, 0, 1)
    videos = np.array([f"{prefix}-{i // 4:03d}" for i in range(n)])
    kinds = np.array(["swap", "warp"])[np.arange(n) // 8 % 2]
    return Crops(
        images=(images * 255).round().astype(np.uint8),
        labels=labels,
        video_ids=videos,
        methods=np.where(labels == 1, kinds, "real"),
        compressions=np.array(["c23", "c40"])[np.arange(n) // 16 % 2],
        group_ids=np.char.add("group-", videos),
        landmarks=np.zeros((n, 5, 2), dtype=np.float32),
    )


def train(detector: Detector, crops: Crops, steps: int) -> Detector:
    images, labels = crops.tensor(), torch.from_numpy(crops.labels).float()
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.02)
    detector.train()
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(detector(images), labels).backward()
        optimiser.step()
    for parameter in detector.parameters():
        parameter.grad = None
    return detector.eval()


def build_tiny() -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Detector(DetectorConfig(backbone="tiny_for_tests", image_size=SIZE), TinyBackbone())


@pytest.fixture(scope="session")
def crops() -> Crops:
    return make_crops(48, seed=1)


@pytest.fixture(scope="session")
def trained() -> Detector:
    return train(build_tiny(), make_crops(48, seed=2, prefix="train"), steps=40)


@pytest.fixture
def detector(trained: Detector) -> Detector:
    """The trained one in eval; a test that changes it works on a copy."""
    return trained.eval()


STEPS = 8


def _pgd(level: int, **more: Any) -> Scenario:
    attack = PGD(epsilon=level / 255, step_size=min(1.0, 2.5 * level / 255 / STEPS), steps=STEPS)
    return Scenario(name=f"pgd_{level}", attack=attack, **more)


# the quick suite's attacks, with fewer steps
ATTACKS = (
    SUITES["quick"][0],
    Scenario(name="noise_8", attack=RandomNoise(epsilon=8 / 255)),
    Scenario(name="fgsm_2", attack=FGSM(epsilon=2 / 255)),
    _pgd(2),
    _pgd(8, builds_on=("pgd_2",)),
    _pgd(64, role="guard"),
    Scenario(name="square", role="guard", attack=Square(epsilon=8 / 255, queries=50)),
)
MODULE = sys.modules["dfcore.evaluation.evaluate"]  # the package's `evaluate` is the function
CLEAN = ATTACKS[:1]


class Wrapped(Detector):
    """A detector with something wrong in it."""

    def __init__(self, inner: Detector) -> None:
        super().__init__(inner.config, copy.deepcopy(inner.backbone))
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.spoil(super().forward(images), images)

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        del images
        return logits


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at intervals."""
    monkeypatch.setattr(MODULE, "_RESAMPLES", 10)


@pytest.fixture
def tripped(crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_resamples: None) -> Any:
    """Evaluate and return the names of the guards that trip; attacks are made on the detector itself."""

    def run(
        detector: Detector,
        suite: Sequence[Scenario] = ATTACKS,
        groups: list[str] | None = (),
        *,
        folded: bool = False,
    ) -> tuple[set[str], Evidence]:
        if not folded:
            monkeypatch.setattr(MODULE, "fold_batch_norm", lambda found: found)
        evidence = evaluate(
            detector, {"c": crops}, suite=suite, name="broken", out=tmp_path,
            training_groups=None if groups is None else list(groups),
        )  # fmt: skip
        assert evidence.valid == (not evidence.tripped())
        return {guard.name for guard in evidence.tripped()}, evidence

    return run
