"""A signed bundle around a tiny untrained detector, and the real server process on it."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from dfcore.data import Crops
from dfcore.models import (
    Calibration,
    DetectorCard,
    DetectorConfig,
    build_detector,
    load_detector,
    save_detector,
)
from dfcore.monitoring import build_reference
from dfcore.preprocessing import PreprocessingConfig, encode_video
from dfcore.provenance import sha256_file
from dfcore.release import ensure_key, sign_bundle
from rampart.server_process import free_port

SIZE = 64
START_SECONDS = 240  # on a machine that does much else
STOP_SECONDS = 30


@dataclass(frozen=True)
class Bundle:
    """A signed bundle and its public key."""

    folder: Path
    public_key: Path


@dataclass(frozen=True)
class Server:
    """A running server."""

    client: httpx.Client
    grpc_port: int
    allowed: Path
    log: Path

    def predict(self, *instances: object) -> httpx.Response:
        """Send a V1 request."""
        return self.client.post("/v1/models/tiny:predict", json={"instances": list(instances)})

    def infer(self, *inputs: object, **more: object) -> httpx.Response:
        """Send a V2 request as JSON."""
        return self.client.post("/v2/models/tiny/infer", json={"inputs": list(inputs), **more})

    def rejected(self, reason: str) -> float:
        """Read the counter of refused requests."""
        line = f'rampart_input_rejected_total{{reason="{reason}"}} '
        for row in self.client.get("/metrics").text.splitlines():
            if row.startswith(line):
                return float(row.removeprefix(line))
        return 0.0


def b64(content: bytes) -> str:
    """Return base64 text."""
    return base64.b64encode(content).decode()


def encode_png(image: np.ndarray) -> bytes:
    """Return a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_training_output(folder: Path) -> Path:
    """Save a tiny detector."""
    torch.set_num_threads(1)
    architecture = DetectorConfig(backbone="mobilenetv3_small_050", image_size=SIZE)
    preprocessing = PreprocessingConfig(image_size=SIZE, frames_per_video=3)
    card = DetectorCard(
        architecture=architecture,
        preprocessing=preprocessing,
        threshold=0.4,
        calibration=Calibration(),
        provenance={"commit": "unknown"},
    )
    save_detector(folder, build_detector(architecture, seed=1), card)
    return folder


def make_crops(count: int) -> Crops:
    """Return crops of noise."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    names = np.array([f"video-{index}" for index in range(count)])
    return Crops(
        images=images,
        labels=np.arange(count) % 2,
        video_ids=names,
        methods=names,
        compressions=names,
        group_ids=names,
        landmarks=np.zeros((count, 5, 2), dtype=np.float32),
    )


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A photograph with one face: uint8 (256, 256, 3)."""
    return np.ascontiguousarray(data.astronaut()[:256, 96:352])


@pytest.fixture(scope="session")
def clip(portrait: np.ndarray) -> bytes:
    """A short H.264 video of the photograph, moving."""
    return bytes(encode_video(None, np.stack([np.roll(portrait, step, axis=1) for step in range(12)])))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A signed bundle."""
    home = tmp_path_factory.mktemp("bundle")
    folder = write_training_output(home / "model")
    reference = build_reference(load_detector(folder), make_crops(24))
    (folder / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
    files = {path.name: {"sha256": sha256_file(path)} for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "files": files}), encoding="utf-8")
    key = home / "keys" / "rampart.pem"
    public_key = Path(ensure_key(key))
    sign_bundle(folder, key)
    return Bundle(folder, public_key)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The server process's environment."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "RAMPART_CACHE": cache}


def start(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `python -m serving`."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "serving", *arguments], env=environment, stdout=stream, stderr=stream
        )


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the server to end, and return its exit code."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    finally:
        process.kill()
        process.wait()


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll the model's readiness."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/v2/models/tiny/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text(encoding='utf-8')[-3000:]}")


@pytest.fixture(scope="session")
def server(
    bundle: Bundle, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The running server, with small limits and one allowed folder."""
    home = tmp_path_factory.mktemp("server")
    port, grpc_port = free_port(), free_port()
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "threads": 1,
        "max_instances": 8,
        "body_seconds": 4,
        "max_body_bytes": 6_000_000,
        "max_pending_bytes": 60_000_000,
        "media": {"max_bytes": 3_000_000, "max_pixels": 1_000_000, "max_frames": 200},
        "allowed_prefixes": [f"file://{home}/"],
    }
    (home / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")
    log = home / "server.log"
    arguments = ["--model", str(bundle.folder), "--name", "tiny", "--http-port", str(port)]
    arguments += ["--public-key", str(bundle.public_key), "--settings", str(home / "settings.yaml")]
    process = start(arguments, environment, log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process, log)
            yield Server(client, grpc_port, home, log)
    finally:
        code = stop(process)
    assert code in (0, -15), log.read_text(encoding="utf-8")[-3000:]
