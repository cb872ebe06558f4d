"""The Open Inference Protocol over gRPC: KServe's servicer behind our own door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import StatusCode, aio  # type: ignore[import-untyped]  # it ships no types
from grpc_interceptor.server import AsyncServerInterceptor

from dfcore.errors import ConfigError
from serving._kserve import (
    BadRequest,
    DataPlane,
    InferenceServicer,
    ModelNotFound,
    ModelNotReady,
    grpc_predict_v2_pb2_grpc,
)
from serving.admission import Overloaded
from serving.door import Refusal, Watch
from serving.metrics import input_rejected, observe_failure
from serving.rejection import RefusedInput
from serving.remote import PredictorUnavailable
from serving.settings import ServerSettings

__all__ = ["GrpcServer"]

logger = logging.getLogger(__name__)

_SHOWN = 1000
_MANAGEMENT = ("RepositoryModelLoad", "RepositoryModelUnload")
_PROBES = ("ServerLive", "ServerReady", "ModelReady")
_CODES: tuple[tuple[type[Exception], StatusCode], ...] = (
    (BadRequest, StatusCode.INVALID_ARGUMENT),
    (RefusedInput, StatusCode.PERMISSION_DENIED),
    (ModelNotFound, StatusCode.NOT_FOUND),
    (ModelNotReady, StatusCode.UNAVAILABLE),
    (PredictorUnavailable, StatusCode.UNAVAILABLE),
    (Overloaded, StatusCode.RESOURCE_EXHAUSTED),
)
_REFUSALS = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    429: StatusCode.RESOURCE_EXHAUSTED,
}


class GrpcServer:
    """Serves until it is stopped.

    Args:
        dataplane: what answers.
        settings: address, limits.
        watch: tokens and rates, shared with HTTP.
    """

    def __init__(self, dataplane: DataPlane, settings: ServerSettings, watch: Watch) -> None:
        self._dataplane = dataplane
        self._settings = settings
        self._watch = watch
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the port can't be used.
        """
        size = self._settings.max_body_bytes
        self._server = aio.server(
            interceptors=(_Door(self._watch),),
            maximum_concurrent_rpcs=self._settings.concurrency + self._settings.max_queue,
            options=[
                ("grpc.max_send_message_length", size),
                ("grpc.max_receive_message_length", size),
                ("grpc.so_reuseport", 0),
            ],
        )
        servicer = InferenceServicer(self._dataplane, None)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"expected a free port at {address}; give another grpc_port") from error
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """End listening, and wait for the calls under way."""
        if self._server is not None:
            await self._server.stop(grace)


class _Door(AsyncServerInterceptor):
    """Turns refusals into status codes; nothing but our own bugs is logged with a traceback."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def intercept(
        self,
        method: Callable[..., Awaitable[Any]],
        request_or_iterator: Any,
        context: Any,
        method_name: str,
    ) -> Any:
        """Handle one call."""
        call = method_name.rpartition("/")[2]
        answering = asyncio.ensure_future(self._answer(method, request_or_iterator, context, call))
        await asyncio.wait([answering])
        error = answering.exception()
        if error is None:
            return answering.result()
        await context.abort(*_status(error, call))

    async def _answer(
        self, method: Callable[..., Awaitable[Any]], request: Any, context: Any, call: str
    ) -> Any:
        if call in _MANAGEMENT:
            raise Refusal(403, "management", "expected no model management over the network; it is off")
        if call not in _PROBES:
            headers = dict(context.invocation_metadata() or ())
            peer = context.peer().rpartition(":")[0]
            self._watch.check(str(headers.get("authorization", "")), peer)
        return await method(request, context)


def _status(error: BaseException, call: str) -> tuple[StatusCode, str]:
    if isinstance(error, Refusal):
        input_rejected.labels(error.reason).inc()
        return _REFUSALS.get(error.status, StatusCode.INVALID_ARGUMENT), str(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            if code is StatusCode.UNAVAILABLE:
                observe_failure()
            return code, str(error)[:_SHOWN]
    observe_failure()
    logger.error("%s failed", call, exc_info=error)
    return StatusCode.INTERNAL, "internal error; the server's log has it"
