"""From a sample to frames in memory, with the reason where there are none or fewer than asked for."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dfcore.data.inputs import read_frames
from dfcore.data.manifest import Sample
from dfcore.errors import InvalidInput, MediaError
from dfcore.preprocessing import Frame, FrameSampling, MediaLimits, PreprocessingConfig, decode, decode_image
from dfcore.provenance import sha256_file

__all__ = ["Input", "read_input", "sampling_of"]

Mask = NDArray[np.uint8]

# The files are the user's own: what must not stop a shard is time and memory, not a large file.
LIMITS = MediaLimits(max_bytes=64 * 2**30, max_frames=2_000_000, max_seconds=24 * 3600.0)
_STILLS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


class Input(NamedTuple):
    """One sample after decoding; without frames `outcome` says why.

    `masks` holds for each frame the manipulation mask (H, W) uint8, or None.
    """

    sample: Sample
    frames: list[Frame]
    masks: list[Mask | None]
    outcome: str
    detail: str


def sampling_of(config: PreprocessingConfig) -> FrameSampling:
    """Return which frames of a video the settings ask for."""
    if config.every_seconds is not None:
        return FrameSampling(every_seconds=config.every_seconds)
    return FrameSampling(count=config.frames_per_video)


def read_input(root: Path, sample: Sample, config: PreprocessingConfig) -> Input:
    """Decode one sample's frames and its masks; never raises for what is wrong with the input.

    Args:
        root: the manifest's root.
        sample: what to read.
        config: how many frames.

    Returns:
        The frames; its outcome is "ok", "partial", "unreadable", "missing" or "altered".
    """
    path = root / sample.path
    try:
        if not _is_unaltered(path, sample):
            return Input(sample, [], [], "altered", "the file is not the one that was scanned; scan again")
        frames, detail = _frames(root, sample, config)
    except InvalidInput as error:
        return Input(sample, [], [], "unreadable", str(error))
    except OSError as error:
        outcome = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Input(sample, [], [], outcome, error.strerror or str(error))
    if not frames:
        return Input(sample, [], [], "unreadable", detail or "no frame decodes")
    try:
        masks = _masks(root, sample, config, frames)
    except (InvalidInput, OSError) as error:
        detail = "; ".join(filter(None, (detail, f"its mask can't be read: {error}")))
        masks = [None] * len(frames)
    return Input(sample, frames, masks, "partial" if detail else "ok", detail)


def _is_unaltered(path: Path, sample: Sample) -> bool:
    status = path.stat()
    if path.is_dir():
        return True  # its stills are looked at when they are read
    if (status.st_size, status.st_mtime_ns) == (sample.size, sample.mtime_ns):
        return True
    return sample.kind == "frames" or sha256_file(path) == sample.sha256


def _frames(root: Path, sample: Sample, config: PreprocessingConfig) -> tuple[list[Frame], str]:
    if sample.kind == "image":
        return [Frame(decode_image((root / sample.path).read_bytes(), LIMITS), 0, 0.0)], ""
    if sample.kind == "video":
        decoded = decode(root / sample.path, sampling_of(config), LIMITS)
        frames = _capped(decoded.frames, config)
        short = decoded.damage
        if not short and config.every_seconds is None and len(frames) < config.frames_per_video:
            short = f"{len(frames)} of {config.frames_per_video} frames: the video has no more"
        return frames, short
    stills = read_frames(root, sample, config.frames_per_video)
    frames, lost = [], []
    for place, data in stills:
        try:
            # stills carry no time: their place in display order stands for it
            frames.append(Frame(decode_image(data, LIMITS), place, float(place)))
        except MediaError as error:
            lost.append(f"{sample.frames[place]}: {error}")
    if lost:
        return frames, f"{len(frames)} of {len(stills)} frames; {lost[0]}"
    if len(frames) < config.frames_per_video:
        return frames, f"{len(frames)} of {config.frames_per_video} frames: there are no more"
    return frames, ""


def _capped(frames: list[Frame], config: PreprocessingConfig) -> list[Frame]:
    """Thin frames that were sampled by time to the cap, evenly."""
    if len(frames) <= config.frames_per_video:
        return frames
    count = config.frames_per_video
    return [frames[int((i + 0.5) * len(frames) / count)] for i in range(count)]


def _masks(
    root: Path, sample: Sample, config: PreprocessingConfig, frames: Sequence[Frame]
) -> list[Mask | None]:
    """Find each frame's mask: of the same number in a video, of the same name in a folder of stills."""
    if not sample.mask:
        return [None] * len(frames)
    path = root / sample.mask
    if path.is_dir():
        return _still_masks(path, sample, frames)
    if path.suffix.lower() in _STILLS:
        return [_flat(decode_image(path.read_bytes(), LIMITS))] * len(frames)
    masks = decode(path, sampling_of(config), LIMITS).frames
    places = [mask.index for mask in masks]
    found = [bisect_left(places, frame.index) for frame in frames]
    return [
        _flat(masks[place].image) if place < len(places) and places[place] == frame.index else None
        for place, frame in zip(found, frames, strict=True)
    ]


def _still_masks(folder: Path, sample: Sample, frames: Sequence[Frame]) -> list[Mask | None]:
    by_number = {_number(path.stem): path for path in folder.iterdir() if path.suffix.lower() in _STILLS}
    masks: list[Mask | None] = []
    for frame in frames:
        name = sample.frames[frame.index] if sample.kind == "frames" else str(frame.index)
        path = by_number.get(_number(Path(name).stem))
        masks.append(None if path is None else _flat(decode_image(path.read_bytes(), LIMITS)))
    return masks


def _flat(image: Mask) -> Mask:
    return np.ascontiguousarray(image.max(axis=2))


def _number(stem: str) -> Any:
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else stem
