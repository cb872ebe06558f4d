"""python -m benchmarks.decode [--quick] --json: frames spread over a video, ours against OpenCV.

The video is H.264, 720p, 10 s, with a key frame every 250 and every 12 frames; 8 and 32 frames are wanted.
OpenCV's VideoCapture is used in the two usual ways: read every frame and keep the wanted ones; set
CAP_PROP_POS_FRAMES before each. As in preparation, two files are decoded side by side. `ratio` is the CPU
time of the better of OpenCV's two by ours, the smallest over the four cases; wall time stands beside it and
depends on what else the machine does. OpenCV decodes with as many threads as there are cores, we with one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import skimage.data

from dfcore.preprocessing import FrameSampling, decode
from dfcore.provenance import versions

FRAMES, RATE, HEIGHT, WIDTH = 300, 30, 720, 1280
SIDE_BY_SIDE = 2


def write_video(path: Path, gop: int) -> None:
    """Encode a panned photograph with a moving disc and sensor noise."""
    portrait = skimage.data.astronaut()  # type: ignore[no-untyped-call]  # skimage has no types
    scene = cv2.resize(np.tile(portrait, (2, 4, 1)), (2600, 1500))
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(FRAMES):
            x, y = int(400 + 300 * np.sin(number / 40)), int(200 + 150 * np.cos(number / 30))
            image = scene[y : y + HEIGHT, x : x + WIDTH].copy()
            cv2.circle(image, (int(640 + 400 * np.cos(number / 9)), 360), 90, (255, number % 255, 0), -1)
            noisy = cv2.add(image, rng.integers(0, 6, image.shape, dtype=np.uint8)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decode_ours(path: Path, count: int) -> list[int]:
    """Decode as preparation does; return the frames' numbers."""
    return [frame.index for frame in decode(path, FrameSampling(count=count)).frames]


def read_all(path: Path, count: int) -> list[int]:
    """Read every frame with OpenCV and keep the wanted ones as RGB."""
    capture = cv2.VideoCapture(str(path))
    wanted = set(_wanted(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), count))
    kept: dict[int, Any] = {}
    number = 0
    while True:
        read, image = capture.read()
        if not read:
            break
        if number in wanted:
            kept[number] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        number += 1
    capture.release()
    return sorted(kept)


def set_position(path: Path, count: int) -> list[int]:
    """Let OpenCV go to each wanted frame by its number."""
    capture = cv2.VideoCapture(str(path))
    kept: dict[int, Any] = {}
    for number in _wanted(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), count):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        read, image = capture.read()
        if read:
            kept[number] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    capture.release()
    return sorted(kept)


def _wanted(total: int, count: int) -> list[int]:
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def _timed(work: Callable[[Path, int], list[int]], path: Path, count: int) -> tuple[float, float, list[int]]:
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        frames = list(pool.map(lambda source: work(source, count), [path] * SIDE_BY_SIDE))
    share = 1 / SIDE_BY_SIDE
    return (time.perf_counter() - wall) * share, (time.process_time() - cpu) * share, frames[0]


def measure(path: Path, count: int, repetitions: int) -> dict[str, Any]:
    """Time the three in turn, so that a busy machine is busy for all of them."""
    ways = {"ours": decode_ours, "read_all": read_all, "set_position": set_position}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):  # the first is a warm-up
        frames = {}
        for name, work in ways.items():
            seconds, busy, frames[name] = _timed(work, path, count)
            if repetition:
                wall[name].append(seconds)
                cpu[name].append(busy)
        assert frames["ours"] == frames["read_all"] == frames["set_position"], "not the same frames"
    result: dict[str, Any] = {"count": count}
    for unit, times in (("wall", wall), ("cpu", cpu)):
        medians = {name: statistics.median(values) for name, values in times.items()}
        result[f"{unit}_ms"] = {name: round(1000 * value, 1) for name, value in medians.items()}
        peer = min(medians["read_all"], medians["set_position"])
        result[f"{unit}_ratio"] = round(peer / medians["ours"], 2)
        result[f"{unit}_spread_ms"] = {
            name: [round(1000 * min(values), 1), round(1000 * max(values), 1)]
            for name, values in times.items()
        }
    return result


def run(repetitions: int) -> dict[str, Any]:
    """Measure all cases and return the document."""
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for gop in (250, 12):
            path = Path(folder) / f"gop-{gop}.mp4"
            write_video(path, gop)
            cases += [{"gop": gop, **measure(path, count, repetitions)} for count in (8, 32)]
    worst = min(cases, key=lambda case: case["cpu_ratio"])
    peers = {name: value for name, value in worst["cpu_ms"].items() if name != "ours"}
    return {
        "name": "decode",
        "ratio": worst["cpu_ratio"],
        "ours": worst["cpu_ms"]["ours"],
        "peer": min(peers.values()),
        "peer_name": f"OpenCV VideoCapture, {min(peers, key=lambda name: peers[name])}",
        "unit": "CPU ms per video, 720p 10 s, the least favourable of four cases",
        "repetitions": repetitions,
        "spread": worst["cpu_spread_ms"],
        "cases": cases,
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = run(repetitions=2 if options.quick else 7)
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
