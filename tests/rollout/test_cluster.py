"""What the Kubernetes API refuses or can't answer, in words."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from dfcore.errors import ConfigError, ConflictError, WorkFailed
from rampart.rollout import _settings
from rollout import Cluster, Release, RolloutSettings
from rollout.cluster import LEASE
from tests.http_server import serve
from tests.rollout.test_settings import BASE

_CAUSE = {"reason": "FieldManagerConflict", "message": "conflict with helm", "field": ".spec.predictor"}
_CONFLICT = json.dumps({"reason": "Conflict", "details": {"causes": [_CAUSE]}}).encode()


class _Handler(BaseHTTPRequestHandler):
    answer: tuple[int, bytes] = (500, b"")

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, data = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _cluster(address: str) -> Cluster:
    settings = client.Configuration()
    settings.host, settings.retries = address, 0
    return Cluster(client.ApiClient(settings), "serving")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (500, b"not even JSON", WorkFailed, "HTTP 500"),
        (
            403,
            b'{"message": "leases is forbidden"}',
            ConfigError,
            "leases is forbidden; bind the rollout's Role",
        ),
        (401, b"{}", ConfigError, "expected permission to PUT"),
        (
            409,
            b'{"reason": "Conflict", "message": "the object has been modified"}',
            ConflictError,
            "try again",
        ),
        (422, b'{"message": "spec: Invalid value"}', ConfigError, "to admit .*spec: Invalid value"),
        (409, _CONFLICT, ConflictError, r"\.spec\.predictor \(conflict with helm\).*takeOver"),
    ],
)
def test_each_refusal_says_what_to_do(status: int, body: bytes, kind: type[Exception], message: str) -> None:
    handler = type("Handler", (_Handler,), {"answer": (status, body)})
    with serve(handler) as address, pytest.raises(kind, match=message):
        _cluster(address).replace(LEASE, {"metadata": {"name": "x"}})


def test_an_api_that_is_away() -> None:
    with pytest.raises(WorkFailed, match="expected the Kubernetes API to answer GET"):
        _cluster("http://127.0.0.1:9").get(LEASE, "x")


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    for context in (None, "production"):
        with pytest.raises(ConfigError, match="set KUBECONFIG"):
            Cluster.connect("serving", context=context)


_IN_CHART = {**BASE, "service": {**BASE["service"], "release": ""}}


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"rollout": data},
                                  lambda data: {"pipelines": {"rollout": data}}])  # fmt: skip
def test_the_command_reads_every_kind_of_values(tmp_path: Path, wrap: Any) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(wrap(_IN_CHART)), encoding="utf-8")
    assert _settings(path) == RolloutSettings.parse(BASE)
    assert Release("s3://x", "faces", "v1").name == "faces"
    with pytest.raises(ConfigError, match="expected the rollout's values at"):
        _settings(tmp_path / "none.yaml")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a: [", b"a: b: c"])
def test_values_that_are_no_yaml_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "values.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"values\.yaml is not valid YAML"):
        _settings(path)
