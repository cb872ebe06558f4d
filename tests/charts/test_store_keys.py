"""The registry-init Job's script, against an HTTPS server that answers as the Kubernetes API does.

(`make cluster-test` runs the Job's manifest on a real API server.)
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.certificates import make_certificate
from tests.charts.tools import CHART
from tests.http_server import serve

SCRIPT = CHART / "files" / "store_keys.py"


@dataclass
class Api:
    """What the server holds, and who may do what."""

    folder: Path
    environment: dict[str, str]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    forbidden: bool = False

    def run(self, *roles: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        command = [sys.executable, str(SCRIPT), "ns", *roles]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def keys(self, role: str, secret: str) -> None:
        """Write the file that `rampart registry init` writes."""
        text = f"AWS_ACCESS_KEY_ID={role}\nAWS_SECRET_ACCESS_KEY={secret}\n"
        (self.folder / "keys" / f"{role}.env").write_text(text)


class _Handler(BaseHTTPRequestHandler):
    api: Api

    def serve(self) -> None:
        """Answer as the API server does for Secrets."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        name = self.path.removeprefix("/api/v1/namespaces/ns/secrets").strip("/")
        self.answer(*self.decide(self.command, name, body))

    def decide(self, method: str, name: str, body: Any) -> tuple[int, str]:
        """Return status and message."""
        api = self.api
        if self.headers["Authorization"] != "Bearer t0ken" or api.forbidden:
            return 403, "secrets is forbidden"
        if method == "POST":
            name = body["metadata"]["name"]
            if name in api.secrets:
                return 409, "already exists"
            api.secrets[name] = body["data"]
            return 201, ""
        if name not in api.secrets:
            return 404, "not found"
        if method == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            api.secrets[name] |= body["data"]
        return 200, ""

    def answer(self, status: int, message: str) -> None:
        """Send a Status."""
        data = json.dumps({"kind": "Status", "message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = serve  # noqa: N815  # the base class's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """A running server."""
    account = tmp_path / "account"
    account.mkdir()
    (tmp_path / "keys").mkdir()
    (account / "token").write_text("t0ken\n")
    authority = make_certificate(tmp_path / "authority", None)
    server_certificate = make_certificate(tmp_path / "server", authority, "127.0.0.1")
    (account / "ca.crt").write_bytes(authority.certificate.read_bytes())
    handler = type("Handler", (_Handler,), {})
    with serve(handler, server_certificate.certificate, server_certificate.key) as address:
        found = Api(tmp_path, {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(urlsplit(address).port),
            "RAMPART_KEYS": str(tmp_path / "keys"), "RAMPART_ACCOUNT": str(account),
        })  # fmt: skip
        setattr(handler, "api", found)  # noqa: B010  # the class is made before the port is known
        yield found


def stored(api: Api, name: str) -> dict[str, str]:
    """Return a Secret's values."""
    return {key: base64.b64decode(value).decode() for key, value in api.secrets[name].items()}


def test_keys_become_secrets_and_are_replaced(api: Api) -> None:
    api.keys("reader", "one")
    api.keys("writer", "two=2")
    done = api.run("reader=r", "writer=w")
    assert (done.returncode, done.stdout) == (
        0, "reader: keys are in the Secret r\nwriter: keys are in the Secret w\n",
    )  # fmt: skip
    assert stored(api, "w") == {"AWS_ACCESS_KEY_ID": "writer", "AWS_SECRET_ACCESS_KEY": "two=2"}
    api.keys("reader", "rotated")
    assert api.run("reader=r").returncode == 0
    assert stored(api, "r")["AWS_SECRET_ACCESS_KEY"] == "rotated"
    assert "one" not in done.stdout + done.stderr


def test_kept_keys_need_their_secret(api: Api) -> None:
    api.secrets["r"] = {}
    assert api.run("reader=r").returncode == 0
    done = api.run("reader=r", "writer=w")
    assert done.returncode == 1
    assert "expected the Secret w of the writer" in done.stderr
    assert "registryInit.rotate=true" in done.stderr


def test_what_is_forbidden_is_named(api: Api) -> None:
    api.keys("reader", "one")
    api.forbidden = True
    done = api.run("reader=r")
    assert done.returncode == 1
    assert "expected POST ns/secrets to be allowed, got HTTP 403: secrets is forbidden" in done.stderr
