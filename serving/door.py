"""The door in front of the model: who may come in, how often, with how much, and how slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from serving.auth import RateLimiter, TokenFile, current_identity
from serving.metrics import input_rejected, observe_failure
from serving.settings import ServerSettings

__all__ = ["Door", "Refusal", "Watch"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_SERVER_ERROR = 500
_PROBES = ("/", "/metrics", "/v2/health/live", "/v2/health/ready")


class Refusal(Exception):
    """A request that does not get as far as the model.

    Attributes:
        status: of HTTP.
        reason: labels the metric.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


class Watch:
    """Tokens and rates, for HTTP and gRPC alike.

    Args:
        settings: `tokens_file` and `rate_limit`.

    Raises:
        ConfigError: the tokens can't be read.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._tokens = TokenFile(settings.tokens_file) if settings.tokens_file else None
        self._rates = RateLimiter(settings.rate_limit) if settings.rate_limit else None

    def check(self, authorization: str, address: str) -> None:
        """Let a request pass, and note whose it is in `current_identity`.

        Args:
            authorization: the header, or "".
            address: of the peer; its identity where no tokens are asked for.

        Raises:
            Refusal: 401 without a valid token, 429 beyond the rate.
        """
        identity: str | None = f"address {address}"
        if self._tokens is not None:
            identity = self._tokens.identify(authorization)
        if identity is None:
            text = "expected a header 'Authorization: Bearer TOKEN' with a valid token, got none"
            raise Refusal(401, "unauthorised", text, {"WWW-Authenticate": "Bearer"})
        seconds = self._rates.wait(identity) if self._rates else 0
        if seconds:
            text = f"expected fewer requests (rate_limit), got one too many; try again in {seconds} s"
            raise Refusal(429, "rate_limit", text, {"Retry-After": str(seconds)})
        current_identity.set(identity)


class Door:
    """ASGI middleware: what is refused here costs no thread, and no more memory than the limits say.

    Args:
        app: what it guards.
        settings: limits of bodies.
        watch: tokens and rates.
    """

    def __init__(self, app: Application, settings: ServerSettings, watch: Watch) -> None:
        self._app = app
        self._settings = settings
        self._watch = watch
        self._pending = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = _Held()
        try:
            self._check(scope)
            body = await self._read(scope, receive, held)
            probe = _is_probe(scope["path"])
            await self._app(scope, _replay(body, receive), send if probe else _counting_failures(send))
        except Refusal as error:
            input_rejected.labels(error.reason).inc()
            response = JSONResponse({"error": str(error)}, status_code=error.status, headers=error.headers)
            await response(scope, receive, send)
        finally:
            self._pending -= held.size

    def _check(self, scope: Message) -> None:
        path = scope["path"]
        if path.startswith("/v2/repository"):
            # else anybody could unload the model
            raise Refusal(403, "management", "expected no model management over the network; it is off")
        if _is_probe(path):
            return
        client = scope.get("client")
        self._watch.check(_header(scope, b"authorization"), client[0] if client else "")

    async def _read(self, scope: Message, receive: Receive, held: _Held) -> list[Message]:
        """Read the whole body, within the limits.

        Raises:
            Refusal: 413, 429 or 408.
        """
        if scope["method"] in ("GET", "HEAD"):
            return []
        stated = _header(scope, b"content-length")
        self._check_size(int(stated) if stated.isdecimal() and len(stated) < 20 else 0)
        chunks: list[Message] = []
        more = True
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "disconnected", "expected the whole body, got a part")
                    size = len(message.get("body", b""))
                    held.size += size
                    self._pending += size
                    self._check_size(held.size)
                    chunks.append(message)
                    more = bool(message.get("more_body"))
        except TimeoutError as error:
            text = f"expected the body within body_seconds={self._settings.body_seconds:g}, got a part"
            raise Refusal(408, "slow", text, {"Connection": "close"}) from error
        return chunks

    def _check_size(self, size: int) -> None:
        limit = self._settings.max_body_bytes
        if size > limit:
            text = f"expected a body of at most max_body_bytes={limit}, got {size} bytes or more"
            raise Refusal(413, "too_large", text)
        if self._pending > self._settings.max_pending_bytes:
            text = f"expected room within max_pending_bytes={self._settings.max_pending_bytes}, got none"
            raise Refusal(429, "overload", text, {"Retry-After": "1"})


class _Held:
    """How many bytes of one request are held."""

    size = 0


def _is_probe(path: str) -> bool:
    return path in _PROBES or path.endswith("/ready")


def _counting_failures(send: Send) -> Send:
    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= _SERVER_ERROR:
            observe_failure()
        await send(message)

    return watched


def _replay(chunks: list[Message], receive: Receive) -> Receive:
    async def next_message() -> Message:
        return chunks.pop(0) if chunks else await receive()

    return next_message


def _header(scope: Message, wanted: bytes) -> str:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
