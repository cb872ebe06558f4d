"""A face-video corpus that needs no download, in the on-disk layouts of the real data sets.

One public-domain photograph (scikit-image's `astronaut`) is turned into any number of identities by smooth
warps, skin tone, light and texture. Each identity gets H.264 videos with head, camera and mouth motion.
Four manipulations leave four different traces; a fifth, only in the Celeb-DF layout, is never trained on.
Every manipulation also leaves what low-quality fakes leave in reality: a break of colour and of sharpness
between the inner face and its surroundings.

`rampart data synthesize --layout ffpp --out DIR --identities 48 --seed 0`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dfcore.config import suggest
from dfcore.errors import ConfigError, DataError
from dfcore.preprocessing import encode_video

__all__ = ["synthesize"]

Pixels = NDArray[Any]  # float32 (256, 256, C) in grey levels; OpenCV's stubs lose the type

FRAME_SIZE = 256
NUM_FRAMES = 16
FPS = 25
QUALITIES = {"c23": 23, "c40": 40}
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
UNSEEN_METHOD = "Celeb-synthesis"
MINIMUM_IDENTITIES = 6

# The part of the photograph that holds head and collar: left, top, side in pixels.
_HEAD_REGION = (80, 0, 300)
# Inner face and head in the 256-pixel head patch: centre x, y and radii x, y.
_INNER_FACE = (128.0, 116.0, 40.0, 50.0)
_HEAD = (128.0, 118.0, 100.0, 122.0)
_MOUTH = (128.0, 146.0)
# Generated faces come out warmer than their surroundings; the size of the break is in grey levels.
_BREAK_AXIS = np.array([0.75, -0.25, -0.75], dtype=np.float32)
_BREAK_LEVELS = (13.0, 20.0)
# The layouts draw their people from streams of their own, so that no identity is in both.
_STREAMS = {"ffpp": 1, "celebdf": 2}


@dataclass(frozen=True)
class _Video:
    """One file to write: whose head, whose face, by which manipulation (None: a real video)."""

    path: Path
    target: int
    source: int
    method: str | None
    take: int
    crf: int


def synthesize(
    layout: str,
    out: Path,
    *,
    identities: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a corpus of real and manipulated H.264 face videos.

    Args:
        layout: "ffpp" (FaceForensics++: c23 and c40, four methods, split files) or "celebdf"
            (Celeb-DF v2: one unseen method, test list).
        out: the folder to create; it appears only when it is whole.
        identities: how many people; even, at least 6.
        seed: the same seed gives the same pixels.
        progress: called with (videos written, videos in all).

    Returns:
        The folder.

    Raises:
        ConfigError: an unknown layout or an impossible number of identities.
        DataError: the folder holds something already.

    Source: layouts of FaceForensics++ (github.com/ondyari/FaceForensics) and Celeb-DF
        (github.com/yuezunli/celeb-deepfakeforensics).
    """
    if layout not in _STREAMS:
        raise ConfigError(f"expected layout ffpp or celebdf, got {layout!r}{suggest(layout, _STREAMS)}")
    if identities < MINIMUM_IDENTITIES or identities % 2:
        raise ConfigError(
            f"expected an even number of identities, at least {MINIMUM_IDENTITIES}, got {identities}"
        )
    if out.exists() and any(out.iterdir()):
        raise DataError(f"expected {out} to be new or empty; remove it or choose another folder")
    partial_folder = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    write = _plan_ffpp if layout == "ffpp" else _plan_celebdf
    try:
        partial_folder.mkdir(parents=True)
        videos = write(partial_folder, identities, np.random.default_rng([seed, _STREAMS[layout], 0]))
        _render_all(videos, (seed, _STREAMS[layout]), progress)
        if out.exists():
            out.rmdir()
        partial_folder.rename(out)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return out


