"""python -m benchmarks.faces [--quick] [--peers DIR] --json: from H.264 files to face crops, faces a second.

The videos are 720p, 10 s, one person each, rendered into a photographed scene under a moving camera; 32
frames of each are wanted, and the peers are given the numbers of the frames that ours took. A face counts if
its box and the place where it was drawn have an IoU of at least 0.5; `recall` is the share of frames in which
it was found. All run on two cores: ours as preparation runs, two videos side by side with one thread each,
the peers with their own threads. They take turns, so that a busy machine slows all alike; `ratio` compares
CPU time, which other work on the machine hardly changes, and `ratio_clock` the clock's. Above 20 pixels mtcnn
finds nothing because of its pyramid's last levels; they are left out for it. The peers live in DIR, made with
uv on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray

from dfcore.data import synthetic
from dfcore.preprocessing import (
    FaceDetector,
    MediaLimits,
    PreprocessingConfig,
    build_face_detector,
    decode_video,
    encode_video,
    find_faces,
)
from dfcore.provenance import versions

HEIGHT, WIDTH, FPS, CORES = 720, 1280, 25, 2
MIN_FACE, CROP, WANTED, SAME_IOU = 40, 224, 32, 0.5
PEERS = ("facenet_pytorch", "mtcnn", "mtcnn_batched")
TARGETS = {"facenet_pytorch": 5.0, "mtcnn": 8.0}
PACKAGES = (
    "facenet-pytorch==2.6.0", "mtcnn==1.0.0", "tensorflow-cpu==2.21.0", "opencv-python-headless==4.11.0.86"
)  # fmt: skip
# Inner face in the corpus's 256-pixel head patch, about what a detector's box holds.
_FACE = np.array([86, 60, 170, 168], np.float64)


def write_video(path: Path, number: int, num_frames: int) -> NDArray[np.float64]:
    """Encode one video; return where its face is, (T, 4)."""
    rng = np.random.default_rng([7, number])
    photograph = getattr(skimage.data, ("coffee", "rocket")[number % 2])()
    scene = cv2.resize(np.asarray(photograph, np.float32), (WIDTH + 240, HEIGHT + 120))
    head, mask = synthetic._face((7, 1), number), synthetic._head_mask()[..., None]
    scale, home = rng.uniform(0.8, 2.4), rng.uniform((0.25, 0.35), (0.75, 0.65)) * (WIDTH, HEIGHT)
    frequency, phase = rng.uniform(0.1, 0.6, 6), rng.uniform(0, 2 * np.pi, 6)
    noise = rng.normal(0, 1.5, (HEIGHT, WIDTH, 1)).astype(np.float32)
    frames, places = [], []
    for frame in range(num_frames):
        wave = np.sin(2 * np.pi * frequency * frame / FPS + phase)
        left, top = 120 + 110 * wave[0], 60 + 50 * wave[1]
        canvas = scene[round(top) : round(top) + HEIGHT, round(left) : round(left) + WIDTH]
        now = scale * (1 + 0.06 * wave[2])
        matrix = cv2.getRotationMatrix2D((128.0, 128.0), 7 * wave[3], now)
        shift = home + 60 * wave[4:6] - 128
        matrix[:, 2] += shift
        drawn = cv2.warpAffine(head, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)[..., None]
        image = canvas * (1 - alpha) + drawn * alpha + np.roll(noise, frame * 977)
        frames.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        places.append((_FACE - 128) * now + 128 + np.tile(shift, 2))
    encode_video(path, np.stack(frames), fps=FPS)
    return np.array(places)


class Ours:
    """Rampart's chain: two videos side by side, each decoded and searched by one thread."""

    def __init__(self, detect_every: int) -> None:
        self._config = PreprocessingConfig(
            image_size=CROP, min_face=MIN_FACE, frames_per_video=WANTED, detect_every=detect_every
        )
        self._detector: FaceDetector = build_face_detector(self._config)
        self._pool = ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,))
        cv2.setNumThreads(1)

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job and measure it."""
        wall, cpu = time.perf_counter(), time.process_time()
        boxes = list(self._pool.map(self._video, job["videos"]))
        return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "boxes": boxes}

    def _video(self, video: dict[str, Any]) -> list[list[float] | None]:
        frames = decode_video(Path(video["path"]), WANTED, MediaLimits())
        (crops,) = find_faces([frames], self._detector, self._config)
        found = {crop.frame_index: crop.face.box.tolist() for crop in crops}
        return [found.get(frame.index) for frame in frames]


class Peer:
    """A peer in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self._process = name, process

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Have one job done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped; see what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def started(name: str, folder: Path) -> Iterator[Peer]:
    """Run a peer, with as many threads as it takes by itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    # waiting threads sleep: spinning would count as work, and stall where others need the core
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [folder / "bin" / "python", Path(__file__).with_name("faces_peer.py"), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        yield Peer(name, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def make_environment(folder: Path) -> None:
    """Install the peers, unless they are there."""
    if (folder / "bin" / "python").exists():
        return
    uv, python = [sys.executable, "-m", "uv"], str(folder / "bin" / "python")
    subprocess.run([*uv, "venv", "--quiet", "--python", "3.11", str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *PACKAGES], check=True)


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the overlap of two boxes."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = float(sides.prod())
    return common / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)


def hits(answer: dict[str, Any], videos: list[dict[str, Any]]) -> int:
    """Count the frames in which the face was found where it is."""
    return sum(
        box is not None and iou(np.array(box), video["places"][frame]) >= SAME_IOU
        for boxes, video in zip(answer["boxes"], videos, strict=True)
        for box, frame in zip(boxes, video["frames"], strict=True)
    )


def measure(videos: list[dict[str, Any]], peers: Path, repetitions: int) -> dict[str, list[dict[str, Any]]]:
    """Let all take turns; return for each one record a repetition: faces, seconds, cpu."""
    with ExitStack() as stack:
        runners: dict[str, Any] = {"ours": Ours(4), "ours_every_frame": Ours(1)}
        runners |= {name: stack.enter_context(started(name, peers)) for name in PEERS}
        pairs = [videos[i : i + CORES] for i in range(0, len(videos), CORES)]
        jobs = [
            {"videos": [{"path": str(v["path"]), "frames": v["frames"]} for v in pair],
             "min_face": MIN_FACE, "size": CROP}
            for pair in pairs
        ]  # fmt: skip
        for name, run in runners.items():
            sys.stderr.write(f"warming up {name}\n")
            run(jobs[0])
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
        for repetition in range(repetitions):
            total: dict[str, Any] = {name: {"faces": 0, "seconds": 0.0, "cpu": 0.0} for name in runners}
            for pair, job in zip(pairs, jobs, strict=True):
                for name, run in runners.items():
                    answer = run(job)
                    total[name]["faces"] += hits(answer, pair)
                    total[name]["seconds"] += answer["seconds"]
                    total[name]["cpu"] += answer["cpu"]
            for name, record in total.items():
                records[name].append(record)
                sys.stderr.write(f"{repetition + 1}/{repetitions} {name}: {record}\n")
    return records


def summarise(records: dict[str, list[dict[str, Any]]], frames: int) -> dict[str, Any]:
    """Return rates, recall and ratios: medians over the repetitions, with the least and the greatest."""

    def over(name: str, clock: str) -> list[float]:
        return [record["faces"] / record[clock] for record in records[name]]

    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(values), 3), "min": round(min(values), 3),
            "max": round(max(values), 3),
        }  # fmt: skip

    document: dict[str, Any] = {}
    for name, own in records.items():
        document[name] = {
            "faces_per_second": spread(over(name, "seconds")),
            "faces_per_cpu_second": spread(over(name, "cpu")),
            "recall": round(own[0]["faces"] / frames, 4),
        }
        if name in PEERS:
            for key, clock in (("ratio", "cpu"), ("ratio_clock", "seconds")):
                pairs = zip(over("ours", clock), over(name, clock), strict=True)
                document[name][key] = spread([a / b for a, b in pairs])
        if name in TARGETS:
            document[name]["target"] = TARGETS[name]
    return document


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faces", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter videos")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "rampart-peers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    make_environment(options.peers)
    count, num_frames, repetitions = (2, 64, 2) if options.quick else (4, 250, 3)
    with tempfile.TemporaryDirectory(prefix="rampart-faces-") as folder:
        videos = []
        for number in range(count):
            sys.stderr.write(f"rendering video {number + 1}/{count}\n")
            path = Path(folder) / f"{number}.mp4"
            places = write_video(path, number, num_frames)
            frames = [frame.index for frame in decode_video(path, WANTED)]
            videos.append({"path": path, "places": places, "frames": frames})
        found = summarise(measure(videos, options.peers, repetitions), count * WANTED)
    document = {
        "name": "faces",
        "ratio": found["facenet_pytorch"]["ratio"]["median"],
        "ours": found["ours"]["faces_per_cpu_second"]["median"],
        "peer": found["facenet_pytorch"]["faces_per_cpu_second"]["median"],
        "unit": "faces a CPU second, from H.264 720p files to crops",
        "repetitions": repetitions,
        "videos": count, "frames_each": num_frames, "wanted_each": WANTED, "min_face": MIN_FACE,
        "results": found,
        "versions": versions(),
        "peer_versions": dict(package.split("==") for package in PACKAGES),
    }  # fmt: skip
    sys.stdout.write(json.dumps(document, indent=None if options.json else 2) + "\n")


if __name__ == "__main__":
    main()
