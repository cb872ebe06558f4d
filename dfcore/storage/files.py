"""A store in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dfcore.errors import DataError, WorkFailed
from dfcore.storage.base import Entry, ObjectStore, Stored, Upload, already_there, changed, check_key
from dfcore.storage.writing import TEMPORARY, Staged, staged, write_atomic

__all__ = ["FileStore"]


class FileStore(ObjectStore):
    """Objects are files below a root; conditional writes hold between processes of one machine."""

    def __init__(self, root: Path) -> None:
        """Keep the root; it is made by the first write."""
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    def path(self, key: str) -> Path:
        """Return the file that holds a key."""
        return self.root / check_key(key)

    def read(self, key: str) -> Stored:
        """Return an object with its tag; see ObjectStore."""
        with self._reading(key):
            data = self.path(key).read_bytes()
        return Stored(data, hashlib.sha256(data).hexdigest())

    def etag(self, key: str) -> str | None:
        """Return an object's tag; see ObjectStore."""
        try:
            with self._reading(key), self.path(key).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except DataError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see ObjectStore."""
        with self._locked():
            write_atomic(self.path(key), data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create an object; see ObjectStore."""
        with staged(self.path(key)) as temporary:
            temporary.stream.write(data)
            self._create(temporary, key)

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Compare and swap; see ObjectStore."""
        with self._locked():
            if self.etag(key) != etag:
                raise changed(self.uri, key)
            write_atomic(self.path(key), data)

    def delete(self, key: str) -> None:
        """Remove an object and the folders that it leaves empty; see ObjectStore."""
        path = self.path(key)
        with self._locked():
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self.root).parents:
                with contextlib.suppress(OSError):  # not empty: others live there
                    if folder.parts:
                        (self.root / folder).rmdir()

    def entries(self, prefix: str = "") -> Sequence[Entry]:
        """Return the objects below a prefix; see ObjectStore."""
        found = []
        for path in self._files(prefix):
            key = path.relative_to(self.root)
            if any(part.startswith(".") for part in key.parts) or not key.as_posix().startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                state = path.stat()
                found.append(
                    Entry(key.as_posix(), state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))
                )
        return sorted(found)

    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file; see ObjectStore."""
        with source.open("rb") as stream, staged(self.path(key)) as temporary:
            shutil.copyfileobj(stream, temporary.stream)
            self._create(temporary, key)

    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file; see ObjectStore."""
        with self._reading(key):
            source = self.path(key).open("rb")
        with source, staged(target) as temporary:
            shutil.copyfileobj(source, temporary.stream)
            temporary.replace(target)

    def unfinished(self, prefix: str = "") -> Sequence[Upload]:
        """Return the temporary files that a killed process left; see ObjectStore."""
        found = []
        for path in self._files(prefix):
            if path.name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # finished since it was listed
                    started = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    found.append(Upload(path.relative_to(self.root).as_posix(), str(path), started))
        return sorted(found)

    def abort(self, upload: Upload) -> None:
        """Remove a temporary file; see ObjectStore."""
        Path(upload.id).unlink(missing_ok=True)

    def now(self) -> datetime:
        """Return this machine's time; see ObjectStore."""
        return datetime.now(UTC)

    def _files(self, prefix: str) -> Iterator[Path]:
        top = self.root / prefix.rpartition("/")[0]
        return (path for path in top.rglob("*") if path.is_file())

    def _create(self, temporary: Staged, key: str) -> None:
        try:
            # fails where the name exists: the file system picks the winner
            self.path(key).hardlink_to(temporary.finish())
        except FileExistsError as error:
            raise already_there(self.uri, key) from error

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(f"expected an object at {self.uri}/{key}, found none") from error
        except OSError as error:
            raise WorkFailed(
                f"expected to read {self.uri}/{key}, got: {error.strerror}; check its permissions"
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("ab")
        except OSError as error:
            raise WorkFailed(
                f"expected to write below {self.root}, got: {error.strerror}; check its permissions"
            ) from error
        # flock belongs to the open file, so that it also keeps threads of one process apart.
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
