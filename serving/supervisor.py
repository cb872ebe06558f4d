"""Several server processes behind one port: they share its socket, and their metrics add up."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from dfcore.errors import WorkFailed
from serving.settings import ServerSettings

__all__ = ["SOCKET", "supervise"]

logger = logging.getLogger(__name__)

SOCKET = "RAMPART_SOCKET"
"""Environment variable with the number of the socket that a worker takes over."""

_BACKLOG = 2048
_TICK_SECONDS = 0.2
_EARLY_SECONDS = 60.0


def supervise(command: list[str], http_port: int, settings: ServerSettings) -> None:
    """Run workers until SIGTERM or SIGINT; one that dies is replaced.

    Args:
        command: of one worker, without its settings.
        http_port: what they share.
        settings: of each worker.

    Raises:
        WorkFailed: a worker died before it can have answered anything.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with tempfile.TemporaryDirectory(prefix="rampart-workers-") as name, socket.socket(family) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.bind((settings.host, http_port))
        shared.listen(_BACKLOG)
        shared.set_inheritable(True)
        metrics = Path(name) / "metrics"
        metrics.mkdir()
        file = Path(name) / "settings.json"
        file.write_text(settings.model_dump_json(), encoding="utf-8")
        environment = {
            **os.environ, SOCKET: str(shared.fileno()), "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }  # fmt: skip
        started: dict[subprocess.Popen[bytes], float] = {}

        def start() -> None:
            process = subprocess.Popen(
                [*command, "--settings", str(file)], env=environment, pass_fds=[shared.fileno()]
            )
            started[process] = time.monotonic()

        try:
            for _ in range(settings.workers):
                start()
            while not asked.wait(_TICK_SECONDS):
                for process in [one for one in started if one.poll() is not None]:
                    age = time.monotonic() - started.pop(process)
                    mark_process_dead(process.pid, str(metrics))  # type: ignore[no-untyped-call]  # left bare
                    if age < _EARLY_SECONDS:
                        raise WorkFailed(
                            f"expected the worker to serve, it ended with {process.returncode} after "
                            f"{age:.0f} s; its own message is above"
                        )
                    logger.error("worker %d ended with %d, starting another", process.pid, process.returncode)
                    start()
        finally:
            for process in started:
                process.terminate()
            until = time.monotonic() + settings.drain_seconds + settings.grace_seconds + 5
            for process in started:
                try:
                    process.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
