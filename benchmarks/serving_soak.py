"""python -m benchmarks.serving_soak [--quick] --json: half an hour at 80 % of capacity, with ten reloads.

A registry holds two versions of one detector. Requests (JPEG in, score out, attack scores on) arrive at a
fixed rate, whether earlier ones are answered or not, while the channel is moved back and forth. What counts:
failed requests, the percentiles in each tenth of the time, and the server's memory in the last tenth against
the second, before which there was a reload. `ratio` is that memory's ratio, 1 being flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import NAME, Load, Running, capacity, loads, running, write_detector
from dfcore.provenance import sha256_file, versions
from dfcore.release import Registry, ensure_key, sign_bundle

__all__ = ["measure"]

_CHANNEL = "production"
_SHARE = 0.8
_TENTHS = 10
_SAMPLE_SECONDS = 1.0


def publish(home: Path, quick: bool) -> tuple[Registry, tuple[str, str], int]:
    """Publish a detector twice; returns the registry, the versions, and the side of crops."""
    key = home / "keys" / "rampart.pem"
    public_key = Path(ensure_key(key))
    size = write_detector(home / "first", quick)
    shutil.copytree(home / "first", home / "second")
    (home / "second" / "note.txt").write_text("another version\n", encoding="utf-8")
    registry = Registry(str(home / "registry"))
    found = []
    for name in ("first", "second"):
        folder = home / name
        files = {path.name: {"sha256": sha256_file(path)} for path in sorted(folder.iterdir())}
        manifest = json.dumps({"format_version": 1, "files": files})
        (folder / "manifest.json").write_text(manifest, encoding="utf-8")
        sign_bundle(folder, key)
        found.append(registry.publish(NAME, folder, public_key=public_key))
    registry.promote(NAME, found[0], _CHANNEL, "benchmark", "first")
    return registry, (found[0], found[1]), size


def following(home: Path, threads: int) -> AbstractContextManager[Running]:
    """Run a server that follows the channel."""
    settings = {"threads": threads, "reload_seconds": 1.0}
    (home / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [
        sys.executable, "-m", "serving", "--model", f"registry://{NAME}@{_CHANNEL}", "--name", NAME,
        "--public-key", str(home / "keys" / "rampart.pub"), "--settings", str(home / "settings.json"),
        "--http-port",
    ]  # fmt: skip
    environment = {"RAMPART_REGISTRY": str(home / "registry"), "RAMPART_CACHE": str(home / "cache")}
    return running(command, environment)


def resident_bytes(process: int) -> int:
    """Return a process's resident memory, of Linux's /proc."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _soak(
    address: str, load: Load, rate: float, seconds: float, sample: Any
) -> tuple[list[tuple[float, float]], list[str]]:
    """Send at a fixed rate; returns (time since the start, latency) of answers, and what failed."""
    answered: list[tuple[float, float]] = []
    failed: list[str] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        start = time.perf_counter()

        async def one() -> None:
            began = time.perf_counter()
            try:
                response = await client.post(load.path, content=load.body, headers=load.headers)
            except httpx.TransportError as error:
                failed.append(repr(error))
                return
            if response.status_code == 200:
                answered.append((began - start, time.perf_counter() - began))
            else:
                failed.append(f"{response.status_code}: {response.text[:200]}")

        async with asyncio.TaskGroup() as group:
            group.create_task(sample(start))
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                group.create_task(one())
    return answered, failed


def measure(quick: bool, threads: int) -> dict[str, Any]:
    """Publish, serve, load, reload.

    Returns:
        The benchmark's document.
    """
    seconds, reloads = (40.0, 3) if quick else (1800.0, 10)
    memory: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        registry, published, size = publish(home, quick)
        load = loads(size, 1)["jpeg"]
        with following(home, threads) as (address, process):
            most = capacity(address, load, 2.0 if quick else 20.0)
            rate = max(1.0, _SHARE * most["rate"])

            async def sample(start: float) -> None:
                done = 0
                while (now := time.perf_counter() - start) < seconds:
                    memory.append((now, resident_bytes(process)))
                    # the first reload falls in the first tenth: two versions side by side are its peak
                    if done < reloads and now >= (done + 0.5) * seconds / reloads:
                        done += 1
                        version = published[done % 2]
                        await asyncio.to_thread(
                            registry.promote, NAME, version, _CHANNEL, "benchmark", f"reload {done}"
                        )
                    await asyncio.sleep(_SAMPLE_SECONDS)

            answered, failed = asyncio.run(_soak(address, load, rate, seconds, sample))
            replaced = _reloads(address)
    parts = [
        [row for row in answered if int(row[0] / seconds * _TENTHS) == tenth] for tenth in range(_TENTHS)
    ]
    levels = [
        statistics.median([size for now, size in memory if int(now / seconds * _TENTHS) == tenth] or [0])
        for tenth in range(_TENTHS)
    ]
    return {
        "name": "serving_soak", "unit": "the server's memory in the last tenth against the second",
        "ratio": round(levels[-1] / levels[1], 4), "ours": levels[-1], "peer": levels[1],
        "seconds": seconds, "rate": round(rate, 2), "capacity": most["rate"], "requests": len(answered),
        "failed": len(failed), "failures": failed[:5], "reloads": replaced, "wanted_reloads": reloads,
        "p50_ms": _quantiles(parts, 0.5), "p99_ms": _quantiles(parts, 0.99),
        "memory_mib": [round(level / 2**20, 1) for level in levels],
        "threads": threads, "cores": os.cpu_count(), "quick": quick, "versions": versions(),
    }  # fmt: skip


def _reloads(address: str) -> float:
    for row in httpx.get(f"{address}/metrics").text.splitlines():
        if row.startswith('rampart_reloads_total{outcome="replaced"}'):
            return float(row.rsplit(" ", 1)[1])
    return 0.0


def _quantiles(parts: list[list[tuple[float, float]]], share: float) -> list[float]:
    return [round(1e3 * float(np.quantile([took for _, took in part], share)), 1) for part in parts if part]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny detector, 40 seconds, three reloads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = measure(options.quick, options.threads)
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
