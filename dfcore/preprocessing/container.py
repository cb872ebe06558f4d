"""Video files: opening them safely, choosing the stream, and finding out why one doesn't open."""

from __future__ import annotations

import io
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import av.error
from av.stream import Discard, Disposition

from dfcore.errors import MediaError
from dfcore.preprocessing.config import MediaLimits
from dfcore.preprocessing.signature import HEADER_BYTES, demuxer, describe_bytes, is_video

__all__ = ["Deadline", "VideoFile"]

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class Deadline:
    """The wall time that one file may take."""

    def __init__(self, seconds: float, name: str) -> None:
        self._seconds = seconds
        self._name = name
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise once the time is over.

        Raises:
            MediaError: it is over.
        """
        if time.monotonic() > self._end:
            raise MediaError(
                f"{self._name}expected at most seconds_to_decode={self._seconds:g}, got a video that takes "
                "longer; cut it, or raise the limit"
            )


class VideoFile:
    """An open video: `container`, the `stream` to decode, `format` (the demuxer's name) and `name`.

    Decoding runs in one thread: videos are decoded side by side, and damage then shows the same everywhere.
    """

    container: Any
    stream: Any
    format: str

    def __init__(self, source: Path | bytes, limits: MediaLimits) -> None:
        self._source = source
        self._limits = limits
        self._file: BinaryIO | None = None
        self.name = f"{source}: " if isinstance(source, Path) else ""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._close)
            self._open()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def reopen(self) -> None:
        """Go back to the very first packet; seeking does not lead there in every container."""
        self._close()
        self._open()

    def _close(self) -> None:
        container, self.container, self.stream = getattr(self, "container", None), None, None
        if container is not None:
            container.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        try:
            self._file = (
                self._source.open("rb") if isinstance(self._source, Path) else io.BytesIO(self._source)
            )
            size = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            header = self._file.read(HEADER_BYTES)
        except OSError as error:
            raise MediaError(f"{self.name}expected a readable file, got: {error.strerror}") from error
        limit = self._limits.max_bytes
        if size > limit:
            raise MediaError(
                f"{self.name}expected at most max_bytes={limit}, got {size}; send a smaller file"
            )
        if not is_video(header):
            raise MediaError(
                f"{self.name}expected a video (MP4, Matroska, AVI, FLV, TS), "
                f"got {describe_bytes(header, size)}; convert it, or fetch it again"
            )
        self._open_container(header, size)
        self._choose_stream()

    def _open_container(self, header: bytes, size: int) -> None:
        assert self._file is not None
        self.format = str(demuxer(header))
        self._file.seek(0)
        # FFmpeg itself refuses larger pictures, also those that a header hides; no metadata can raise
        options = {"max_pixels": str(self._limits.max_pixels)}
        try:
            self.container = av.open(
                self._file, format=self.format, options=options, metadata_errors="replace"
            )
        except (av.error.FFmpegError, OSError) as error:
            got = f"{describe_bytes(header, size)} that doesn't open ({error.strerror})"
            raise self.unreadable(got) from error

    def unreadable(self, got: str) -> MediaError:
        """Make the error of a file that gives no frames; a cut-off MP4 is told so."""
        if self.format == "mov" and self._file is not None and not _has_index(self._file):
            got = "an MP4 without its whole index (the moov atom): it was cut off or never finished"
        return MediaError(f"{self.name}expected a video with frames, got {got}; fetch it again")

    def _choose_stream(self) -> None:
        """Take the default video stream, else the largest; a cover picture is no video."""
        videos = [s for s in self.container.streams.video if not s.disposition & _NO_VIDEO]
        decodable = [stream for stream in videos if stream.codec_context is not None]
        if not decodable:
            got = "one of an unknown codec" if videos else "none"
            if not videos and self.container.streams.video:
                got = "only a cover picture"
            raise MediaError(f"{self.name}expected a video stream, got {got}; convert the file to H.264")
        self.stream = max(decodable, key=_preference)
        for other in self.container.streams:
            other.discard = Discard.default if other.index == self.stream.index else Discard.all
        context = self.stream.codec_context
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        pixels = context.width * context.height
        if pixels > self._limits.max_pixels:
            raise MediaError(
                f"{self.name}expected at most max_pixels={self._limits.max_pixels} a frame, got {pixels}; "
                "resize the video"
            )


def _preference(stream: Any) -> tuple[bool, int, int]:
    size = stream.codec_context.width * stream.codec_context.height
    return bool(stream.disposition & Disposition.default), size, -stream.index


def _has_index(file: BinaryIO) -> bool:
    """Say whether an MP4's top level holds its whole index."""
    offset, size = 0, file.seek(0, io.SEEK_END)
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(16)
        length = int.from_bytes(head[:4])
        if length == 1:  # the length is too large for four bytes and follows the name
            length = int.from_bytes(head[8:16])
        if head[4:8] == b"moov":
            return offset + length <= size
        if length < 8:
            return False
        offset += length
    return False
