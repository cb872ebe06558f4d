"""A store on S3: what is needed is fetched into a cache, verified, and never half there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dfcore.errors import CheckFailed, ConflictError, DataError
from dfcore.provenance import sha256_file
from dfcore.storage import FileStore, ObjectStore, S3Store, open_store

__all__ = ["Remote", "upload_store"]

_HEADER = "store.json"
_AT_ONCE = 8


@dataclass(frozen=True)
class Remote:
    """A store's address, and the folder that holds what was fetched from it."""

    uri: str
    folder: Path

    @classmethod
    def open(cls, uri: str, cache: Path | None) -> Remote:
        """Fetch store.json; its digest names the folder, so that another store of this address has its own.

        Raises:
            DataError: there is no finished store.
        """
        home = cache or Path(os.environ.get("RAMPART_CACHE", "~/.cache/rampart")).expanduser()
        with _opened(uri) as objects:
            try:
                data = objects.get(_HEADER)
                digest = str(json.loads(data)["digest"])
            except (DataError, ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"expected a finished crop store at {uri}, got: {error}; "
                    "upload one with `rampart data upload`"
                ) from error
            folder = home / "stores" / hashlib.sha256(digest.encode()).hexdigest()
            objects.download_file(_HEADER, folder / _HEADER)
        return cls(uri, folder)

    def fetch(self, files: Mapping[str, str]) -> None:
        """Have files in the cache; what is there was verified when it came.

        Args:
            files: name and SHA-256 of each.

        Raises:
            CheckFailed: what came does not have its recorded SHA-256.
        """
        missing = [name for name in files if not (self.folder / name).is_file()]
        if not missing:
            return
        with _opened(self.uri) as objects, ThreadPoolExecutor(min(_AT_ONCE, len(missing))) as pool:
            list(pool.map(lambda name: self._fetch(objects, name, files[name]), missing))

    def _fetch(self, objects: ObjectStore, name: str, digest: str) -> None:
        target = self.folder / name
        arriving = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            objects.download_file(name, arriving)
            if sha256_file(arriving) != digest:
                raise CheckFailed(
                    f"expected {self.uri}/{name} with SHA-256 {digest}, got another; upload the store again"
                )
            arriving.replace(target)
        finally:
            arriving.unlink(missing_ok=True)


def upload_store(folder: Path, uri: str, digest: str, files: Mapping[str, str]) -> None:
    """Put a finished store below an address, store.json last.

    Args:
        folder: the store.
        uri: s3:// or file://.
        digest: of the store.
        files: name and SHA-256 of each file but store.json.

    Raises:
        ConflictError: another store is there.
        CheckFailed: a file of the folder was altered.
    """
    with _opened(uri) as objects:
        if objects.etag(_HEADER) is not None:
            there = json.loads(objects.get(_HEADER)).get("digest")
            if there != digest:
                raise ConflictError(
                    f"expected nothing or this store at {uri}, got another one; choose another address"
                )
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda item: _put(objects, folder, *item), files.items()))
        objects.upload_file(folder / _HEADER, _HEADER)


def _put(objects: ObjectStore, folder: Path, name: str, digest: str) -> None:
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckFailed(
            f"expected {folder / name} with SHA-256 {digest}, got another; run `rampart data verify`"
        )
    # A file store's tag is the SHA-256, S3's mostly the MD5: where neither fits, it is sent again.
    known = {digest, f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'}
    if objects.etag(name) not in known:
        objects.put(name, data)


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[FileStore | S3Store]:
    objects = open_store(uri)
    try:
        yield objects
    finally:
        if isinstance(objects, S3Store):
            objects.close()