def _plan_ffpp(root: Path, identities: int, rng: np.random.Generator) -> list[_Video]:
    order = rng.permutation(identities)
    pairs = [(int(a), int(b)) for a, b in zip(order[::2], order[1::2], strict=True)]
    held_out = max(1, round(len(pairs) * 0.2))
    splits = {
        "train": pairs[2 * held_out :],
        "val": pairs[held_out : 2 * held_out],
        "test": pairs[:held_out],
    }
    (root / "splits").mkdir()
    for name, chosen in splits.items():
        text = json.dumps([[f"{a:03d}", f"{b:03d}"] for a, b in chosen])
        (root / "splits" / f"{name}.json").write_text(text, encoding="utf-8")
    videos = []
    for quality, crf in QUALITIES.items():
        original = root / "original_sequences" / "youtube" / quality / "videos"
        videos += [_Video(original / f"{i:03d}.mp4", i, i, None, 0, crf) for i in range(identities)]
        for method in METHODS:
            folder = root / "manipulated_sequences" / method / quality / "videos"
            videos += [
                _Video(folder / f"{target:03d}_{source:03d}.mp4", target, source, method, 0, crf)
                for pair in pairs
                for target, source in (pair, pair[::-1])
            ]
    return videos


def _plan_celebdf(root: Path, identities: int, rng: np.random.Generator) -> list[_Video]:
    crf = QUALITIES["c23"]
    celebrities = identities * 2 // 3
    videos = [
        _Video(root / "Celeb-real" / f"id{i}_{take:04d}.mp4", i, i, None, take, crf)
        for i in range(celebrities)
        for take in range(2)
    ]
    videos += [
        _Video(root / "YouTube-real" / f"{i - celebrities:05d}.mp4", i, i, None, 0, crf)
        for i in range(celebrities, identities)
    ]
    for target in range(celebrities):
        others = [i for i in range(celebrities) if i != target]
        for take, source in enumerate(rng.choice(others, size=2, replace=False).tolist()):
            name = f"id{target}_id{source}_{take:04d}.mp4"
            videos.append(_Video(root / UNSEEN_METHOD / name, target, source, UNSEEN_METHOD, take, crf))
    # The published list names about a tenth of the videos; here it names every second person's.
    listed = [video for video in videos if video.target % 2 == 0 and video.source % 2 == 0]
    listed += [video for video in videos if video.target % 2 == 0 and video.source % 2 == 1]
    lines = [f"{int(video.method is None)} {video.path.parent.name}/{video.path.name}" for video in listed]
    (root / "List_of_testing_videos.txt").write_text("\n".join(lines), encoding="utf-8")
    return videos


def _render_all(
    videos: list[_Video], stream: tuple[int, int], progress: Callable[[int, int], None] | None
) -> None:
    for folder in {video.path.parent for video in videos}:
        folder.mkdir(parents=True)
    # Threads, not processes: OpenCV, NumPy and x264 release the lock, and nothing is imported twice.
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, _ in enumerate(pool.map(partial(_write_video, stream), videos), 1):
            if progress:
                progress(done, len(videos))
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts does not wait for the videos still to come
        cv2.setNumThreads(threads_before)


def _write_video(stream: tuple[int, int], video: _Video) -> None:
    frames = np.stack(list(_render(stream, video)))
    encode_video(video.path, frames, fps=FPS, crf=video.crf)


