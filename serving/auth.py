"""Bearer tokens from a file, and rate limits per identity."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

from dfcore.config import read_yaml
from dfcore.errors import ConfigError
from serving.settings import RateLimit

__all__ = ["RateLimiter", "TokenFile", "current_identity"]

logger = logging.getLogger(__name__)

current_identity: ContextVar[str] = ContextVar("identity", default="")
"""Who sent the request that this task answers; the door sets it."""

_HASHED = "sha256:"
_SHORTEST = 16
_LOOK_SECONDS = 1.0
_IDENTITIES = 10_000


class TokenFile:
    """Identities and their bearer tokens; read again when the file changes.

    The file is YAML: `{name: token}` or `{name: [token, token]}`, so that old and new can hold side by side
    while clients change over. A token is at least 16 characters, or `sha256:` and its digest, which keeps the
    tokens themselves out of the file. A broken new file is reported and leaves the old tokens in force.

    Args:
        path: the file; a mounted Kubernetes secret may be swapped under it.
        clock: seconds.

    Raises:
        ConfigError: the file is missing or no such document.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._state = self._stat()
        self._looked = clock()
        self._identities = _read(path)

    def identify(self, authorization: str) -> str | None:
        """Return whose token a header `Bearer TOKEN` carries; None if nobody's."""
        self._refresh()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        # looked up by its digest, so that the time it takes says nothing about the tokens
        return self._identities.get(hashlib.sha256(token.strip().encode()).hexdigest())

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            state = self._path.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino, state.st_size

    def _refresh(self) -> None:
        if self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        state = self._stat()
        if state == self._state:
            return
        self._state = state
        try:
            self._identities = _read(self._path)
        except ConfigError as error:
            logger.error("the old tokens stay in force: %s", error)


def _read(path: Path) -> dict[str, str]:
    document = read_yaml(path, "tokens", secret=True)
    if not isinstance(document, dict) or not document:
        raise ConfigError(f"expected {{name: token}} in {path}, got {type(document).__name__}")
    found: dict[str, str] = {}
    for name, tokens in document.items():
        for token in tokens if isinstance(tokens, list) else [tokens]:
            if not isinstance(token, str) or len(token) < _SHORTEST:
                # never the token itself: this text goes to a log
                raise ConfigError(
                    f"expected tokens of at least {_SHORTEST} characters for {name!r} in {path}"
                )
            hashed = token.removeprefix(_HASHED) if token.startswith(_HASHED) else None
            digest = hashed or hashlib.sha256(token.encode()).hexdigest()
            if found.setdefault(digest, str(name)) != str(name):
                raise ConfigError(f"expected a token of one identity only, {path} gives one to {name!r} too")
    return found


class RateLimiter:
    """A token bucket for each identity; the least recent of very many are forgotten.

    Args:
        limit: rate and burst.
        clock: seconds.
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, identity: str) -> int:
        """Take one request from an identity's bucket; return 0, or the seconds until there is one."""
        now = self._clock()
        left, since = self._buckets.pop(identity, (float(self._limit.burst), now))
        left = min(float(self._limit.burst), left + (now - since) * self._limit.per_second)
        allowed = left >= 1
        self._buckets[identity] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _IDENTITIES:
            self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) / self._limit.per_second)
