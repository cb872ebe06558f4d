"""Registration against a small server with the paths and required fields of the REST API v1alpha3."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dfcore.errors import ConfigError
from dfcore.release import Registry
from tests.http_server import serve

API = "/api/model_registry/v1alpha3"
ARTIFACT_FIELDS = {"artifactType", "name", "uri", "modelFormatName", "modelFormatVersion"}


@dataclass
class Hub:
    """What the server holds, and how it answers."""

    url: str = ""
    token: str | None = None
    failing: bool = False
    models: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Return status and document."""
        if method == "GET" and path in {"/registered_model", "/model_version"}:
            return self._find(self.models if path == "/registered_model" else self.versions, query)
        if method == "POST" and path == "/registered_models":
            return self._create(self.models, body, {"name"})
        if method == "POST" and (found := re.fullmatch(r"/registered_models/(\d+)/versions", path)):
            assert body["registeredModelId"] == found[1]
            return self._create(self.versions, body, {"name", "registeredModelId"})
        found = re.fullmatch(r"/model_versions/(\d+)/artifacts", path)
        if found and method == "GET":
            return 200, {
                "items": self.artifacts.get(found[1], []),
                "size": 0,
                "pageSize": 0,
                "nextPageToken": "",
            }
        if found and method == "POST":
            assert set(body) == ARTIFACT_FIELDS
            return self._create(self.artifacts.setdefault(found[1], []), body, {"artifactType"})
        return 404, {"code": "", "message": "no such path"}

    def _find(self, items: list[dict[str, Any]], query: dict[str, str]) -> tuple[int, Any]:
        wanted = {"name": query["name"]}
        if "parentResourceId" in query:
            wanted["registeredModelId"] = query["parentResourceId"]
        found = [item for item in items if wanted.items() <= item.items()]
        return (200, found[0]) if found else (404, {"code": "404", "message": "none"})

    def _create(self, items: list[dict[str, Any]], body: Any, required: set[str]) -> tuple[int, Any]:
        if not required <= set(body):
            return 400, {"code": "400", "message": f"expected {required}"}
        for value in body.get("customProperties", {}).values():
            assert set(value) == {"metadataType", "string_value"}
        items.append({**body, "id": str(len(items) + 1)})
        return 201, items[-1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            assert parts.path.startswith(API)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, document = 500, {"code": "500", "message": "broken"}
            if state.token is not None and self.headers["Authorization"] != f"Bearer {state.token}":
                status, document = 401, {"code": "401", "message": "who?"}
            elif not state.failing:
                path = parts.path.removeprefix(API)
                status, document = state.answer(self.command, path, query, json.loads(data) if data else None)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_GET = do_POST = _serve  # noqa: N815  # the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serve(Handler) as state.url:
        monkeypatch.setenv("RAMPART_MODEL_REGISTRY", f"{state.url}/")
        yield state


def test_a_version_is_registered_once(
    hub: Hub, tmp_path: Path, bundle: Path, second: Path, public_key: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    one = registry.publish("faces", bundle, public_key=public_key, who="ci")
    registry.publish("faces", bundle, public_key=public_key, who="ci")
    two = registry.publish("faces", second, public_key=public_key, who="ci")
    assert [item["name"] for item in hub.models] == ["faces"]
    assert [item["name"] for item in hub.versions] == [one, two]
    assert hub.versions[0]["author"] == "ci"
    digest = hub.versions[0]["customProperties"]["manifest_sha256"]["string_value"]
    assert digest.startswith(one.partition("-")[2])
    (artifact,) = hub.artifacts["1"]
    assert artifact["uri"] == registry.show("faces", one)["uri"]


def test_a_failure_is_a_warning_and_can_be_repeated(
    hub: Hub, tmp_path: Path, bundle: Path, public_key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(tmp_path / "registry")
    hub.failing = True
    version = registry.publish("faces", bundle, public_key=public_key)
    assert f"faces {version} is published, but {hub.url} did not register it (HTTP 500)" in caplog.text
    hub.failing = False
    assert registry.publish("faces", bundle, public_key=public_key) == version
    assert [item["name"] for item in hub.versions] == [version]


def test_a_token_from_a_file_and_never_in_the_log(
    hub: Hub, tmp_path: Path, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    hub.token = "secret-token"
    registry = Registry(tmp_path / "registry")
    (tmp_path / "token").write_text("another-token\n")
    monkeypatch.setenv("RAMPART_MODEL_REGISTRY_TOKEN", str(tmp_path / "token"))
    registry.publish("faces", bundle, public_key=public_key)
    assert "HTTP 401" in caplog.text
    (tmp_path / "token").write_text("secret-token\n")
    registry.publish("faces", bundle, public_key=public_key)
    assert len(hub.versions) == 1
    (tmp_path / "token").unlink()
    registry.publish("faces", bundle, public_key=public_key)
    assert "No such file" in caplog.text
    assert "secret-token" not in caplog.text
    assert "another-token" not in caplog.text


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://user:word@hub", "hub:8080"])
def test_an_address_that_does_not_fit_stops_before_anything_is_written(
    address: str, tmp_path: Path, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMPART_MODEL_REGISTRY", address)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ConfigError, match="expected RAMPART_MODEL_REGISTRY such as http://") as caught:
        registry.publish("faces", bundle, public_key=public_key)
    assert "word" not in str(caught.value).replace("RAMPART", "")
    assert list(registry.store.list()) == []
