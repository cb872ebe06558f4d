"""Read the stills of a video from folders and from archives, which are never unpacked.

A .tar.gz is read at any place: inflating goes on from the nearest of the states that were kept on the first
way through it, so that sample after sample of one archive costs about one pass.
"""

from __future__ import annotations

import bisect
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from dfcore.data.manifest import Sample
from dfcore.errors import MediaError
from dfcore.provenance import digest_json

__all__ = ["archive_members", "frames_digest", "read_frames"]

# One still may not take more: what claims to is damaged, or made to exhaust memory.
_MAX_STILL = 64 * 2**20
_CHUNK, _STATE_EVERY = 2**18, 8 * 2**20
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's number for the largest window with gzip's own heading
_UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def frames_digest(frames: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a sequence from (name, SHA-256) of its stills in display order."""
    return digest_json([list(frame) for frame in frames])


def read_frames(root: Path, sample: Sample, count: int) -> list[tuple[int, bytes]]:
    """Read stills of a sequence: the middle one of each of `count` equal parts.

    Args:
        root: the manifest's root.
        sample: of kind "frames".
        count: how many at most.

    Returns:
        (place in display order from 0, encoded bytes), in display order.

    Raises:
        MediaError: a still or the archive can't be read.
    """
    path, total = root / sample.path, len(sample.frames)
    number = min(count, total)
    places = [int((part + 0.5) * total / number) for part in range(number)]
    names = [sample.frames[place] for place in places]
    try:
        if path.is_dir():
            stills = [_from_folder(path, name) for name in names]
        elif zipfile.is_zipfile(path):
            stills = _from_zip(path, names)
        else:
            stills = _from_tar(path, names)
    except MediaError:
        raise
    except _UNREADABLE as error:
        raise MediaError(f"expected the stills of {sample.path}, got: {error}; get it again") from error
    return list(zip(places, stills, strict=True))


def archive_members(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, SHA-256) of an archive's regular files, in one pass.

    Raises:
        MediaError: it can't be read to its end, or a member is larger than a still may be.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        with archive.open(info) as still:
                            yield info.filename, _sha256(_limited(still, info.filename))
        else:
            yield from _tar_members(path)
    except MediaError:
        raise
    except _UNREADABLE as error:
        raise MediaError(
            f"expected a whole .tar, .tar.gz or .zip archive, got {path.name}: {error}; get it again"
        ) from error


def _tar_members(path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as raw:
        stream = _content(raw, [])
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.isreg():
                    still = cast(IO[bytes], archive.extractfile(member))
                    yield member.name, _sha256(_limited(still, member.name))
        while stream.read(_CHUNK):  # to the checksum at the end
            pass


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _limited(stream: IO[bytes], name: str) -> bytes:
    # what a member says about its size need not be true, so it is read up to the limit
    data = stream.read(_MAX_STILL + 1)
    if len(data) > _MAX_STILL:
        raise MediaError(_too_large(name))
    return data


def _too_large(name: str) -> str:
    return f"expected stills of at most {_MAX_STILL} bytes, got {name} of more; remove it"


def _from_folder(folder: Path, name: str) -> bytes:
    with (folder / name).open("rb") as stream:
        return _limited(stream, name)


def _present(name: str, names: Container[str], path: Path) -> str:
    if name not in names:
        raise MediaError(f"expected {name} in {path.name}, got none; scan again")
    return name


def _from_zip(path: Path, names: list[str]) -> list[bytes]:
    stills = []
    with zipfile.ZipFile(path) as archive:
        known = set(archive.namelist())
        for name in names:
            with archive.open(_present(name, known, path)) as stream:
                stills.append(_limited(stream, name))
    return stills


class _State(NamedTuple):
    """Where inflating can go on: the place in the content, the place in the file, the inflater."""

    place: int
    offset: int
    inflater: Any  # zlib's own type has no public name


class _Inflated:
    """The content of a gzip file, to be read at any place; `states` grows on the way and may be shared."""

    def __init__(self, raw: IO[bytes], states: list[_State]) -> None:
        self._raw, self._states = raw, states
        self._place, self._ahead = 0, b""  # how much was given out, and what is inflated after it
        self._inflater: Any = None
        if not states:
            states.append(_State(0, 0, zlib.decompressobj(_GZIP_WINDOW)))
        self._restore(states[0])

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> int:
        nearest = self._states[bisect.bisect_right(self._states, place, key=lambda state: state.place) - 1]
        if place < self._place or nearest.place > self._place + len(self._ahead):
            self._restore(nearest)
        while place > self._place + len(self._ahead) and self._inflate():
            pass
        skipped = min(place - self._place, len(self._ahead))
        self._take(skipped)
        return self._place

    def read(self, size: int) -> bytes:
        parts = [self._take(size)]
        missing = size - len(parts[0])
        while missing and self._inflate():
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        self._place += len(taken)
        return taken

    def _restore(self, state: _State) -> None:
        self._place, self._ahead = state.place, b""
        self._inflater = state.inflater.copy()
        self._raw.seek(state.offset)

    def _inflate(self) -> bool:
        """Inflate the next chunk in place of what is ahead; say whether there was one."""
        if self._ahead:
            self._place += len(self._ahead)
            self._ahead = b""
        packed = self._raw.read(_CHUNK)
        if self._inflater.eof:
            if not packed.startswith(_GZIP):
                return False
            self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        self._ahead = self._inflater.decompress(packed, _CHUNK)
        if not packed and not self._ahead and not self._inflater.eof:
            raise EOFError("the archive is cut short")
        left = len(self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail)
        self._raw.seek(-left, 1)
        end = self._place + len(self._ahead)
        if end >= self._states[-1].place + _STATE_EVERY:
            self._states.append(_State(end, self._raw.tell(), self._inflater.copy()))
        return True


def _content(raw: IO[bytes], states: list[_State]) -> IO[bytes]:
    """Return a file's content, inflated if it is a gzip file."""
    packed = raw.read(len(_GZIP)) == _GZIP
    raw.seek(0)
    return cast(IO[bytes], _Inflated(raw, states)) if packed else raw


class _TarIndex(NamedTuple):
    """Where each member of an archive lies: name -> (place, size); and the states to go on from."""

    members: dict[str, tuple[int, int]]
    states: list[_State]


@lru_cache(maxsize=4)
def _tar_index(path: Path, size: int, mtime_ns: int) -> _TarIndex:
    """Index an archive in one pass; size and time are there so that another file is indexed anew."""
    states: list[_State] = []
    with path.open("rb") as raw, tarfile.open(fileobj=_content(raw, states), mode="r:") as archive:
        members = {one.name: (one.offset_data, one.size) for one in archive if one.isreg()}
    return _TarIndex(members, states)


def _from_tar(path: Path, names: list[str]) -> list[bytes]:
    """Read members in the order in which they lie in the archive; return them in the order of names."""
    status = path.stat()
    index = _tar_index(path, status.st_size, status.st_mtime_ns)
    places = {name: index.members[_present(name, index.members, path)] for name in names}
    stills: dict[str, bytes] = {}
    with path.open("rb") as raw:
        stream = _content(raw, list(index.states))
        for name, (place, size) in sorted(places.items(), key=lambda item: item[1]):
            if size > _MAX_STILL:
                raise MediaError(_too_large(name))
            stream.seek(place)
            stills[name] = stream.read(size)
            if len(stills[name]) < size:
                raise EOFError(f"{name} is cut short")
    return [stills[name] for name in names]
