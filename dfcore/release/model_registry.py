"""Tell Kubeflow's Model Registry (Kubeflow Hub) about a published version, where an address is set.

RAMPART_MODEL_REGISTRY is its address, such as http://model-registry-service.kubeflow:8080;
RAMPART_MODEL_REGISTRY_TOKEN is a file with a bearer token, if it wants one. The object store stays the truth:
a registration that fails is a warning, and publishing the same bundle again repeats it.

Source: Model Registry REST API v1alpha3, api/openapi/model-registry.yaml of kubeflow/model-registry.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from dfcore.errors import ConfigError

__all__ = ["register_version", "registry_address"]

logger = logging.getLogger(__name__)

_API = "/api/model_registry/v1alpha3"
_SECONDS = 10


def registry_address() -> str | None:
    """Return the Model Registry's address, or None where none is set.

    Raises:
        ConfigError: it is no http address.
    """
    address = os.environ.get("RAMPART_MODEL_REGISTRY")
    if not address:
        return None
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(
            "expected RAMPART_MODEL_REGISTRY such as http://model-registry-service.kubeflow:8080 (a token "
            f"goes into the file RAMPART_MODEL_REGISTRY_TOKEN), got {parts.scheme}://{parts.hostname}"
        )
    return address.rstrip("/")


def register_version(name: str, version: str, uri: str, digest: str, author: str) -> bool:
    """Register a version with its address; what is registered already stays as it is.

    Args:
        name: the model.
        version: as published.
        uri: of the version's folder.
        digest: SHA-256 of its manifest.
        author: who published it.

    Returns:
        Whether it is registered now.
    """
    address = registry_address()
    if address is None:
        return False
    try:
        api = _Client(f"{address}{_API}")
        model = api.find("registered_model", name=name) or api.create("registered_models", {"name": name})
        wanted = {"name": version, "parentResourceId": model["id"]}
        found = api.find("model_version", **wanted) or api.create(
            f"registered_models/{model['id']}/versions",
            {
                "name": version, "registeredModelId": model["id"], "author": author,
                "customProperties": {"manifest_sha256": _text(digest)},
            },
        )  # fmt: skip
        artifacts = f"model_versions/{found['id']}/artifacts"
        if not (api.find(artifacts) or {}).get("items"):
            api.create(
                artifacts,
                {
                    "artifactType": "model-artifact", "name": f"{name}-{version}", "uri": uri,
                    "modelFormatName": "safetensors", "modelFormatVersion": "1",
                },
            )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%s %s is published, but %s did not register it (%s); publish the same bundle again to repeat it",
            name, version, address, _brief(error),
        )  # fmt: skip
        return False
    return True


def _text(value: str) -> dict[str, str]:
    return {"metadataType": "MetadataStringValue", "string_value": value}


def _brief(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)


class _Client:
    """The few calls that are needed."""

    def __init__(self, base: str) -> None:
        self._base = base
        token = os.environ.get("RAMPART_MODEL_REGISTRY_TOKEN")
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {Path(token).read_text(encoding='utf-8').strip()}"

    def find(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return what is there, or None."""
        try:
            return self._send("GET", f"{path}?{urlencode(query)}" if query else path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None

    def create(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Create an entity and return it."""
        return self._send("POST", path, json.dumps(document).encode())

    def _send(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # registry_address lets only http and https through
            f"{self._base}/{path}", data=body, headers=self._headers, method=method
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            document: dict[str, Any] = json.loads(answer.read())
        return document
