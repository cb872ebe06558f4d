"""The server's life: listen, load, be ready, follow the channel, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import nullcontext
from typing import Any

from dfcore.allocator import return_freed_memory
from dfcore.errors import RampartError
from serving._kserve import ModelServer, PredictorConfig, RESTServer
from serving.connections import patience
from serving.dataplane import StrictDataPlane
from serving.door import Door, Watch
from serving.endpoints import add_error_handlers, add_routes
from serving.model import DeepfakeModel
from serving.openapi import openapi_document
from serving.opening import promoted_digest
from serving.settings import ServerSettings

__all__ = ["RampartServer"]

logger = logging.getLogger(__name__)

_APP = "kserve.model_server:app"
_TICK_SECONDS = 0.05


class _Rest(RESTServer):  # type: ignore[misc]  # KServe ships no types
    """KServe's REST server with our door, routes and refusals, on a chosen address."""

    def __init__(self, server: ModelServer, settings: ServerSettings, watch: Watch) -> None:
        super().__init__(
            _APP,
            server.dataplane,
            server.model_repository_extension,
            server.http_port,
            grace_period=settings.grace_seconds,
        )
        self.config.host = settings.host
        self.config.http = patience(settings.body_seconds)
        logging.getLogger("uvicorn.access").disabled = True  # the metrics count; lines would hold paths
        self.config.server_header = False
        self.settings = settings
        self.watch = watch
        # ours: uvicorn's would end it at once
        self._server.capture_signals = nullcontext

    def _add_middlewares(self, application: Any) -> None:
        application.add_middleware(Door, settings=self.settings, watch=self.watch)

    def _register_endpoints(self, application: Any) -> None:
        add_routes(application, self.dataplane)
        super()._register_endpoints(application)
        application.openapi = openapi_document

    def _add_exception_handlers(self, application: Any) -> None:
        add_error_handlers(application)

    async def serve(self, sockets: list[socket.socket] | None) -> None:
        """Listen until `end`."""
        self.create_application()
        await self._server.serve(sockets=sockets)

    def end(self) -> None:
        """Stop listening; requests under way are answered within the grace period."""
        self._server.should_exit = True

    @property
    def listening(self) -> bool:
        """Whether connections are taken."""
        return bool(self._server.started)


class RampartServer:
    """One model behind KServe's protocols.

    Args:
        model: not loaded yet.
        address: of its bundle; a channel is followed.
        http_port: of REST.
        settings: everything else.
        listening: number of a socket that already listens, where several workers share one; it is taken
            over when the model is warm.
    """

    def __init__(
        self,
        model: DeepfakeModel,
        address: str,
        http_port: int,
        settings: ServerSettings,
        listening: int | None = None,
    ) -> None:
        self._model = model
        self._address = address
        self._settings = settings
        self._watch = Watch(settings)
        self._sockets = None if listening is None else [socket.socket(fileno=listening)]
        self._server = ModelServer(
            http_port=http_port,
            enable_grpc=False,  # KServe's own would log every refusal with a traceback
            workers=1,
            predictor_config=_predictor_config(settings),
        )
        self._dataplane = StrictDataPlane(model_registry=self._server.registered_models)
        self._server.dataplane = self._dataplane
        self._server.register_model(model)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RampartError: the bundle can't be loaded, or a port can't be used.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        rest = _Rest(self._server, self._settings, self._watch)
        loading = asyncio.create_task(asyncio.to_thread(self._model.load))
        if self._sockets is not None:
            # what arrives meanwhile is answered by the other workers
            await loading
        serving = asyncio.create_task(rest.serve(self._sockets))
        grpc_server = await self._start_grpc()
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait([asking, loading, serving], return_when=asyncio.FIRST_COMPLETED)
        watching = None
        if loading.done() and loading.exception() is None and not serving.done():
            logger.info("ready: %s as %s", self._model.predictor.identity.version, self._model.name)
            watching = asyncio.create_task(self._follow())
            await asyncio.wait([asking, serving], return_when=asyncio.FIRST_COMPLETED)
        await self._drain(rest, grpc_server, serving, failed=loading.done() and not self._model.ready)
        for task in (watching, asking):
            if task is not None:
                task.cancel()
        self._model.stop()
        if loading.done():
            await loading  # raises what kept it from loading
        await serving

    async def _start_grpc(self) -> Any:
        if self._settings.grpc_port is None:
            return None
        from serving.grpc_server import GrpcServer

        server = GrpcServer(self._dataplane, self._settings, self._watch)
        await server.start()
        return server

    async def _drain(
        self, rest: _Rest, grpc_server: Any, serving: asyncio.Task[None], *, failed: bool
    ) -> None:
        self._dataplane.draining = True
        if not failed and not serving.done():
            logger.info("draining: %d requests under way", self._model.busy)
            await asyncio.wait([serving], timeout=self._settings.drain_seconds or _TICK_SECONDS)
        rest.end()
        if grpc_server is not None:
            await grpc_server.stop(self._settings.grace_seconds)
        await asyncio.wait([serving], timeout=self._settings.grace_seconds + 1)

    async def _follow(self) -> None:
        """Load what the channel points at whenever that changes."""
        seconds = self._settings.reload_seconds
        if seconds is None:
            return
        refused: str | None = None
        while True:
            await asyncio.sleep(seconds)
            current = self._model.predictor.identity.digest.removeprefix("sha256:")
            try:
                promoted = await asyncio.to_thread(promoted_digest, self._address)
            except (RampartError, OSError) as error:
                logger.warning("%s can't be read, the server stays as it is: %s", self._address, error)
                continue
            if promoted is None:
                return  # no channel
            if promoted in (current, refused):
                continue
            outcome = await asyncio.to_thread(self._model.reload)
            # the old version's weights lie between what still lives: kept, they add up with each version
            await asyncio.to_thread(return_freed_memory)
            refused = promoted if outcome == "refused" else None


def _predictor_config(settings: ServerSettings) -> PredictorConfig:
    return PredictorConfig(
        predictor_host=settings.predictor_host,
        predictor_protocol=settings.predictor_protocol,
        predictor_request_timeout_seconds=max(1, int(settings.deadline_seconds)),
        predictor_health_check=settings.role == "transformer",
    )
