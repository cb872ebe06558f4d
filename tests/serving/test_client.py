"""The typed client against the real server, and against one that is busy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from dfcore.errors import InvalidInput, ShapeError, WorkFailed
from serving.client import AsyncClient, Client
from tests.http_server import serve
from tests.serving.conftest import SIZE, Server, encode_png


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(str(server.client.base_url), "tiny", retries=0, timeout=60) as found:
        yield found


def test_every_method(
    client: Client, server: Server, portrait: np.ndarray, clip: bytes, tmp_path: Path
) -> None:
    assert client.is_ready()
    image = encode_png(portrait)
    (tmp_path / "clip.mp4").write_bytes(clip)
    answer = client.predict_image(image)
    assert answer.outcome == "ok"
    video = client.predict_video(tmp_path / "clip.mp4")
    assert video == client.predict_video(clip)
    assert len(video.frames) == 3
    (server.allowed / "client.png").write_bytes(image)
    assert client.predict_uri(f"file://{server.allowed}/client.png") == answer
    crops = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    assert len(client.predict_crops(crops)) == 3
    assert client.explain(image, frequency=False).outcome == "ok"
    with pytest.raises(InvalidInput, match=r"400: instances\[0\]\.image"):
        client.predict_image(b"hello")
    with pytest.raises(ShapeError, match="expected crops uint8"):
        client.predict_crops(crops.astype(np.float32))


def test_the_async_client_says_the_same(
    server: Server, client: Client, portrait: np.ndarray, clip: bytes, tmp_path: Path
) -> None:
    image = encode_png(portrait)
    (tmp_path / "clip.mp4").write_bytes(clip)
    (server.allowed / "client.png").write_bytes(image)
    crops = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)

    async def ask() -> list[object]:
        async with AsyncClient(str(server.client.base_url), "tiny") as found:
            assert await found.is_ready()
            return [
                await found.predict_image(image),
                await found.predict_video(tmp_path / "clip.mp4"),
                await found.predict_uri(f"file://{server.allowed}/client.png"),
                [item.label for item in await found.predict_crops(crops)],
                (await found.explain(image, frequency=False)).outcome,
            ]

    said = asyncio.run(ask())
    assert said[0] == said[2] == client.predict_image(image)
    assert said[1] == client.predict_video(clip)
    assert said[3] == [item.label for item in client.predict_crops(crops)]
    assert said[4] == "ok"


class Busy(BaseHTTPRequestHandler):
    """Refuses the first requests, then answers."""

    left = 2

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        type(self).left -= 1
        self.send_response(429 if type(self).left >= 0 else 200)
        self.send_header("Retry-After", "0")
        self.end_headers()
        model = b'{"name": "n", "version": "v", "digest": "d", "newer": 1}'
        self.wfile.write(b'{"predictions": [{"outcome": "no_face", "threshold": 0.5, "model": %s}]}' % model)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(1_000_001))
    with serve(Busy) as address:
        with Client(address, retries=2) as client:
            assert client.predict_image(path).score is None
        Busy.left = 2
        with Client(address, retries=1) as client, pytest.raises(WorkFailed, match="after 2 tries, got 429"):
            client.predict_image(b"abc")
    with Client(address, retries=1) as client:
        assert not client.is_ready()
        with pytest.raises(WorkFailed, match="ConnectError"):
            client.predict_image(b"abc")


def test_the_client_loads_neither_torch_nor_kserve() -> None:
    code = "import sys, serving.client; sys.exit(bool({'torch', 'kserve', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
