"""Notice somebody who searches around one image: fingerprints of queries, kept for a while.

An attacker without the weights needs hundreds of nearly equal queries. Each query leaves a few salted hashes
of small windows; a query that shares most of them with an earlier one continues that one's run, and a long
run is a search. Hashes are kept, never pixels, and without the salt no image can be looked for among them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dfcore.config import Config
from dfcore.errors import ConfigError, ShapeError

__all__ = [
    "FingerprintConfig",
    "Fingerprints",
    "HashStore",
    "MemoryStore",
    "QueryVerdict",
    "Recalled",
]

Hashes = NDArray[np.uint64]

_LATEST = 4  # queries remembered for each hash
_FEWEST = 16  # different windows below which an image is too plain to tell from another
_SHORTEST_SALT = 16  # bytes
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # MurmurHash3's finaliser
_SHIFT = np.uint64(33)


class FingerprintConfig(Config):
    """How queries are compared.

    Attributes:
        side: images are compared as grey ones of this size, in pixels.
        window: side of a hashed window, in pixels.
        step: grey levels that count as one; larger forgives more noise, and more natural change too.
        keep: hashes kept of each query.
        overlap: share of hashes that two queries of one search have in common.
        alarm_after: queries in one run that are called a search.
        expiry: seconds for which a query is remembered.
        capacity: hashes remembered in one process (24 bytes each); in Redis only the expiry bounds them.
    """

    side: int = Field(default=64, ge=16)
    window: int = Field(default=6, ge=2)
    step: int = Field(default=50, ge=1, le=128)
    keep: int = Field(default=64, ge=_FEWEST)
    overlap: float = Field(default=0.5, gt=0, le=1)
    alarm_after: int = Field(default=50, ge=2)
    expiry: float = Field(default=3600.0, gt=0)
    capacity: int = Field(default=2**20, ge=64)


class QueryVerdict(NamedTuple):
    """What was noticed: the share of hashes in common with the nearest query, the run's length, an alarm."""

    overlap: float
    run: int
    alarm: bool


class Recalled(NamedTuple):
    """What is remembered of n hashes: queries uint64 (n, 4), 0 for none, and the length of their runs."""

    queries: Hashes
    runs: NDArray[np.uint32]


class HashStore(ABC):
    """Remembers which queries left a hash, for a while."""

    @abstractmethod
    def recall(self, hashes: Hashes) -> Recalled:
        """Return the latest queries that left these hashes (n,)."""

    @abstractmethod
    def remember(self, hashes: Hashes, query: int, run: int) -> None:
        """Note a query (not 0) and the length of its run under its hashes (n,)."""


