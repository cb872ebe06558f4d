"""Why a request was refused."""

from __future__ import annotations

import re

from dfcore.errors import InvalidInput, MediaError, ShapeError

__all__ = ["RefusedInput", "RejectedInput", "reason_of"]


# how the decoders name a limit: a bomb is told apart from a file that is merely damaged
_LIMIT = re.compile(r"expected at most max_\w+=")


class RejectedInput(InvalidInput):
    """A request that does not fit; `reason` labels the metric."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedInput(RejectedInput):
    """A good request that the monitoring policy does not answer; a 403."""

    def __init__(self, message: str) -> None:
        super().__init__("attack", message)


def reason_of(error: InvalidInput) -> str:
    """Return the metric's label: one of a fixed set."""
    if isinstance(error, RejectedInput):
        return error.reason
    if isinstance(error, MediaError):
        return "too_large" if _LIMIT.search(str(error)) else "media"
    return "shape" if isinstance(error, ShapeError) else "malformed"
