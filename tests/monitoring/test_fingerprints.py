"""Query fingerprints: what they hash, what they remember, which searches they notice."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data, transform
from torch import nn

from dfcore.attacks import build_attack
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import DetectorConfig, build_detector
from dfcore.monitoring import FingerprintConfig, Fingerprints, MemoryStore
from dfcore.monitoring.fitting import to_bytes
from dfcore.preprocessing import h264_roundtrip, jpeg_roundtrip

SALT = b"a secret of sixteen bytes"
FACE = np.ascontiguousarray(data.astronaut()[32:160, 160:288])


class Asked(nn.Module):
    """A detector that keeps its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = build_detector(
            DetectorConfig(backbone="resnet10_narrow", image_size=64), seed=1
        ).eval()
        self.queries: list[np.ndarray] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.queries.append(to_bytes(images)[0])
        found: torch.Tensor = self.detector(images)
        return found


@pytest.fixture(scope="module")
def search() -> list[np.ndarray]:
    """The queries of a Square attack on a face."""
    torch.set_num_threads(1)
    asked = Asked()
    small = torch.from_numpy(cv2.resize(FACE, (64, 64), interpolation=cv2.INTER_AREA))
    image = small.permute(2, 0, 1)[None].float() / 255
    square = build_attack({"kind": "square", "epsilon": "8/255", "queries": 200})
    square(asked, image, torch.tensor([1]), generator=torch.Generator().manual_seed(0))
    return asked.queries


def moving_person(count: int) -> list[np.ndarray]:
    """Consecutive frames of a person who moves a little, as a real H.264 clip with a camera's noise."""
    rng = np.random.default_rng(0)
    frames = []
    for step in range(count):
        move = transform.SimilarityTransform(
            rotation=0.02 * np.sin(step / 5), translation=(2 * np.sin(step / 7), step / 10)
        )
        moved = transform.warp(FACE, move, mode="edge") * 255 + rng.normal(0, 2, FACE.shape)
        frames.append(np.clip(moved, 0, 255).astype(np.uint8))
    return list(h264_roundtrip(np.stack(frames), 23))


def test_a_square_attack_is_noticed_within_a_hundred_queries(search: list[np.ndarray]) -> None:
    prints = Fingerprints(salt=SALT)
    verdicts = [prints.observe(query) for query in search]
    assert len(search) > 190
    assert 50 <= [verdict.alarm for verdict in verdicts].index(True) + 1 <= 100
    assert verdicts[-1].alarm


def test_a_search_sent_as_jpeg_is_noticed_too(search: list[np.ndarray]) -> None:
    prints = Fingerprints(salt=SALT)
    sent = [jpeg_roundtrip(query[None], 90)[0] for query in search[:120]]
    assert any(prints.observe(query).alarm for query in sent)


def test_frames_of_one_person_are_no_search() -> None:
    prints = Fingerprints(salt=SALT)
    verdicts = [prints.observe(frame) for frame in moving_person(80)]
    alike = [verdict.overlap >= prints.config.overlap for verdict in verdicts]
    assert np.mean(alike) <= 0.1  # this photograph is smooth; a camera's frames are told apart better
    assert max(verdict.run for verdict in verdicts) <= 10
    assert not any(verdict.alarm for verdict in verdicts)


def test_the_same_image_again_is_no_search() -> None:
    prints = Fingerprints(salt=SALT)
    verdicts = [prints.observe(FACE) for _ in range(60)]
    assert verdicts[-1].overlap == 1
    assert {verdict.run for verdict in verdicts} == {1}


def test_clients_are_compared_apart(search: list[np.ndarray]) -> None:
    prints = Fingerprints(salt=SALT)
    alarms = [prints.observe(query, f"client-{turn % 4}").alarm for turn, query in enumerate(search[:150])]
    assert not any(alarms)
    together = Fingerprints(salt=SALT)
    assert any(together.observe(query).alarm for query in search[:150])


def test_hashes_are_of_every_window_that_is_not_flat() -> None:
    """Against windows cut out one by one: equal windows have equal hashes, different ones different."""
    config = FingerprintConfig(side=16, window=3, step=20, keep=10_000)
    prints = Fingerprints(config, salt=SALT)
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(0, 256, (16, 16, 1), dtype=np.uint8), 3, axis=2)
    image[:8] = 70  # flat
    image[8:12, 8:12] = image[12:16, 12:16]
    steps = (image[:, :, 0].astype(int) + prints._offset) // 20
    windows = {
        steps[row : row + 3, column : column + 3].tobytes()
        for row in range(14) for column in range(14)
        if np.ptp(steps[row : row + 3, column : column + 3])
    }  # fmt: skip
    assert len(prints._hash(image, "")) == len(windows)


def test_salt_and_client_decide_every_hash() -> None:
    one, other = Fingerprints(salt=SALT), Fingerprints(salt=SALT[::-1])
    assert np.array_equal(one._hash(FACE, ""), Fingerprints(salt=SALT)._hash(FACE, ""))
    assert not np.intersect1d(one._hash(FACE, ""), other._hash(FACE, "")).size
    assert not np.intersect1d(one._hash(FACE, ""), one._hash(FACE, "me")).size
    assert len(hashlib.blake2b(SALT).digest()) == 64  # a salt may be longer than blake2b's own


def test_plain_images_are_not_compared() -> None:
    prints = Fingerprints(salt=SALT)
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    assert [prints.observe(grey + step).run for step in np.arange(3, dtype=np.uint8)] == [1, 1, 1]


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_memory_forgets_after_the_expiry() -> None:
    clock = Clock()
    store = MemoryStore(1024, 10, clock)
    prints = Fingerprints(FingerprintConfig(expiry=10), SALT, store)
    noisy = [FACE.copy() for _ in range(4)]
    for step, image in enumerate(noisy):
        image[20 * step : 20 * step + 16, :16] //= 2
    assert [prints.observe(image).run for image in noisy[:2]] == [1, 2]
    clock.now = 9.0
    assert prints.observe(noisy[2]).run == 3
    clock.now = 25.0
    assert prints.observe(noisy[3]).run == 1


def test_memory_is_bounded_and_the_latest_win() -> None:
    clock = Clock()
    store = MemoryStore(64, 1e6, clock)
    size = store.bytes
    rng = np.random.default_rng(0)
    for turn in range(50):
        clock.now = float(turn)
        hashes = rng.integers(1, 2**63, 16, dtype=np.uint64)
        store.remember(hashes, turn + 1, turn)
    assert store.bytes == size <= 64 * 24
    assert (store.recall(hashes).queries == 50).any(axis=1).mean() > 0.5
    one = hashes[:1]
    for query in range(100, 110):
        clock.now += 1
        store.remember(one, query, query)
    assert sorted(store.recall(one).queries[0].tolist()) == [106, 107, 108, 109]
    store.remember(one, 109, 7)  # known: no second place
    found = store.recall(one)
    assert sorted(found.queries[0].tolist()) == [106, 107, 108, 109]
    assert 7 in found.runs[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"salt": b"short"}, "at least 16 bytes"),
        ({"config": FingerprintConfig(side=16, window=16)}, "window below the side"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fingerprints(**arguments)


def test_refuses_other_images() -> None:
    with pytest.raises(ShapeError, match="uint8"):
        Fingerprints().observe(FACE.astype(np.float32))
