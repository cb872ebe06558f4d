"""ImageNet weights from a real server on this machine, from the cache, and from nowhere."""

from __future__ import annotations

import hashlib
import http.server
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from dfcore.errors import ConfigError
from dfcore.models import DetectorConfig, build_detector
from dfcore.models.imagenet import _from_address, fetch_imagenet_weights
from tests.http_server import serve
from tests.models.conftest import settled

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: entity tag and commit beside the file."""

    content = b""
    status = 200

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        self.wfile.write(self.content)

    def _head(self) -> None:
        self.send_response(self.status)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with serve(Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "torch")
    yield
    torch.hub.set_dir(before)


def point_hub_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def published() -> dict[str, torch.Tensor]:
    """A checkpoint as timm publishes one: a thousand classes."""
    state = {name: value.contiguous() for name, value in settled("resnet10t").backbone.state_dict().items()}
    return {**state, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}


def test_fetched_once_then_cached(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = published()
    monkeypatch.setattr(Handler, "content", save(weights))
    point_hub_at(server, monkeypatch)
    config = DetectorConfig(backbone="resnet10t", image_size=64, pretrained=True)
    detector = build_detector(config)
    assert torch.equal(detector.backbone.conv1[0].weight, weights["conv1.0.weight"])
    assert detector.backbone.fc.weight.shape == (1, 512)
    origin = detector.initial_weights
    assert (origin.source, origin.name, origin.part) == ("imagenet", "resnet10t.c3_in1k", "backbone")
    assert origin.sha256 == hashlib.sha256(Handler.content).hexdigest()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = build_detector(config)
    assert torch.equal(again.backbone.conv1[0].weight, weights["conv1.0.weight"])


def test_nothing_is_fetched_unless_asked(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_hub_at(server, monkeypatch)
    assert (
        build_detector(DetectorConfig(backbone="resnet10t", image_size=64)).initial_weights.source == "random"
    )
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientvit", "xception"])
def test_offline_the_message_says_what_to_do(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*model\.weights=FILE.*from scratch"):
        build_detector(DetectorConfig(backbone=backbone, image_size=64, pretrained=True))
    assert time.monotonic() - started < 10


def test_without_network_the_message_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        point_hub_at(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        with pytest.raises(ConfigError, match="refused"):
            fetch_imagenet_weights("resnet10t")


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfcore.models.imagenet._TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_hub_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(ConfigError, match="timed out"):
            fetch_imagenet_weights("resnet10t")


def test_a_plain_address_is_fetched_once_and_compared_with_its_name(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "content", b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    path = _from_address("x", f"{server}/x-{digest[:8]}.pth")
    assert path.read_bytes() == b"weights"
    assert _from_address("x", f"http://127.0.0.1:1/x-{digest[:8]}.pth") == path
    with pytest.raises(ConfigError, match="hash"):
        _from_address("x", f"{server}/y-00000000.pth")


def test_backbones_nobody_published() -> None:
    with pytest.raises(ConfigError, match="published weights, got 'coatnet_0_224'"):
        fetch_imagenet_weights("coatnet_0_224")


def test_a_refusal_is_reported(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "status", 404)
    point_hub_at(server, monkeypatch)
    with pytest.raises(ConfigError, match=r"expected ImageNet weights of resnet10t(.|\n)*404"):
        fetch_imagenet_weights("resnet10t")
