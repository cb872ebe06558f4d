"""H.264 in MP4 through libx264: writing videos, and the real codec's losses."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from dfcore.errors import InvalidInput, ShapeError, WorkFailed
from dfcore.preprocessing.image import check_frames
from dfcore.preprocessing.video import decode_video

__all__ = ["encode_video", "h264_roundtrip"]

_MAX_CRF = 51


def encode_video(path: Path | None, frames: NDArray[np.uint8], *, fps: int = 25, crf: int = 23) -> bytes:
    """Encode frames as H.264 (libx264, yuv420p) in MP4; the same frames give the same bytes.

    Args:
        path: written atomically if given.
        frames: (T, H, W, 3) uint8 RGB with even H and W.
        fps: frames a second.
        crf: x264's constant rate factor, 0 (best) to 51.

    Returns:
        The file's bytes.

    Raises:
        ShapeError: other frames, or odd sizes.
        InvalidInput: another fps or crf.
    """
    check_frames(frames)
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ShapeError(
            f"expected even height and width for yuv420p, got {frames.shape[1:3]}; pad the frames"
        )
    if not 0 <= crf <= _MAX_CRF or fps < 1:
        raise InvalidInput(f"expected crf 0 to {_MAX_CRF} and fps of at least 1, got crf={crf}, fps={fps}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    # A real file, not memory: the index is moved to the front, so that a cut-off copy still plays.
    with tempfile.TemporaryDirectory(dir=path.parent if path else None, prefix=".encode-") as folder:
        temporary = Path(folder) / "video.mp4"
        _encode(temporary, frames, fps, crf)
        if path is not None:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        data = temporary.read_bytes()
        if path is not None:
            temporary.replace(path)
    return data


def _encode(path: Path, frames: NDArray[np.uint8], fps: int, crf: int) -> None:
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=muxing) as container:
        # one thread: x264's rate control depends on how many there are
        # mbtree=0: its lookahead makes some runs on the same frames differ, even with one thread
        options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        stream: Any = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def h264_roundtrip(frames: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Compress frames as one H.264 video and decode them again: the real codec's losses.

    Args:
        frames: (T, H, W, 3) uint8 RGB, any size (odd sides are padded, then cropped back).
        crf: 0 (best) to 51.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        ShapeError: other frames.
        InvalidInput: another crf.
        WorkFailed: the codec gave back another number of frames.
    """
    check_frames(frames)
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    decoded = decode_video(encode_video(None, even, crf=crf), len(frames))
    if len(decoded) != len(frames):
        raise WorkFailed(f"expected {len(frames)} frames back from H.264, got {len(decoded)}")
    return np.stack([frame.image for frame in decoded])[:, :height, :width]
