"""Video through FFmpeg's libraries: frames spread over the whole of it, and only what they need decoded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av.error
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from dfcore.errors import InvalidInput, MediaError
from dfcore.preprocessing.config import FrameSampling, MediaLimits
from dfcore.preprocessing.container import Deadline, VideoFile
from dfcore.preprocessing.timeline import Run, Timeline, choose_times, plan_runs, read_timeline

__all__ = ["DecodedVideo", "Frame", "decode", "decode_video"]

# AV_FIELD_UNKNOWN, AV_FIELD_PROGRESSIVE: whole frames in a packet, never a field alone
_WHOLE_FRAMES = (0, 1)
# FFmpeg's quick conversion is a level too dark, and for some sizes and formats not the one it takes; only
# frames that are kept are converted, so the exact one (4 ms at 720p) costs little.
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


class Frame(NamedTuple):
    """One decoded frame: `image` (H, W, 3) uint8 RGB, its place in display order, its time in seconds."""

    image: NDArray[np.uint8]
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a frame for
    timestamp: float


class DecodedVideo(NamedTuple):
    """What came out of one file.

    Attributes:
        frames: the frames asked for, in display order.
        num_frames: how many frames the file shows in all.
        duration: seconds.
        damage: what was lost, in words; empty if nothing was.
    """

    frames: list[Frame]
    num_frames: int
    duration: float
    damage: str


def decode_video(source: Path | bytes, num_frames: int, limits: MediaLimits | None = None) -> list[Frame]:
    """Decode at most `num_frames` frames spread over the whole video by time; see `decode`.

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
    return decode(source, FrameSampling(count=num_frames), limits).frames


def decode(source: Path | bytes, sampling: FrameSampling, limits: MediaLimits | None = None) -> DecodedVideo:
    """Decode frames spread over the whole video by time, and no more than they need.

    A frame comes as it is shown: turned upright, without what an edit list cuts off, levels and colours by
    the matrix and range that the stream declares (BT.601 and limited where it declares none, as FFmpeg and
    OpenCV do), 10 bits rounded to 8. Interlaced video is not deinterlaced.

    A video with fewer frames gives all that there are, never one twice. From a cut-off or damaged video
    come as many good frames as there are, up to what was asked; a frame is good if it decodes without error
    and so does all that it builds on.

    Args:
        source: a file, which is not read into memory, or its bytes.
        sampling: which frames.
        limits: what is refused.

    Raises:
        MediaError: nothing decodes, or a limit is exceeded.
    """
    limits = limits or MediaLimits()
    video = VideoFile(source, limits)
    deadline = Deadline(limits.seconds_to_decode, video.name)
    with video:
        timeline = read_timeline(video, limits, deadline)
        decoder = _Decoder(video, timeline, limits, deadline)
        wanted = choose_times(timeline.times, sampling, timeline.time_base)
        images = decoder.take(wanted)
        missing = len(wanted) - len(images)
        damage = [timeline.lost] if timeline.lost else []
        if missing:
            good = decoder.good_times()
            again = choose_times(good, sampling, timeline.time_base) if good else []
            images = decoder.take(again, [Run(0, timeline.num_packets - 1)]) if again else {}
            if len(good) < len(timeline.times):
                lost = f"{missing} of {len(wanted)} wanted frames don't decode"
                damage.append(f"{lost}; {len(images)} good ones are given")
    if not images:
        raise MediaError(
            f"{video.name}expected a video with frames that decode, got none of {len(timeline.times)}; "
            "fetch it again"
        )
    start = timeline.times[0]
    frames = [
        Frame(image, bisect_left(timeline.times, moment), float((moment - start) * timeline.time_base))
        for moment, image in sorted(images.items())
    ]
    return DecodedVideo(frames, len(timeline.times), timeline.duration, "; ".join(damage))


class _UncleanJump(Exception):
    """A packet marked as key does not decode on its own."""