def _render(stream: tuple[int, int], video: _Video) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames, uint8 (256, 256, 3) RGB. Two qualities of one video share every pixel."""
    scene = np.random.default_rng([*stream, 1, video.target, video.take])
    # A fake is a recording of its own: the same head and room, but other motion and noise.
    kinds = (None, *METHODS, UNSEEN_METHOD)
    recording = np.random.default_rng(
        [*stream, 2, video.target, video.source, video.take, kinds.index(video.method)]
    )
    target = _face(stream, video.target)
    background = _background(scene)
    noise = recording.uniform(0.5, 3.0)
    paste = _manipulation(video.method, target, _face(stream, video.source), recording)
    for pose in _motion(recording):
        head = _express(target, pose["mouth"])
        if paste:
            head = paste(head, pose["mouth"])
        x, y = np.rint(pose["camera"] + 24).astype(int)
        canvas = background[y : y + FRAME_SIZE, x : x + FRAME_SIZE]
        matrix = cv2.getRotationMatrix2D((128.0, 128.0), pose["angle"], pose["scale"])
        matrix[:, 2] += pose["shift"]
        size = (FRAME_SIZE, FRAME_SIZE)
        placed = cv2.warpAffine(head, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        alpha = cv2.warpAffine(_head_mask(), matrix, size, flags=cv2.INTER_LINEAR)[..., None]
        frame = canvas * (1 - alpha) + placed * alpha
        frame += recording.normal(0, noise, (*size, 1)).astype(np.float32)
        yield np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def _motion(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield smooth head, camera and mouth motion, a pose for each frame."""
    time = np.arange(NUM_FRAMES) / FPS
    channels = 7
    frequency, phase = rng.uniform(0.3, 1.5, channels), rng.uniform(0, 2 * np.pi, channels)
    waves = np.sin(2 * np.pi * frequency * time[:, None] + phase)
    reach = rng.uniform(0.2, 1.0)
    size, home = rng.uniform(0.95, 1.15), rng.uniform(-14, 14, 2)
    for wave in waves:
        yield {
            "angle": 7 * reach * wave[0],
            "scale": size * (1 + 0.04 * reach * wave[1]),
            "shift": home + 8 * reach * wave[2:4],
            "camera": np.clip(12 * reach * wave[4:6], -24, 24),
            "mouth": 4 * wave[6],
        }


@cache
def _grid() -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[0:FRAME_SIZE, 0:FRAME_SIZE].astype(np.float32)
    return x, y


def _ellipse(shape: tuple[float, float, float, float], softness: float) -> Pixels:
    """Return a mask (256, 256) float32 in [0, 1]; softness is the width of its edge in radii."""
    x, y = _grid()
    cx, cy, rx, ry = shape
    radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    return np.clip((1 - radius) / softness + 0.5, 0, 1).astype(np.float32)


@cache
def _head_mask() -> Pixels:
    return _ellipse(_HEAD, 0.25)


@cache
def _photograph() -> Pixels:
    import skimage.data

    left, top, side = _HEAD_REGION
    photograph: NDArray[np.uint8] = skimage.data.astronaut()  # type: ignore[no-untyped-call]  # ships no types
    patch = photograph[top : top + side, left : left + side]
    resized: Pixels = cv2.resize(patch, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)
    return resized.astype(np.float32, copy=False)


def _smooth_noise(rng: np.random.Generator, cells: int, channels: int, size: int = FRAME_SIZE) -> Pixels:
    coarse = rng.normal(size=(cells, cells, channels)).astype(np.float32)
    fine = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return fine.reshape(size, size, channels)


