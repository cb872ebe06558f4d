"""Real pictures for the tests: NASA's portrait of Eileen Collins, still and moving, in every container."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
import skimage.data
from av.video.reformatter import Interpolation
from numpy.typing import NDArray


def astronaut() -> NDArray[np.uint8]:
    """(512, 512, 3) uint8 RGB with one face."""
    return np.asarray(skimage.data.astronaut(), dtype=np.uint8)


@cache
def moving_astronaut(num_frames: int = 24, shift: int = 0) -> NDArray[np.uint8]:
    """(T, 160, 160, 3): the head drifts one pixel a frame; brightness rises, to tell frames apart."""
    small = cv2.resize(astronaut()[:320], (256, 160), interpolation=cv2.INTER_AREA)
    clip = [
        small[:, 20 + shift + t : 180 + shift + t].astype(int) * (60 + t) // 100 for t in range(num_frames)
    ]
    return np.stack(clip).astype(np.uint8)


def small_clip(num_frames: int = 24, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """(T, *size, 3) of the moving astronaut."""
    return np.stack([cv2.resize(image, size[::-1]) for image in moving_astronaut(num_frames)])


def encoded(
    frames: NDArray[np.uint8],
    container: str = "mp4",
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    gop: int = 6,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    rate: int = 24,
    rotation: tuple[float, bool] | None = None,
    colour: tuple[int, int] | None = None,
) -> bytes:
    """Encode frames with any codec into any container.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        times: when each is shown, in frames of `rate`; every frame in turn by default.
        rotation: degrees counter-clockwise, and whether mirrored, for the display matrix.
        colour: matrix and range as FFmpeg numbers them, converted to and declared.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=dict(muxing or {})) as output:
        add_stream(output, frames, codec, pix_fmt, gop, options, rate, rotation, colour)
        mux(output, [frames], times, rate, colour)
    return file.getvalue()


def add_stream(
    output: Any,
    frames: NDArray[np.uint8],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 6,
    options: Mapping[str, str] | None = None,
    rate: int = 24,
    rotation: tuple[float, bool] | None = None,
    colour: tuple[int, int] | None = None,
) -> None:
    """Add a video stream to an open file."""
    one_thread = {"threads": "1", **(options or {})}
    if codec == "libx265":
        one_thread["x265-params"] = "log-level=none:pools=none:frame-threads=1"
    stream = output.add_stream(codec, rate=rate, options=one_thread)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    stream.codec_context.gop_size = gop
    if rotation is not None:
        stream.set_display_rotation(rotation[0], hflip=rotation[1])
    if colour is not None:
        stream.codec_context.colorspace, stream.codec_context.color_range = colour


def mux(
    output: Any,
    clips: Sequence[NDArray[np.uint8]],
    times: Sequence[int] | None = None,
    rate: int = 24,
    colour: tuple[int, int] | None = None,
) -> None:
    """Write a clip into each video stream of an open file."""
    for stream, frames in zip(output.streams.video, clips, strict=True):
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if colour is not None:
                frame = frame.reformat(
                    format=stream.pix_fmt, dst_colorspace=colour[0], dst_color_range=colour[1]
                )
            frame.pts = times[number] if times is not None else number
            frame.time_base = Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def decoded_in_full(data: bytes) -> list[NDArray[np.uint8]]:
    """Every frame that FFmpeg shows, decoded from the first to the last without a jump or a skip."""
    with av.open(io.BytesIO(data)) as container:
        exact = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
        return [frame.to_ndarray(format="rgb24", interpolation=exact) for frame in container.decode(video=0)]
