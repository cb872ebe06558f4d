"""PEERS/bin/python benchmarks/faces_peer.py NAME: one peer of benchmarks.faces, in the peers' environment.

Reads a job a line from standard input, {"videos": [{"path": …, "frames": [index, …]}, …], "min_face": n,
"size": n}, and answers each with a line {"seconds": s, "cpu": s, "boxes": [[[x0, y0, x1, y1] | null, …], …]}.
Each peer runs as its documentation shows: OpenCV reads the video, the wanted frames are searched, the largest
face of each is cut out. It imports nothing of Rampart.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2

Crops = tuple[list[Any], list[Any]]
BATCH = 4


def read(path: str, wanted: list[int]) -> list[Any]:
    """Decode the wanted frames to RGB; the others are grabbed, not converted."""
    capture, frames, left = cv2.VideoCapture(path), [], set(wanted)
    index = 0
    while left and capture.grab():
        if index in left:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
            left.remove(index)
        index += 1
    return frames


def facenet_pytorch(min_face: int, size: int) -> Callable[[list[Any]], Crops]:
    """Return facenet-pytorch's detector on batches of frames, as its README shows."""
    detector = importlib.import_module("facenet_pytorch").MTCNN(
        image_size=size, min_face_size=min_face, post_process=False
    )

    def run(frames: list[Any]) -> Crops:
        boxes, _ = detector.detect(frames)
        first = [None if found is None else found[:1] for found in boxes]
        crops = detector.extract(frames, first, None)
        return [None if found is None else found[0].tolist() for found in first], crops

    return run


def mtcnn(min_face: int, size: int) -> Callable[[list[Any]], Crops]:
    """Return mtcnn's detector and a crop of the largest face.

    Above its default of 20 pixels its pyramid has levels smaller than the network, which it answers with
    "no face"; they are left out here, as otherwise it would have to search for faces half as large.
    """
    stage: Any = importlib.import_module("mtcnn.stages.stage_pnet")
    scales = stage.build_scale_pyramid

    def build(width: int, height: int, **settings: Any) -> Any:
        found = scales(width, height, **settings)
        return found[found * min(width, height) >= 12]

    stage.build_scale_pyramid = build
    detector = importlib.import_module("mtcnn").MTCNN()

    def run(frames: list[Any]) -> Crops:
        boxes: list[Any] = []
        crops: list[Any] = []
        for image, faces in zip(frames, detector.detect_faces(frames, min_face_size=min_face), strict=True):
            best = max((face["box"] for face in faces), key=lambda box: box[2] * box[3], default=None)
            if best is None:
                boxes.append(None)
                continue
            x, y, width, height = (max(0, int(value)) for value in best)
            crops.append(cv2.resize(image[y : y + height, x : x + width], (size, size)))
            boxes.append([x, y, x + width, y + height])
        return boxes, crops

    return run


def work(run: Callable[[list[Any]], Crops], job: dict[str, Any], batch: int) -> dict[str, Any]:
    """Do one job and measure it."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = []
    for video in job["videos"]:
        frames = read(video["path"], video["frames"])
        boxes: list[Any] = []
        for start in range(0, len(frames), batch):
            boxes += run(frames[start : start + batch])[0]
        found.append(boxes)
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "boxes": found}


# name: what makes it, and how many frames it is given at once
PEERS = {
    "facenet_pytorch": (facenet_pytorch, BATCH),
    "mtcnn": (mtcnn, 1),
    "mtcnn_batched": (mtcnn, BATCH),
}


def main() -> None:
    """Answer jobs until standard input ends."""
    make, batch = PEERS[sys.argv[1]]
    run = None
    for line in sys.stdin:
        job = json.loads(line)
        run = run or make(job["min_face"], job["size"])
        sys.stdout.write(json.dumps(work(run, job, batch)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
