"""The bearer tokens of a TorchServe on this machine, and whether it is ready.

TorchServe draws new keys at each start, writes them to `key_file.json`, and lets them expire.
"""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from dfcore.errors import ConfigError, WorkFailed
from serving.torchserve.launch import CONFIG

__all__ = ["is_ready", "read_token"]

_KEYS = "key_file.json"
_LEFT = timedelta(minutes=10)
_TIMEOUT_SECONDS = 5

Use = Literal["inference", "management"]


def read_token(home: Path, use: Use = "inference") -> str:
    """Return a bearer token that holds for ten more minutes; a new one is drawn if need be.

    Args:
        home: of the running TorchServe.
        use: which of its doors the token opens.

    Raises:
        ConfigError: none has started there.
        WorkFailed: it does not answer.
    """
    keys = _read(home / _KEYS)
    expires = datetime.fromisoformat(keys[use]["expiration time"])
    if expires - datetime.now(UTC) < _LEFT:
        _ask(home, f"/token?type={use}", keys["API"]["key"])
        keys = _read(home / _KEYS)
    return str(keys[use]["key"])


def is_ready(home: Path) -> bool:
    """Return whether every worker has loaded its model.

    TorchServe's own /ping is content with workers that still load, and that no request can be sent to.

    Raises:
        ConfigError: none has started there.
        WorkFailed: it does not answer.
    """
    token = read_token(home, "management")
    models = json.loads(_ask(home, "/models", token))["models"]
    workers = [
        worker["status"]
        for model in models
        for version in json.loads(_ask(home, f"/models/{model['modelName']}", token))
        for worker in version["workers"]
    ]
    return bool(workers) and set(workers) == {"READY"}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"expected the keys of a running TorchServe in {path}, got: {error}; start it, or name its home"
        ) from error


def _ask(home: Path, path: str, token: str) -> bytes:
    """Return what the management interface answers, which listens on the loopback address."""
    port = _management_port(home)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise WorkFailed(f"expected TorchServe at 127.0.0.1:{port}, got: {error}; is it running?") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise WorkFailed(f"expected an answer to {path} from TorchServe, got {answer.status}: {body[:200]!r}")
    return body


def _management_port(home: Path) -> int:
    lines = (home / CONFIG).read_text(encoding="utf-8").splitlines()
    *_, last = (line for line in lines if line.startswith("management_address="))
    return int(last.rpartition(":")[2])
