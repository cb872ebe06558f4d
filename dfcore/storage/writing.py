"""Files that are never half there: written beside their place, synced, then moved."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from dfcore.errors import WorkFailed

__all__ = ["TEMPORARY", "Staged", "staged", "write_atomic"]

TEMPORARY = ".rampart-"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        WorkFailed: the file can't be written (full disk, no permission).
    """
    with staged(path, mode) as temporary:
        temporary.stream.write(data)
        temporary.replace(path)


@dataclass(frozen=True)
class Staged:
    """A temporary file beside its final place."""

    path: Path
    stream: BufferedRandom
    mode: int

    def finish(self) -> Path:
        """Bring the bytes to disk; return the temporary file's path."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.path.chmod(self.mode)
        return self.path

    def replace(self, path: Path) -> None:
        """Move the finished file to its place."""
        self.finish().replace(path)


@contextlib.contextmanager
def staged(path: Path, mode: int = 0o644) -> Iterator[Staged]:
    """Yield an open temporary file beside `path`; what was not moved away is removed.

    Raises:
        WorkFailed: it can't be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            yield Staged(temporary, stream, mode)
    except OSError as error:
        raise WorkFailed(
            f"expected to write {path}, got: {error.strerror or error}; free space or fix permissions"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
