"""Video through FFmpeg's libraries: decode frames spread by time, encode and re-encode H.264."""

from __future__ import annotations

import io
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from dfcore.errors import InvalidInput, MediaError, ShapeError, WorkFailed
from dfcore.preprocessing.config import MediaLimits
from dfcore.preprocessing.image import check_frames

__all__ = ["Frame", "decode_video", "encode_video", "h264_roundtrip", "is_video"]

_MOV_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MAX_CRF = 51
_HEADER_BYTES = 512


class Frame(NamedTuple):
    """One decoded frame: `image` (H, W, 3) uint8 RGB, its place in display order, its time in seconds."""

    image: NDArray[np.uint8]
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a frame for
    timestamp: float


def _demuxer(header: bytes) -> str | None:
    """Name FFmpeg's demuxer by magic bytes; playlists, which could open other files, have none."""
    if header[4:8] in _MOV_ATOMS:
        return "mov"
    if header.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if header.startswith(b"RIFF") and header[8:12] == b"AVI ":
        return "avi"
    if header.startswith(b"FLV\x01"):
        return "flv"
    if header[:1] == b"\x47" and header[188:189] == b"\x47":
        return "mpegts"
    return None


def is_video(data: bytes) -> bool:
    """Say by magic bytes whether this is a video container (MP4/MOV, Matroska/WebM, AVI, FLV, MPEG-TS).

    HEIC and AVIF stills share MP4's container and are told apart by their brand.
    """
    still = data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"heic", b"heix", b"mif1")
    return _demuxer(data[:_HEADER_BYTES]) is not None and not still


def decode_video(source: Path | bytes, num_frames: int, limits: MediaLimits | None = None) -> list[Frame]:
    """Decode frames spread over the whole video by time: the middle of each of `num_frames` equal spans.

    A cut-off or damaged video gives the good frames; a video with fewer frames gives all that there are,
    never one twice. Phone videos are turned upright.

    Args:
        source: a file or its bytes.
        num_frames: how many frames at most.
        limits: what is refused.

    Returns:
        1 to `num_frames` frames in display order.

    Raises:
        InvalidInput: `num_frames` below 1.
        MediaError: nothing decodes, or a limit is exceeded.
    """
    if num_frames < 1:
        raise InvalidInput(f"expected num_frames of at least 1, got {num_frames}")
    limits = limits or MediaLimits()
    times = _frame_times(source, limits)
    wanted = _spread(times, num_frames)
    frames: list[Frame] = []
    with _opened(source, limits) as (container, stream):
        for decoded in _good_frames(container, stream):
            if decoded.width * decoded.height > limits.max_pixels:
                raise MediaError(f"expected at most max_pixels={limits.max_pixels}, got a larger frame")
            if decoded.pts is None or decoded.pts < wanted[len(frames)]:
                continue
            # Past a damaged stretch several wanted times lie behind; each good frame serves only one.
            index = bisect_left(times, decoded.pts)
            seconds = float((decoded.pts - times[0]) * stream.time_base)
            frames.append(Frame(_pixels(decoded), index, seconds))
            if len(frames) == len(wanted):
                break
    if not frames:
        raise MediaError(f"expected a video with frames that decode, got none in {_name(source)}")
    return frames


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes"


@contextmanager
def _opened(source: Path | bytes, limits: MediaLimits) -> Iterator[tuple[Any, Any]]:
    """Yield (container, video stream), decoding in one thread so that damage shows the same everywhere."""
    try:
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        if size > limits.max_bytes:
            raise MediaError(
                f"expected at most max_bytes={limits.max_bytes}, got {size}; send a smaller file"
            )
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            header = file.read(_HEADER_BYTES)
            file.seek(0)
            if not is_video(header):
                raise MediaError(f"expected a video (MP4, Matroska, AVI, FLV, TS), got {_name(source)}")
            with av.open(file, format=_demuxer(header)) as container:
                if not container.streams.video:
                    raise MediaError(f"expected a video stream, got none in {_name(source)}")
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                pixels = stream.codec_context.width * stream.codec_context.height
                if pixels > limits.max_pixels:
                    raise MediaError(
                        f"expected at most max_pixels={limits.max_pixels} a frame, got {pixels}; resize"
                    )
                yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"expected a video that decodes, got {_name(source)}: {error}") from error


def _frame_times(source: Path | bytes, limits: MediaLimits) -> list[int]:
    """List every frame's presentation time from the packets alone: no header is believed."""
    times: list[int] = []
    with _opened(source, limits) as (container, stream):
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                break  # the file ends here, whole or cut off
            if packet.size and packet.pts is not None and not (packet.is_discard or packet.is_corrupt):
                times.append(packet.pts)
            if len(times) > limits.max_frames:
                raise MediaError(f"expected at most max_frames={limits.max_frames}, got more; cut the video")
        times = sorted(set(times))
        if times and (times[-1] - times[0]) * stream.time_base > limits.max_seconds:
            raise MediaError(f"expected at most max_seconds={limits.max_seconds}, got a longer video; cut it")
    if not times:
        raise MediaError(f"expected a video with frames, got none in {_name(source)}")
    return times


def _spread(times: list[int], num_frames: int) -> list[int]:
    """Choose at most `num_frames` different times, one near the middle of each equal span."""
    if len(times) <= num_frames:
        return times
    step = (times[-1] - times[0]) / (len(times) - 1)
    middles = times[0] + (np.arange(num_frames) + 0.5) / num_frames * (times[-1] - times[0] + step)
    chosen: list[int] = []
    floor = 0
    for place, middle in enumerate(middles):
        # leave one frame for each span that is still to come
        ceiling = len(times) - (num_frames - place)
        floor = min(max(bisect_left(times, middle - step / 2), floor), ceiling)
        chosen.append(times[floor])
        floor += 1
    return chosen


def _good_frames(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            decoded = next(packets).decode()
        except StopIteration:
            return
        except av.error.InvalidDataError:
            continue  # a damaged packet: its neighbours may be good
        except av.error.EOFError:
            return
        yield from (frame for frame in decoded if not frame.is_corrupt)


def _pixels(frame: Any) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


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
