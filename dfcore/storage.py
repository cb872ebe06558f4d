"""One object store for folders and for S3: whole objects, conditional writes, no half-written object.

`open_store("file:///srv/rampart")`, `open_store("/srv/rampart")` or `open_store("s3://bucket/prefix")`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from dfcore.errors import ConfigError, ConflictError, DataError, WorkFailed

__all__ = ["FileStore", "ObjectStore", "S3Store", "Stored", "open_store", "write_atomic"]

_GONE = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_LOST = {"409", "412", "ConditionalRequestConflict", "PreconditionFailed"}


class Stored(NamedTuple):
    """An object's bytes and the tag that a later `replace` compares with."""

    data: bytes
    etag: str


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        WorkFailed: the file can't be written (full disk, no permission).
    """
    with _staged(path, data, mode) as staged:
        staged.replace(path)


@contextlib.contextmanager
def _staged(path: Path, data: bytes, mode: int = 0o644) -> Iterator[Path]:
    """Yield a fully written temporary file beside `path`; remove it unless it was renamed."""
    staged: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".rampart-", dir=path.parent)
        staged = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        staged.chmod(mode)
        yield staged
    except OSError as error:
        raise WorkFailed(
            f"expected to write {path}, got: {error.strerror}; free space or fix permissions"
        ) from error
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)


def _check_key(key: str) -> str:
    parts = key.split("/")
    # A leading dot is reserved for temporary names; ".." would leave the store.
    if not key or "\\" in key or "\0" in key or any(not part or part.startswith(".") for part in parts):
        raise ConfigError(f"expected a key such as models/NAME/file.json, got {key!r}")
    return key


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
    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys that begin with the prefix, sorted."""

    @abstractmethod
    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file; ConflictError where one exists."""

    @abstractmethod
    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file, atomically; DataError where there is none."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            DataError: there is no such object.
        """
        return self.read(key).data

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
        targets = [folder / _check_key(key.removeprefix(below)) for key in keys]
        for key, target in zip(keys, targets, strict=True):
            self.download_file(key, target)
        return targets


class FileStore(ObjectStore):
    """Objects are files below a root; conditional writes hold between processes of one machine."""

    def __init__(self, root: Path) -> None:
        """Keep the root; it is made by the first write."""
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    def path(self, key: str) -> Path:
        """Return the file that holds a key."""
        return self.root / _check_key(key)

    def read(self, key: str) -> Stored:
        """Return an object with its tag; see ObjectStore."""
        try:
            data = self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(f"expected an object at {self.uri}/{key}, found none") from error
        except OSError as error:
            raise WorkFailed(f"expected to read {self.uri}/{key}, got: {error.strerror}") from error
        return Stored(data, hashlib.sha256(data).hexdigest())

    def etag(self, key: str) -> str | None:
        """Return an object's tag; see ObjectStore."""
        try:
            return self.read(key).etag
        except DataError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see ObjectStore."""
        with self._locked():
            write_atomic(self.path(key), data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create an object; see ObjectStore."""
        path = self.path(key)
        with _staged(path, data) as staged:
            try:
                path.hardlink_to(staged)  # fails where the name exists: the file system picks the winner
            except FileExistsError as error:
                raise _exists(self.uri, key) from error

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Compare and swap; see ObjectStore."""
        with self._locked():
            if self.etag(key) != etag:
                raise _moved(self.uri, key)
            write_atomic(self.path(key), data)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys below a prefix; see ObjectStore."""
        top = self.root / prefix.rpartition("/")[0]
        keys = (path.relative_to(self.root) for path in top.rglob("*") if path.is_file())
        visible = (key.as_posix() for key in keys if not any(part.startswith(".") for part in key.parts))
        return sorted(key for key in visible if key.startswith(prefix))

    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file; see ObjectStore."""
        self.put_if_absent(key, source.read_bytes())

    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file; see ObjectStore."""
        write_atomic(target, self.get(key))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        # flock belongs to the open file, so that it also keeps threads of one process apart.
        with (self.root / ".lock").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


class S3Store(ObjectStore):
    """Objects in a bucket of any S3-compatible server with conditional writes.

    Address and credentials come from the usual places (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, a pod's role).
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        """Make the client; nothing is sent yet."""
        import boto3  # half a second of import that a file store does not need
        from botocore.config import Config as BotoConfig
        from botocore.exceptions import BotoCoreError, ClientError

        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._failures = (ClientError, BotoCoreError)
        settings = BotoConfig(
            retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10, read_timeout=60,
            s3={"addressing_style": "path"},
        )  # fmt: skip
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._client: Any = boto3.session.Session().client("s3", region_name=region, config=settings)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read(self, key: str) -> Stored:
        """Return an object with its tag; see ObjectStore."""
        with self._translated(key):
            answer = self._client.get_object(**self._at(key))
            with contextlib.closing(answer["Body"]) as body:
                return Stored(body.read(), answer["ETag"])

    def etag(self, key: str) -> str | None:
        """Return an object's tag; see ObjectStore."""
        try:
            with self._translated(key):
                return str(self._client.head_object(**self._at(key))["ETag"])
        except DataError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see ObjectStore."""
        with self._translated(key):
            self._client.put_object(**self._at(key), Body=data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create an object; see ObjectStore."""
        self._conditional(key, data, _exists(self.uri, key), IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Compare and swap; see ObjectStore."""
        self._conditional(key, data, _moved(self.uri, key), IfMatch=etag)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the keys below a prefix; see ObjectStore."""
        keys: list[str] = []
        with self._translated(prefix or "/"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                keys += [item["Key"][len(self.prefix) :] for item in page.get("Contents", ())]
        return sorted(keys)

    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file; see ObjectStore."""
        with source.open("rb") as stream:
            self._conditional(key, stream, _exists(self.uri, key), IfNoneMatch="*")

    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file; see ObjectStore."""
        write_atomic(target, self.get(key))

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + _check_key(key)}

    def _conditional(self, key: str, body: Any, lost: ConflictError, **condition: str) -> None:
        with self._translated(key):
            try:
                self._client.put_object(**self._at(key), Body=body, **condition)
            except self._failures as error:
                if condition.get("IfMatch") and _code(error) in _GONE | _LOST:
                    raise lost from error
                if _code(error) in _LOST and not self._landed(error, key, body):
                    raise lost from error
                if _code(error) not in _LOST:
                    raise

    def _landed(self, error: Any, key: str, body: Any) -> bool:
        """Tell whether our own first try was stored and only its answer was lost."""
        retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        return retried and isinstance(body, bytes) and self.get(key) == body

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn botocore's errors into ours."""
        try:
            yield
        except self._failures as error:
            if _code(error) in _GONE:
                raise DataError(
                    f"expected an object at {self.uri}/{key}, found none ({_code(error)})"
                ) from error
            raise WorkFailed(
                f"expected an answer from {self.uri} for {key}, got: {error}; "
                "check AWS_ENDPOINT_URL, the credentials and the bucket"
            ) from error


def _code(error: Any) -> str:
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _exists(uri: str, key: str) -> ConflictError:
    return ConflictError(f"expected nothing at {uri}/{key}, found an object: somebody else created it first")


def _moved(uri: str, key: str) -> ConflictError:
    return ConflictError(
        f"{uri}/{key} changed since it was read: somebody else moved it first; read it again"
    )


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
