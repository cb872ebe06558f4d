"""When a video's frames are shown, from its packets alone, and which of them to take."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av.error

from dfcore.errors import MediaError
from dfcore.preprocessing.config import FrameSampling, MediaLimits
from dfcore.preprocessing.container import Deadline, VideoFile

__all__ = ["Run", "Timeline", "choose_times", "plan_runs", "read_timeline"]

# A jump to a key frame costs about as much as decoding this many frames.
_JUMP_COST = 2
_LATE = Fraction(1, 20)


@dataclass(frozen=True)
class Timeline:
    """A video's packets, seen once and not decoded. "Position" is a packet's place in decoding order.

    Attributes:
        times: when each shown frame is shown, ascending, in units of `time_base`.
        position: the position of each of these times.
        keys: positions of key frames, ascending.
        seek_times: what to seek to for each position in `keys`.
        packet_at: (pts, size) of a packet to its position, to know where a seek has landed.
        key_times: each key's presentation time.
        num_packets: how many there are.
        ordered: False where packets carry no presentation time, so that frames have to be counted.
        lost: what the file should have and does not, in words.
    """

    times: list[int]
    position: dict[int, int]
    keys: list[int]
    key_times: list[int]
    seek_times: list[int]
    packet_at: dict[tuple[int | None, int], int]
    num_packets: int
    time_base: Fraction
    ordered: bool
    lost: str

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last one's end."""
        return float((self.times[-1] - self.times[0] + _step(self.times)) * self.time_base)

    def key_before(self, position: int) -> int:
        """Return the position of the key frame that a position builds on (0 where there is none)."""
        place = bisect_right(self.keys, position) - 1
        return self.keys[place] if place >= 0 else 0


class Run(NamedTuple):
    """Packets `first` to `last` (positions, inclusive), decoded without a jump."""

    first: int
    last: int


def _step(times: Sequence[int]) -> Fraction:
    return Fraction(times[-1] - times[0], len(times) - 1) if len(times) > 1 else Fraction(0)


def read_timeline(video: VideoFile, limits: MediaLimits, deadline: Deadline) -> Timeline:
    """Read every packet once, without decoding: no header is believed.

    Raises:
        MediaError: there is no frame, or a limit is exceeded.
    """
    ordered = not (video.format == "avi" and video.stream.codec_context.has_b_frames)
    packets, broken = _read_packets(video, limits, deadline)
    if not any(packet.pts is not None for packet in packets):
        ordered = False
    position: dict[int, int] = {}
    for place, packet in enumerate(packets):
        shown = packet.pts if ordered else packet.dts if packet.dts is not None else packet.pts
        if shown is not None and not (packet.hidden or packet.damaged):
            position.setdefault(shown, place)
    times = sorted(position)
    if not times:
        raise video.unreadable("a header without any")
    time_base = video.stream.time_base
    if (times[-1] - times[0]) * time_base > limits.max_seconds:
        raise MediaError(
            f"{video.name}expected at most max_seconds={limits.max_seconds:g}, got a longer video; cut it"
        )
    keys = [place for place, packet in enumerate(packets) if packet.key and packet.pts is not None]
    key_times = [packets[key].pts or 0 for key in keys]
    # MPEG-TS is searched for decoding times, the others for presentation times
    decoding_times = [packets[key].dts for key in keys] if video.format == "mpegts" else key_times
    return Timeline(
        times=times,
        position=position,
        keys=keys,
        key_times=key_times,
        seek_times=[shown if at is None else at for at, shown in zip(decoding_times, key_times, strict=True)],
        packet_at={(packet.pts, packet.size): place for place, packet in enumerate(packets)},
        num_packets=len(packets),
        time_base=time_base,
        ordered=ordered,
        lost=_missing(video, times, packets, broken),
    )


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    size: int
    key: bool
    hidden: bool
    damaged: bool


def _read_packets(video: VideoFile, limits: MediaLimits, deadline: Deadline) -> tuple[list[_Packet], bool]:
    """List the packets, and say whether the file breaks off."""
    found: list[_Packet] = []
    packets = video.container.demux(video.stream)
    while True:
        deadline.check()
        try:
            packet = next(packets)
        except StopIteration:
            return found, False
        except av.error.FFmpegError:
            return found, True
        if not packet.size:
            continue
        found.append(
            _Packet(
                packet.pts, packet.dts, packet.size, packet.is_keyframe, packet.is_discard, packet.is_corrupt
            )
        )
        if len(found) > limits.max_frames:
            raise MediaError(
                f"{video.name}expected at most max_frames={limits.max_frames}, got more; cut the video"
            )


