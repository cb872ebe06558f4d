"""python -m benchmarks.serving [--quick] --json: requests a second at p99 <= 200 ms, JPEG in, score out.

The peers (`benchmarks.serving_peers`) are a `kserve.Model` with a synchronous `predict`, and TorchServe with
base64 in JSON. All have the same detector, face detector and images, and run one after the other in processes
of their own, each with the same threads; ours has what a bundle holds, the ONNX file too. The number of
clients grows until the 99th percentile passes the limit. `ratio` compares with the KServe sample and
`ratios` with both, our answers without attack scores like theirs; `with_attack_scores` tells ours with
them, and `attack_scores` what they add to the latency of one client. Crops are compared too: ours as a V2
binary tensor, the sample's as V1 JSON numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from dfcore.data import Crops
from dfcore.models import DetectorCard, DetectorConfig, build_detector, save_detector
from dfcore.models.export import ONNX_FILE, write_onnx
from dfcore.models.golden import GOLDEN_FILE, write_golden
from dfcore.monitoring import build_reference
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import versions
from rampart.server_process import free_port

__all__ = ["measure"]

NAME = "bench"
_LIMIT_SECONDS = 0.2
_TURNS = 4
_CLIENTS = (1, 2, 4, 8, 16, 32)
_START_SECONDS = 180
_PREDICTIONS = f"/predictions/{NAME}"  # TorchServe's
PEERS = ("kserve", "torchserve")


class Load(NamedTuple):
    """What is sent: the same for every request."""

    path: str
    body: bytes
    headers: dict[str, str]


class Running(NamedTuple):
    """A server that is ready."""

    address: str
    process: int


def write_detector(folder: Path, quick: bool) -> int:
    """Save an untrained detector; returns the side of its crops."""
    backbone, size = ("mobilenetv3_small_050", 64) if quick else ("efficientnet_b0", 224)
    config = DetectorConfig(backbone=backbone, image_size=size)
    card = DetectorCard(
        architecture=config, preprocessing=PreprocessingConfig(image_size=size), threshold=0.5
    )
    detector = build_detector(config, seed=0).eval()
    save_detector(folder, detector, card)
    write_golden(folder / GOLDEN_FILE, detector)
    write_onnx(folder / ONNX_FILE, detector, folder / GOLDEN_FILE)
    images = np.random.default_rng(1).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    names = np.array([f"video-{row}" for row in range(len(images))])
    labels, landmarks = np.arange(len(images)) % 2, np.zeros((len(images), 5, 2), np.float32)
    reference = build_reference(detector, Crops(images, labels, names, names, names, names, landmarks))
    (folder / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
    return size


def loads(size: int, count: int) -> dict[str, Load]:
    """Return what is sent: `jpeg` to all, crops as `v2_binary` to us and as `v1_json` to the sample."""
    from skimage import data

    stream = io.BytesIO()
    photograph = data.astronaut()  # type: ignore[no-untyped-call]  # scikit-image leaves it bare
    Image.fromarray(np.ascontiguousarray(photograph[:256, 96:352])).save(stream, "JPEG", quality=90)
    crops = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    image = {"instances": [{"image": {"b64": base64.b64encode(stream.getvalue()).decode()}}]}
    plain = {"instances": [{"crop": crop.tolist()} for crop in crops]}
    tensor = {
        "name": "images", "shape": list(crops.shape), "datatype": "UINT8",
        "parameters": {"binary_data_size": crops.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "score"}]}).encode()
    kind = {"content-type": "application/json"}
    v1, v2 = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return {
        "jpeg": Load(v1, json.dumps(image).encode(), kind),
        "v1_json": Load(v1, json.dumps(plain).encode(), kind),
        "v2_binary": Load(v2, head + crops.tobytes(), binary),
    }


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str] | None = None, ready: Load | None = None
) -> Iterator[Running]:
    """Run a server on a free port, the command's last argument; yields it when the model is ready.

    Args:
        command: without the port.
        environment: variables beside our own.
        ready: a request that is answered once it is; None asks as the Open Inference Protocol has it.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    variables = {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, str(port)], stdout=log, stderr=log, env=variables)
        try:
            until = time.monotonic() + _START_SECONDS
            while not _is_ready(address, ready):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {log.read()[-2000:].decode()}")
                time.sleep(0.3)
            yield Running(address, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(address: str, ready: Load | None) -> bool:
    try:
        if ready is None:
            return httpx.get(f"{address}/v2/models/{NAME}/ready").status_code == 200
        answer = httpx.post(f"{address}{ready.path}", content=ready.body, headers=ready.headers, timeout=60)
        return answer.status_code == 200
    except httpx.TransportError:
        return False


async def _drive(address: str, load: Load, clients: int, seconds: float) -> tuple[list[float], float]:
    """Return the latency of each request, and how long all of them took."""
    latencies: list[float] = []
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        await client.post(load.path, content=load.body, headers=load.headers)
        until = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < until:
                began = time.perf_counter()
                response = await client.post(load.path, content=load.body, headers=load.headers)
                response.raise_for_status()
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return latencies, time.perf_counter() - began


def capacity(address: str, load: Load, seconds: float) -> dict[str, Any]:
    """Find the most requests a second with the 99th percentile within the limit.

    Returns:
        `rate` (0 where even one client waits longer), `clients`, and `steps` with rate and percentiles.
    """
    steps = []
    for clients in _CLIENTS:
        latencies, took = asyncio.run(_drive(address, load, clients, seconds))
        p50, p99 = (float(np.quantile(latencies, share)) for share in (0.5, 0.99))
        steps.append({
            "clients": clients, "rate": round(len(latencies) / took, 2), "requests": len(latencies),
            "p50_ms": round(p50 * 1e3, 1), "p99_ms": round(p99 * 1e3, 1),
        })  # fmt: skip
        if p99 > _LIMIT_SECONDS:
            break
    within = [step for step in steps if step["p99_ms"] <= _LIMIT_SECONDS * 1e3]
    best = max(within, key=lambda step: step["rate"], default={"rate": 0.0, "clients": 0})
    return {"rate": best["rate"], "clients": best["clients"], "steps": steps}


def latency_of(address: str, load: Load, seconds: float) -> float:
    """Return the median latency of one client in milliseconds."""
    latencies, _ = asyncio.run(_drive(address, load, 1, seconds))
    return statistics.median(latencies) * 1e3


def rate_of(address: str, load: Load, seconds: float) -> float:
    """Return requests a second of one client after the other: what the way in costs."""
    latencies, took = asyncio.run(_drive(address, load, 1, seconds))
    return len(latencies) / took


def measure(quick: bool, threads: int, repetitions: int) -> dict[str, Any]:
    """Run both servers in turns.

    Returns:
        The benchmark's document.
    """
    seconds = 2.0 if quick else 15.0
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in ("ours", "with_attack_scores", *PEERS)}
    crops: dict[str, list[float]] = {"v2_binary": [], "v1_json": []}
    scores: dict[str, list[float]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_detector(folder / "model", quick)
        sent = loads(size, 8)
        commands = {
            "ours": _command(folder, threads, "off"),
            "with_attack_scores": _command(folder, threads, "auto"),
            **{peer: _peer(peer, folder, threads) for peer in PEERS},
        }
        for _ in range(repetitions):
            for who, command in commands.items():
                jpeg = sent["jpeg"] if who != "torchserve" else sent["jpeg"]._replace(path=_PREDICTIONS)
                with running(command, ready=jpeg) as server:
                    found[who].append(capacity(server.address, jpeg, seconds))
                    way = {"ours": "v2_binary", "kserve": "v1_json"}.get(who)
                    if way is not None:
                        crops[way].append(rate_of(server.address, sent[way], seconds))
            with running(commands["with_attack_scores"]) as scoring, running(commands["ours"]) as bare:
                # in turns, so that what else the machine does falls on both
                for _ in range(_TURNS):
                    scores["on"].append(latency_of(scoring.address, sent["jpeg"], seconds / _TURNS))
                    scores["off"].append(latency_of(bare.address, sent["jpeg"], seconds / _TURNS))
    rates = {who: [run["rate"] for run in runs] for who, runs in found.items()}
    best = {who: statistics.median(values) for who, values in rates.items()}
    ratios = {peer: round(best["ours"] / best[peer], 3) if best[peer] else None for peer in PEERS}
    ways = {way: statistics.median(values) for way, values in crops.items()}
    on, off = (statistics.median(values) for values in scores.values())
    return {
        "name": "serving", "unit": "requests/s at p99 <= 200 ms, JPEG in",
        "ratio": ratios["kserve"], "ratios": ratios, "peer_name": "kserve",
        "ours": best["ours"], "peer": best["kserve"], "torchserve": best["torchserve"],
        "with_attack_scores": best["with_attack_scores"], "repetitions": repetitions, "spread": rates,
        "crops": {
            "unit": "requests/s of 8 crops, one client",
            **{way: round(rate, 2) for way, rate in ways.items()},
            "ratio": round(ways["v2_binary"] / ways["v1_json"], 3),
        },
        "attack_scores": {
            "unit": "ms a request, median, one client", "on": round(on, 2), "off": round(off, 2),
            "ratio": round(on / off, 3), "spread": scores,
        },
        "threads": threads, "cores": os.cpu_count(), "quick": quick, "runs": found, "versions": versions(),
    }  # fmt: skip


def _peer(peer: str, folder: Path, threads: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.serving_peers", peer]
    return [*command, str(folder / "model"), NAME, str(threads)]


def _command(folder: Path, threads: int, attack_scores: str) -> list[str]:
    settings = {"host": "127.0.0.1", "threads": threads, "engine": {"attack_scores": attack_scores}}
    path = folder / f"scores-{attack_scores}.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return [
        sys.executable, "-m", "serving", "--model", str(folder / "model"), "--name", NAME,
        "--allow-unsigned", "--settings", str(path), "--http-port",
    ]  # fmt: skip


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny detector, one short round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3, help="rounds, each with every server anew")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = measure(options.quick, options.threads, 1 if options.quick else options.repetitions)
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
