"""What every store can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from dfcore.errors import ConfigError, ConflictError, DataError

__all__ = ["Entry", "ObjectStore", "Stored", "Upload", "already_there", "changed", "check_key"]


class Stored(NamedTuple):
    """An object's bytes and the tag that a later `replace` compares with."""

    data: bytes
    etag: str


class Entry(NamedTuple):
    """An object in a listing: `size` in bytes, `modified` by the store's clock."""

    key: str
    size: int
    modified: datetime


class Upload(NamedTuple):
    """An upload that nobody has finished yet."""

    key: str
    id: str
    started: datetime


class ObjectStore(ABC):
    """Named objects with conditional writes; the same behaviour on disk and on S3."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> Stored:
        """Return an object with its tag; DataError where there is none."""

    @abstractmethod
    def etag(self, key: str) -> str | None:
        """Return an object's tag, or None where there is none."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing whatever is there."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create an object; ConflictError where one exists. Of many creators one wins."""

    @abstractmethod
    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Compare and swap; ConflictError where the object no longer has this tag."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    @abstractmethod
    def entries(self, prefix: str = "") -> Sequence[Entry]:
        """Return the objects whose keys begin with the prefix, sorted by key."""

    @abstractmethod
    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file; ConflictError where one exists."""

    @abstractmethod
    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file, atomically; DataError where there is none."""

    @abstractmethod
    def unfinished(self, prefix: str = "") -> Sequence[Upload]:
        """Return the uploads below a prefix that were begun and not finished."""

    @abstractmethod
    def abort(self, upload: Upload) -> None:
        """Give an unfinished upload up and free its space."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the store's own time: its objects' ages are measured with its clock, not ours."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            DataError: there is no such object.
        """
        return self.read(key).data

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys that begin with the prefix, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def upload_folder(self, folder: Path, prefix: str, *, last: str | None = None) -> Sequence[str]:
        """Upload every file below a folder; the file named `last` goes last and marks the set as whole.

        Returns:
            The keys written.

        Raises:
            ConflictError: one of the keys exists.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        names.sort(key=lambda name: (name == last, name))
        for name in names:
            self.upload_file(folder / name, f"{prefix}/{name}")
        return [f"{prefix}/{name}" for name in names]

    def download_folder(self, prefix: str, folder: Path) -> Sequence[Path]:
        """Download every object below a prefix into a folder.

        Raises:
            DataError: there is nothing below the prefix.
        """
        below = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        keys = self.list(below)
        if not keys:
            raise DataError(f"expected objects below {self.uri}/{prefix}, found none; check the address")
        targets = [folder / check_key(key.removeprefix(below)) for key in keys]
        for key, target in zip(keys, targets, strict=True):
            self.download_file(key, target)
        return targets


def check_key(key: str) -> str:
    """Return a key; ConfigError if it could leave the store or hide in it."""
    parts = key.split("/")
    # A leading dot is reserved for temporary names; ".." would leave the store.
    if not key or "\\" in key or "\0" in key or any(not part or part.startswith(".") for part in parts):
        raise ConfigError(f"expected a key such as models/NAME/file.json, got {key!r}")
    return key


def already_there(uri: str, key: str) -> ConflictError:
    """Return the error of a creation that lost."""
    return ConflictError(f"expected nothing at {uri}/{key}, found an object: somebody else created it first")


def changed(uri: str, key: str) -> ConflictError:
    """Return the error of a compare-and-swap that lost."""
    return ConflictError(
        f"{uri}/{key} changed since it was read: somebody else moved it first; read it again"
    )