def _missing(video: VideoFile, times: list[int], packets: list[_Packet], broken: bool) -> str:
    """Say what is missing compared with what the container declares."""
    # an MP4's index, unlike its header, leaves out what an edit list cuts off
    declared = len(video.stream.index_entries) if video.format == "mov" else 0
    whole = sum(not packet.damaged for packet in packets)
    if declared > whole:
        return f"the file is cut off: {declared - whole} of {declared} frames are missing"
    end = float((times[-1] + _step(times)) * video.stream.time_base)
    tagged = _clock_seconds(video.stream.metadata.get("DURATION", ""))
    if tagged > max(end + 1, 1.1 * end):
        return f"the file is cut off: {tagged - end:.1f} of {tagged:.1f} s are missing"
    damaged = len(packets) - whole
    if damaged:
        return f"{damaged} of {len(packets)} packets are damaged"
    return "the file breaks off" if broken else ""


def _clock_seconds(text: str) -> float:
    """Read Matroska's "00:00:10.033000000"; anything else is 0."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def choose_times(times: Sequence[int], sampling: FrameSampling, time_base: Fraction) -> list[int]:
    """Choose different times from ascending ones: for each moment asked for, the frame on screen then.

    Args:
        times: ascending, different, at least one.
        sampling: `count` asks for the middle of each of `count` equal spans, `every_seconds` for the start
            and each `every_seconds` after it; with both, `count` is the most that is taken.
        time_base: seconds per unit of `times`.
    """
    if sampling.every_seconds is not None:
        every = Fraction(sampling.every_seconds).limit_denominator(10**6) or Fraction(1, 10**6)
        chosen = _regular(times, every / time_base)
        if sampling.count is None or len(chosen) <= sampling.count:
            return chosen
    assert sampling.count is not None
    return _spread(times, sampling.count)


def _on_screen(times: Sequence[int], after: Fraction) -> int:
    # Some containers round times to milliseconds: the next frame may be due a little late.
    return bisect_right(times, times[0] + math.floor(after + _step(times) * _LATE)) - 1


def _spread(times: Sequence[int], count: int) -> list[int]:
    if len(times) <= count:
        return list(times)
    span = times[-1] - times[0] + _step(times)
    chosen: list[int] = []
    floor = 0
    for place in range(count):
        middle = span * Fraction(2 * place + 1, 2 * count)
        # leave one frame for each span that is still to come
        ceiling = len(times) - (count - place)
        floor = min(max(_on_screen(times, middle), floor), ceiling)
        chosen.append(times[floor])
        floor += 1
    return chosen


def _regular(times: Sequence[int], every: Fraction) -> list[int]:
    chosen: list[int] = []
    end = times[-1] + _step(times)
    tick = 0
    while not chosen or times[0] + tick * every < end:
        place = _on_screen(times, tick * every)
        chosen.append(times[place])
        if place + 1 == len(times):
            break
        tick = max(tick + 1, math.ceil((times[place + 1] - times[0]) / every))
    return chosen


def plan_runs(timeline: Timeline, wanted: Sequence[int]) -> list[Run]:
    """Decide what is decoded: on from the last frame, or a jump to the key frame where that is less work."""
    runs: list[Run] = []
    for moment in wanted:
        last = timeline.position[moment]
        first = _entry(timeline, last, moment)
        if runs and first <= runs[-1].last + 1 + _JUMP_COST:
            runs[-1] = Run(runs[-1].first, max(runs[-1].last, last))
        else:
            runs.append(Run(first, last))
    return runs


def _entry(timeline: Timeline, position: int, moment: int) -> int:
    """Find the last key frame that comes before a frame both in decoding and on screen."""
    place = bisect_right(timeline.keys, position) - 1
    while place >= 0 and timeline.key_times[place] > moment:
        place -= 1
    return timeline.keys[place] if place >= 0 else 0
