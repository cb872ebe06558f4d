"""One object store for folders and for S3: whole objects, conditional writes, no half-written object.

`open_store("file:///srv/rampart")`, `open_store("/srv/rampart")` or `open_store("s3://bucket/prefix")`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from dfcore.errors import ConfigError
from dfcore.storage.base import Entry, ObjectStore, Stored, Upload
from dfcore.storage.files import FileStore
from dfcore.storage.s3 import S3Store
from dfcore.storage.writing import write_atomic

__all__ = ["Entry", "FileStore", "ObjectStore", "S3Store", "Stored", "Upload", "open_store", "write_atomic"]


def open_store(uri: str | Path) -> FileStore | S3Store:
    """Open the store at a plain path, a file:// or an s3://BUCKET/PREFIX address.

    Raises:
        ConfigError: another kind of address, or no bucket.
    """
    text = str(uri)
    parts = urlsplit(text)
    if isinstance(uri, Path) or not parts.scheme:
        return FileStore(Path(text).expanduser())
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, parts.path)
    raise ConfigError(f"expected a path, file:///PATH or s3://BUCKET/PREFIX, got {text!r}")