class MemoryStore(HashStore):
    """A table of fixed size in this process; the oldest of a full row makes room.

    Args:
        capacity: hashes; rounded up to a power of two.
        expiry: seconds.
        clock: seconds that only grow.
    """

    def __init__(self, capacity: int, expiry: float, clock: Callable[[], float] = time.monotonic) -> None:
        rows = 1 << max(0, (capacity // _LATEST - 1).bit_length())
        self._expiry = expiry
        self._clock = clock
        self._lock = Lock()
        self._mask = np.uint64(rows - 1)
        self._hashes = np.zeros((rows, _LATEST), dtype=np.uint64)
        self._queries = np.zeros((rows, _LATEST), dtype=np.uint64)
        self._runs = np.zeros((rows, _LATEST), dtype=np.uint32)
        self._times = np.full((rows, _LATEST), -np.inf, dtype=np.float32)
        self._start = clock()

    def recall(self, hashes: Hashes) -> Recalled:
        """Return the latest queries that left these hashes (n,)."""
        rows = hashes & self._mask
        with self._lock:
            known = self._hashes[rows] == hashes[:, None]
            known &= self._times[rows] >= self._now() - self._expiry
            return Recalled(np.where(known, self._queries[rows], 0), np.where(known, self._runs[rows], 0))

    def remember(self, hashes: Hashes, query: int, run: int) -> None:
        """Note a query under its hashes (n,); one that is there already is only made younger."""
        rows = hashes & self._mask
        with self._lock:
            same = (self._hashes[rows] == hashes[:, None]) & (self._queries[rows] == np.uint64(query))
            oldest = self._times[rows].argmin(axis=1)
            ways = np.where(same.any(axis=1), same.argmax(axis=1), oldest)
            self._hashes[rows, ways] = hashes
            self._queries[rows, ways] = query
            self._runs[rows, ways] = run
            self._times[rows, ways] = self._now()

    @property
    def bytes(self) -> int:
        """Size of the table; it never grows."""
        return sum(table.nbytes for table in (self._hashes, self._queries, self._runs, self._times))

    def _now(self) -> float:
        return self._clock() - self._start


class Fingerprints:
    """Compares each query with those before it.

    Args:
        config: how.
        salt: secret of at least 16 bytes, the same in all replicas that share a store; by default a new one.
        store: where hashes are; by default in this process.

    Raises:
        ConfigError: the salt is too short, or the window larger than the image.

    Source: Li et al., "Blacklight: Scalable Defense for Neural Networks against Query-Based Black-Box
        Attacks" (USENIX Security 2022), with two-dimensional windows and runs instead of pairs.
    """

    def __init__(
        self,
        config: FingerprintConfig | None = None,
        salt: bytes | None = None,
        store: HashStore | None = None,
    ) -> None:
        self.config = config or FingerprintConfig()
        if self.config.window >= self.config.side:
            raise ConfigError(
                f"expected a window below the side of {self.config.side}, got {self.config.window}"
            )
        salt = secrets.token_bytes(_SHORTEST_SALT) if salt is None else salt
        if len(salt) < _SHORTEST_SALT:
            raise ConfigError(f"expected a salt of at least {_SHORTEST_SALT} bytes, got {len(salt)}")
        self._store = store or MemoryStore(self.config.capacity, self.config.expiry)
        self._key = hashlib.blake2b(salt, digest_size=32).digest()
        noise = hashlib.shake_256(self._key).digest(8 * (self.config.window**2 + 1))
        words = np.frombuffer(noise, dtype=np.uint64)
        self._factors = (words[1:] | np.uint64(1)).reshape(self.config.window, self.config.window)
        # an attacker can't place pixels at the borders of steps whose place is secret
        self._offset = int(words[0] % np.uint64(self.config.step))

    def observe(self, image: NDArray[np.uint8], client: str = "") -> QueryVerdict:
        """Compare a query with the earlier ones, and remember it.

        The same image again is no search, and leaves the run as it is.

        Args:
            image: uint8 (H, W, 3) RGB: the face crop (whole frames of a video share their background).
            client: queries are only compared within one client; "" compares with everyone's.

        Raises:
            ShapeError: another shape or type.
            WorkFailed: the store does not answer.
        """
        hashes = self._hash(image, client)
        if len(hashes) < _FEWEST:
            return QueryVerdict(0.0, 1, False)
        digest = hashlib.blake2b(image.tobytes(), digest_size=8, key=self._key, person=b"query")
        digest.update(client.encode())
        query = int.from_bytes(digest.digest(), "little") | 1
        share, run = self._compare(self._store.recall(hashes), query)
        self._store.remember(hashes, query, run)
        return QueryVerdict(share, run, run >= self.config.alarm_after)

    def _compare(self, known: Recalled, query: int) -> tuple[float, int]:
        """Return the largest share of hashes in common with one query, and the length of the run with it."""
        queries, places = np.unique(known.queries, return_inverse=True)
        places = places.ravel()
        shares = np.bincount(places, minlength=len(queries)) / len(known.queries)
        shares[queries == 0] = 0
        runs = np.zeros(len(queries), dtype=np.int64)
        np.maximum.at(runs, places, known.runs.ravel().astype(np.int64))
        share = float(shares.max())
        if (same := queries == np.uint64(query)).any():
            return share, int(runs[same][0])
        # the longest run that is near enough, not the nearest: a search returns to its best point
        return share, 1 + int(runs[shares >= self.config.overlap].max(initial=0))

    def _hash(self, image: NDArray[np.uint8], client: str) -> Hashes:
        """Return the smallest distinct hashes of windows that are not flat, at most `keep`, ascending."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ShapeError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
        side, window = self.config.side, self.config.window
        grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (side, side), interpolation=cv2.INTER_AREA)
        steps = (grey.astype(np.uint16) + self._offset) // self.config.step
        places = side - window + 1
        words = steps.astype(np.uint64) + np.uint64(1)
        sums = np.zeros((places, places), dtype=np.uint64)
        for row in range(window):
            for column in range(window):
                sums += self._factors[row, column] * words[row : row + places, column : column + places]
        kernel = np.ones((window, window), dtype=np.uint8)
        narrow = steps.astype(np.uint8)
        varied = cv2.dilate(narrow, kernel) != cv2.erode(narrow, kernel)
        first = window // 2  # OpenCV's anchor
        own = hashlib.blake2b(client.encode(), digest_size=8, key=self._key, person=b"client").digest()
        found = sums[varied[first : first + places, first : first + places]]
        found = found ^ np.frombuffer(own, dtype=np.uint64)[0]
        for factor in _MIX:
            found = (found ^ (found >> _SHIFT)) * factor
        return np.unique(found ^ (found >> _SHIFT))[: self.config.keep]
