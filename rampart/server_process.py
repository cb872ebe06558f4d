"""A server in a process of its own, asked over HTTP, stopped by its id."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfcore.errors import WorkFailed
from rampart.local_run import child_environment, stop_group

__all__ = ["ask", "free_port", "running_server"]

_SECONDS_TO_START = 180.0
_SECONDS_TO_ANSWER = 120.0
_THREADS = "2"


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running_server(uri: str, name: str, registry: str, log: Path, cache: Path) -> Iterator[str]:
    """Serve a published version.

    Args:
        uri: `registry://NAME@CHANNEL`.
        name: the name on the endpoint's path.
        registry: address of the object store.
        log: what the server writes.
        cache: a folder that outlives the server.

    Yields:
        The server's address, ready.

    Raises:
        WorkFailed: it did not become ready.
    """
    port = free_port()
    command = [sys.executable, "-m", "serving", "--model", uri, "--name", name]
    command += ["--host", "127.0.0.1", "--http-port", str(port)]
    environment = {**child_environment(cache), "RAMPART_REGISTRY": registry, "OMP_NUM_THREADS": _THREADS}
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, f"{address}/v2/models/{name}/ready", log)
            yield address
        finally:
            stop_group(process)


def ask(address: str, name: str, video: Path) -> dict[str, Any]:
    """Ask for one video over V1.

    Returns:
        The server's answer for it.
    """
    content = base64.b64encode(video.read_bytes()).decode()
    body = json.dumps({"instances": [{"video": {"b64": content}}]}).encode()
    request = urllib.request.Request(  # noqa: S310  # our own server's http address
        f"{address}/v1/models/{name}:predict", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER) as response:  # noqa: S310  # as above
            answer: dict[str, Any] = json.load(response)["predictions"][0]
    except urllib.error.HTTPError as error:
        raise WorkFailed(
            f"expected an answer for {video}, got {error.code}: {error.read().decode()}"
        ) from error
    return answer


def _wait_until_ready(process: subprocess.Popen[str], url: str, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # our own server's http address
                return
        except OSError:
            time.sleep(0.2)  # refused or 503: it still loads
    tail = log.read_text(encoding="utf-8").splitlines()[-8:]
    raise WorkFailed("expected the server to become ready, it did not; its last lines:\n" + "\n".join(tail))
