"""Query fingerprints that several replicas share, in Redis or a server that speaks its protocol."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from dfcore.errors import ConfigError, WorkFailed
from dfcore.monitoring.fingerprints import _LATEST, Hashes, HashStore, Recalled

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RedisStore"]

_ENTRY = struct.Struct("<QI")
_SECONDS = 0.25  # an answer is worth more than a fingerprint


class RedisStore(HashStore):
    """Keeps the latest queries of each hash in a list that expires.

    Replicas that answer at the same instant may both continue a run from the same length; the run then
    grows by one instead of two, and nothing else is lost.

    Args:
        url: `redis://HOST:PORT/DATABASE`, `rediss://…` or `unix://…`.
        expiry: seconds.
        prefix: of the keys.

    Raises:
        ConfigError: the address is none, or the `redis` package is missing.
    """

    def __init__(self, url: str, expiry: float, prefix: str = "rampart:queries:") -> None:
        try:
            from redis import Redis
        except ImportError as error:
            raise ConfigError(
                "expected the redis package, found none; run: pip install 'rampart[serving]'"
            ) from error
        try:
            self._client: Redis = Redis.from_url(
                url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
            )
        except ValueError as error:
            raise ConfigError(f"expected an address such as redis://HOST:6379/0, got: {error}") from error
        self._milliseconds = max(1, round(expiry * 1000))
        self._prefix = prefix.encode()

    def recall(self, hashes: Hashes) -> Recalled:
        """Return the latest queries that left these hashes (n,); one round trip.

        Raises:
            WorkFailed: the server does not answer.
        """
        queries = np.zeros((len(hashes), _LATEST), dtype=np.uint64)
        runs = np.zeros((len(hashes), _LATEST), dtype=np.uint32)
        answers = self._run([("LRANGE", self._name(one), 0, _LATEST - 1) for one in hashes])
        for row, entries in enumerate(answers):
            for column, entry in enumerate(entries):
                queries[row, column], runs[row, column] = _ENTRY.unpack(entry)
        return Recalled(queries, runs)

    def remember(self, hashes: Hashes, query: int, run: int) -> None:
        """Note a query under its hashes (n,); one round trip.

        Raises:
            WorkFailed: the server does not answer.
        """
        entry = _ENTRY.pack(query, run)
        commands: list[tuple[object, ...]] = []
        for one in hashes:
            name = self._name(one)
            # the same query again is moved to the front, not noted twice
            commands += [
                ("LREM", name, 0, entry),
                ("LPUSH", name, entry),
                ("LTRIM", name, 0, _LATEST - 1),
                ("PEXPIRE", name, self._milliseconds),
            ]
        self._run(commands)

    def _name(self, one: np.uint64) -> bytes:
        return self._prefix + int(one).to_bytes(8, "little")

    def _run(self, commands: list[tuple[object, ...]]) -> list[list[bytes]]:
        from redis import RedisError

        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # left bare
                found: list[list[bytes]] = pipeline.execute()
        except RedisError as error:
            raise WorkFailed(
                f"expected Redis to keep query fingerprints, got: {error}; start it or go without"
            ) from error
        return found