@cache
def _face(stream: tuple[int, int], identity: int) -> Pixels:
    """Return one person's head patch, float32 (256, 256, 3) in grey levels."""
    rng = np.random.default_rng([*stream, 3, identity])
    x, y = _grid()
    bend = 5.0 * _smooth_noise(rng, 5, 2)
    cx, cy = _INNER_FACE[:2]
    stretch_x, stretch_y = rng.uniform(0.9, 1.1, 2)
    map_x = (x - cx) * np.float32(stretch_x) + np.float32(cx) + bend[..., 0]
    map_y = (y - cy) * np.float32(stretch_y) + np.float32(cy) + bend[..., 1]
    head = cv2.remap(_photograph(), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        head = np.ascontiguousarray(head[:, ::-1])
    gamma, gain = rng.uniform(0.8, 1.3), rng.uniform(0.85, 1.05, 3)
    head = 255 * (head / 255) ** np.float32(gamma) * gain.astype(np.float32)
    head *= 1 + 0.10 * _smooth_noise(rng, 3, 1)  # light
    for cells, levels in ((32, 2.5), (96, 2.0)):  # skin
        head += levels * rng.uniform(0.3, 1.0) * _smooth_noise(rng, cells, 1)
    return np.clip(head, 8, 247).astype(np.float32)


def _background(rng: np.random.Generator) -> Pixels:
    size = FRAME_SIZE + 48
    canvas = rng.uniform(60, 190, 3) + 25 * _smooth_noise(rng, 4, 3, size)
    canvas = canvas + rng.uniform(1, 6) * _smooth_noise(rng, 80, 1, size)
    canvas = np.ascontiguousarray(canvas, dtype=np.float32)
    for _ in range(int(rng.integers(2, 7))):
        corner, extent = rng.integers(0, size, 2), rng.integers(20, 120, 2)
        colour = tuple(float(value) for value in rng.uniform(30, 225, 3))
        start, end = tuple(corner.tolist()), tuple((corner + extent).tolist())
        cv2.rectangle(canvas, start, end, colour, thickness=-1)
    clipped: Pixels = np.clip(canvas, 0, 255)
    return clipped


def _express(face: Pixels, mouth: float) -> Pixels:
    """Open (positive) or close the mouth by up to a few pixels."""
    x, y = _grid()
    cx, cy = _MOUTH
    bump = np.exp(-(((x - cx) / 22) ** 2 + ((y - cy) / 16) ** 2)) * np.float32(mouth)
    map_y = y - bump * np.sign(y - np.float32(cy))
    warped: Pixels = cv2.remap(face, x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return warped


def _manipulation(
    method: str | None, target: Pixels, source: Pixels, rng: np.random.Generator
) -> Callable[[Pixels, float], Pixels] | None:
    """Return the function that pastes the manipulated inner face onto a head patch."""
    if method is None:
        return None
    if method in ("Face2Face", "NeuralTextures"):
        inner = target
    else:  # a swap: the source's face in the target's mean colour
        mask = _ellipse(_INNER_FACE, 0.3)[..., None]
        mean_of = partial(np.average, axis=(0, 1), weights=np.repeat(mask, 3, axis=2))
        inner = source + (mean_of(target) - mean_of(source)).astype(np.float32)
    levels = rng.uniform(*_BREAK_LEVELS)
    shift = (levels * _BREAK_AXIS + rng.normal(0, 1.5, 3)).astype(np.float32)
    warp = float(rng.choice([-1, 1])) * rng.uniform(3, 5)
    softness = {"FaceSwap": 0.04, "Deepfakes": 0.3}.get(method, 0.18)
    alpha = _ellipse(_INNER_FACE, softness)[..., None]

    def paste(head: Pixels, mouth: float) -> Pixels:
        face = _express(inner, mouth + warp if method == "Face2Face" else mouth)
        face = _TRACES[method](face) + shift
        return np.asarray(head * (1 - alpha) + face * alpha, dtype=np.float32)

    return paste


def _low_resolution(face: Pixels) -> Pixels:
    small = cv2.resize(face, (100, 100), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_LINEAR)


def _soften(sigma: float, face: Pixels) -> Pixels:
    soft: Pixels = cv2.GaussianBlur(face, (0, 0), sigma)
    return soft


def _upsampling_grid(face: Pixels) -> Pixels:
    x, y = _grid()
    grid = np.where((x.astype(int) // 2 + y.astype(int) // 2) % 2 == 0, 3.0, -3.0)
    return _soften(1.0, face) + grid[..., None].astype(np.float32)


def _oversharpen(face: Pixels) -> Pixels:
    return _soften(0.9, face + 1.2 * (face - _soften(1.5, face)))


_TRACES: dict[str, Callable[[Pixels], Pixels]] = {
    "Deepfakes": _low_resolution,
    "Face2Face": partial(_soften, 1.3),
    "FaceSwap": partial(_soften, 0.9),
    "NeuralTextures": _upsampling_grid,
    UNSEEN_METHOD: _oversharpen,
}
