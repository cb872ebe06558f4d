"""Connections whose client has to name its request in time, and in few bytes; uvicorn waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.metrics import input_rejected

__all__ = ["patience"]

_HEAD_BYTES = 2**16
_REFUSALS = {
    408: (b"408 Request Timeout", "slow", b"expected the headers within body_seconds, got a part"),
    431: (b"431 Request Header Fields Too Large", "too_large", b"expected headers of at most 65536 bytes"),
}
_HEAD = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


def patience(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with limits on headers.

    Args:
        seconds: how long a client may take from connecting, or from a request's first byte, to the end of
            its headers.
    """
    return type("Patient", (_Patient,), {"seconds": seconds})


class _Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # a class chosen by what is installed
    seconds: ClassVar[float]
    _timer: asyncio.TimerHandle | None = None
    _received = 0
    _known: Any = None  # the request before the one that is waited for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        # of a request that was answered before it was whole: these bytes are nobody's headers
        rest = self._rest_of_body
        super().data_received(data)
        if self._timer is None:
            return
        if self.cycle is not self._known:
            self._stop()
        elif not rest:
            self._received += len(data)
            if self._received > _HEAD_BYTES:
                self._refuse(431)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    @property
    def _rest_of_body(self) -> bool:
        return self.cycle is not None and bool(self.cycle.more_body)

    def _wait(self) -> None:
        self._known, self._received = self.cycle, 0
        self._timer = self.loop.call_later(self.seconds, self._refuse, 408)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        self._stop()
        if self._rest_of_body:
            self.transport.close()
        elif not self.transport.is_closing():
            line, reason, text = _REFUSALS[status]
            input_rejected.labels(reason).inc()
            body = b'{"error": "%s"}' % text
            self.transport.write(_HEAD % (line, len(body)) + body)
            self.transport.close()
