"""What can't start says so: workers that end at once, a port for gRPC that is taken."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import pytest

from dfcore.errors import ConfigError, WorkFailed
from serving.door import Watch
from serving.grpc_server import GrpcServer
from serving.settings import ServerSettings
from serving.supervisor import supervise
from tests.serving.conftest import free_port


def test_workers_that_end_at_once_are_not_started_for_ever() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    command = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    try:
        with pytest.raises(WorkFailed, match="ended with 3 after"):
            supervise(command, free_port(), ServerSettings(workers=2))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_taken_grpc_port_is_named() -> None:
    async def begin(port: int) -> None:
        settings = ServerSettings(grpc_port=port)
        server = GrpcServer(None, settings, Watch(settings))
        try:
            await server.start()
        finally:
            await server.stop(0)

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        with pytest.raises(ConfigError, match="expected a free port at 127"):
            asyncio.run(begin(holder.getsockname()[1]))