class _Decoder:
    def __init__(self, video: VideoFile, timeline: Timeline, limits: MediaLimits, deadline: Deadline) -> None:
        self._video = video
        self._timeline = timeline
        self._limits = limits
        self._deadline = deadline
        self._bad: set[int] = set()  # positions of packets that don't decode
        self._used = 0

    def take(self, wanted: Sequence[int], plan: list[Run] | None = None) -> dict[int, NDArray[np.uint8]]:
        """Decode the wanted times; those that don't decode are not in the result."""
        context = self._video.stream.codec_context
        self._reserve(len(wanted) * context.width * context.height * 3)
        last = self._timeline.num_packets - 1
        if not self._timeline.ordered:
            plan = [Run(0, last)]
        try:
            return self._take(set(wanted), plan_runs(self._timeline, wanted) if plan is None else plan)
        except _UncleanJump:
            self._bad.clear()  # in part the jump's own
            last = max(self._timeline.position[moment] for moment in wanted)
            return self._take(set(wanted), [Run(0, last)])

    def _take(self, wanted: set[int], plan: list[Run]) -> dict[int, NDArray[np.uint8]]:
        images: dict[int, NDArray[np.uint8]] = {}
        self._used = 0
        for run in plan:
            for moment, decoded in self._frames(run, wanted):
                if moment in wanted and moment not in images:
                    self._reserve(self._used + decoded.width * decoded.height * 3)
                    images[moment] = _pixels(decoded)
                    self._used += images[moment].nbytes
        return {moment: image for moment, image in images.items() if self._is_good(moment)}

    def good_times(self) -> list[int]:
        """Decode everything and list the times of the frames that are good."""
        last = self._timeline.num_packets - 1
        self._bad.clear()
        found = {moment for moment, _ in self._frames(Run(0, last), None)}
        return sorted(moment for moment in found if self._is_good(moment))

    def _is_good(self, moment: int) -> bool:
        # Errors travel along references to the next key frame, also to frames that are shown earlier; and
        # damage often begins in the packet before the first that fails.
        position = self._timeline.position.get(moment)
        if position is None or not self._bad:
            return True
        return not any(self._timeline.key_before(position) <= bad <= position + 1 for bad in self._bad)

    def _reserve(self, size: int) -> None:
        limit = self._limits.max_memory_bytes
        if size > limit:
            raise MediaError(
                f"{self._video.name}expected at most max_memory_bytes={limit} of frames, got {size}; "
                "ask for fewer frames, or resize the video"
            )

    def _frames(self, run: Run, wanted: set[int] | None) -> Iterator[tuple[int, Any]]:
        """Yield (time, frame) in display order; of those not wanted, what nothing builds on is skipped."""
        # None once the key frame that was jumped to has come out
        entry = self._timeline.key_times[self._timeline.keys.index(run.first)] if run.first else None
        number = 0
        for decoded in self._decoded(run, wanted):
            self._deadline.check()
            moment = decoded.pts
            if not self._timeline.ordered:
                moment = self._timeline.times[number] if number < len(self._timeline.times) else None
                number += 1
            if moment is None or (entry is not None and moment < entry):
                continue  # shown before the key frame: it builds on what was jumped over
            if entry is not None and (moment != entry or decoded.pict_type != PictureType.I):
                raise _UncleanJump
            entry = None
            if decoded.is_corrupt:
                self._bad.add(self._timeline.position.get(moment, 0))
            else:
                yield moment, decoded

    def _decoded(self, run: Run, wanted: set[int] | None) -> Iterator[Any]:
        context = self._video.stream.codec_context
        unskipped = wanted or ()
        # By H.264's rules nothing refers to these pictures; in HEVC a higher temporal layer may.
        skipping = (
            wanted is not None and self._timeline.ordered
            and context.name == "h264" and context.field_order in _WHOLE_FRAMES
        )  # fmt: skip
        for position, packet in self._packets(run.first):
            skip = skipping and packet.pts not in unskipped
            self._video.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            if packet.is_corrupt:
                self._bad.add(position)
            yield from self._send(packet, position)
            if position >= run.last:
                break
        # what the decoder still holds back comes out without any further packet
        yield from self._send(None, run.last)

    def _send(self, packet: Any, position: int) -> list[Any]:
        try:
            decoded: list[Any] = self._video.stream.codec_context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self._bad.add(position)  # its neighbours may be good
            return []
        return decoded

    def _packets(self, first: int) -> Iterator[tuple[int, Any]]:
        """Yield (position, packet) from a key frame on, by seeking; where that fails, by reading up to it."""
        position: int | None = None
        for packet in self._sought(first):
            if position is None:
                position = self._timeline.packet_at.get((packet.pts, packet.size))
                if position is not None and position > first:
                    break
            else:
                position += 1
            if position is not None and position >= first:
                yield position, packet
        else:
            if position is not None:
                return
        self._video.reopen()
        for position, packet in enumerate(self._read()):
            if position >= first:
                yield position, packet

    def _sought(self, first: int) -> Iterator[Any]:
        """Yield packets from where a seek to a key frame lands; none if it fails."""
        if first not in self._timeline.keys:
            return
        moment = self._timeline.seek_times[self._timeline.keys.index(first)]
        try:
            self._video.container.seek(moment, stream=self._video.stream)
        except av.error.FFmpegError:
            return
        yield from self._read()

    def _read(self) -> Iterator[Any]:
        packets = self._video.container.demux(self._video.stream)
        while True:
            self._deadline.check()
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return
            if packet.size:
                yield packet


def _pixels(decoded: Any) -> NDArray[np.uint8]:
    # one thread, as in decoding: videos run side by side
    image: NDArray[np.uint8] = decoded.to_ndarray(format="rgb24", interpolation=_EXACT, threads=1)
    matrix = decoded.side_data.get("DISPLAYMATRIX")
    return image if matrix is None else _upright(image, np.frombuffer(bytes(matrix), dtype=np.int32))


def _upright(image: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and mirror by the nearest of the eight orientations of a display matrix (a b u, c d v, x y w)."""
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    if a < 0:
        image = image[:, ::-1]
    if d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
