"""A store in a bucket of any S3-compatible server with conditional writes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from dfcore.errors import CheckFailed, ConflictError, DataError
from dfcore.storage.base import Entry, ObjectStore, Stored, Upload, already_there, changed, check_key
from dfcore.storage.multipart import PART, Parts, ranges
from dfcore.storage.s3_client import make_client
from dfcore.storage.s3_errors import CONFLICT, GONE, LOST, code_of, translated
from dfcore.storage.writing import staged

__all__ = ["S3Store"]

_AT_ONCE = 4
_TRIES = 5
_PAUSE = 0.1  # seconds before the second try; doubled for each further one


class S3Store(ObjectStore):
    """Objects in a bucket; address and credentials as `dfcore.storage.s3_client` says.

    Every object carries its SHA-256 (checked by the server when it arrives and by us when it is fetched) and
    a mark of the write that made it, by which a writer whose answer was lost recognises its own object.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        """Make the client; nothing is sent yet."""
        from botocore.exceptions import BotoCoreError, ClientError

        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._client = make_client(bucket)
        self.endpoint = str(self._client.meta.endpoint_url)
        self._broken: type[Exception] = BotoCoreError
        self._refused: type[Exception] = ClientError

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read(self, key: str) -> Stored:
        """Return an object with its tag; see ObjectStore."""
        with self._translated(key):
            return self._read(self._at(key))

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
            self._client.put_object(**self._at(key), Body=data, **_described(data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create an object; see ObjectStore."""
        self._conditional(key, data, already_there(self.uri, key), IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Compare and swap; see ObjectStore."""
        self._conditional(key, data, changed(self.uri, key), IfMatch=etag)

    def delete(self, key: str) -> None:
        """Remove an object; see ObjectStore."""
        with self._translated(key):
            self._client.delete_object(**self._at(key))

    def entries(self, prefix: str = "") -> Sequence[Entry]:
        """Return the objects below a prefix; see ObjectStore."""
        with self._translated(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            return sorted(
                Entry(item["Key"][len(self.prefix) :], item["Size"], item["LastModified"])
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
                for item in page.get("Contents", ())
            )

    def upload_file(self, source: Path, key: str) -> None:
        """Create an object from a file, a large one in parts; see ObjectStore."""
        if source.stat().st_size <= PART:
            self.put_if_absent(key, source.read_bytes())
            return
        if self.etag(key) is not None:  # before gigabytes are sent for nothing
            raise already_there(self.uri, key)
        with source.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        mark = uuid.uuid4().hex
        with self._translated(key), Parts(self._client, self._at(key), source, _AT_ONCE) as parts:
            parts.send({"sha256": digest, "write": mark})
            self._decide(lambda: parts.complete("*"), key, mark, already_there(self.uri, key), LOST)

    def download_file(self, key: str, target: Path) -> None:
        """Write an object to a file and compare its SHA-256; see ObjectStore."""
        with staged(target) as temporary, self._translated(key):
            head = self._client.head_object(**self._at(key))
            exact = {**self._at(key), "IfMatch": head["ETag"]}
            pieces = ranges(head["ContentLength"])
            if len(pieces) == 1:
                temporary.stream.write(self._read(exact).data)
            else:
                self._read_parts(exact, pieces, temporary.stream.fileno())
                found = hashlib.file_digest(temporary.stream, "sha256").hexdigest()
                _check_digest(f"{self.uri}/{key}", found, head.get("Metadata", {}))
            temporary.replace(target)

    def unfinished(self, prefix: str = "") -> Sequence[Upload]:
        """Return the multipart uploads that were begun; MinIO lists none and removes them by itself."""
        with self._translated(prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            return sorted(
                Upload(item["Key"][len(self.prefix) :], item["UploadId"], item["Initiated"])
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
                for item in page.get("Uploads", ())
            )

    def abort(self, upload: Upload) -> None:
        """Give a multipart upload up; see ObjectStore."""
        with self._translated(upload.key), contextlib.suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(**self._at(upload.key), UploadId=upload.id)

    def now(self) -> datetime:
        """Return the server's time; see ObjectStore."""
        with self._translated(""):
            answer = self._client.head_bucket(Bucket=self.bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}

    def _read(self, request: dict[str, str]) -> Stored:
        """Fetch an object, or a range of one; an answer that breaks off is asked for again."""
        for attempt in range(_TRIES):
            answer = self._client.get_object(**request, ChecksumMode="ENABLED")
            try:
                with contextlib.closing(answer["Body"]) as body:
                    data = body.read()
            except self._broken:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE * 2**attempt)
                continue
            if "Range" not in request:
                place = f"s3://{request['Bucket']}/{request['Key']}"
                _check_digest(place, hashlib.sha256(data).hexdigest(), answer.get("Metadata", {}))
            return Stored(data, answer["ETag"])
        raise AssertionError("the last try returns or raises")

    def _read_parts(self, request: dict[str, str], pieces: Sequence[tuple[int, int]], handle: int) -> None:
        def fetch(start: int, stop: int) -> None:
            os.pwrite(handle, self._read({**request, "Range": f"bytes={start}-{stop - 1}"}).data, start)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            jobs = [pool.submit(fetch, *piece) for piece in pieces]
            try:
                for job in jobs:
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _conditional(self, key: str, data: bytes, lost: ConflictError, **condition: str) -> None:
        described = _described(data)
        mark = described["Metadata"]["write"]
        losing = LOST | GONE if "IfMatch" in condition else LOST

        def write() -> None:
            self._client.put_object(**self._at(key), Body=data, **described, **condition)

        with self._translated(key):
            self._decide(write, key, mark, lost, losing)

    def _decide(self, write: Any, key: str, mark: str, lost: ConflictError, losing: set[str]) -> None:
        """Write under a condition until it is known who won."""
        for attempt in range(_TRIES):
            try:
                write()
            except self._refused as error:
                code = code_of(error)
                if code not in losing | CONFLICT | {"NoSuchUpload"}:
                    raise
                if self._is_ours(key, mark):  # an earlier try was stored and only its answer was lost
                    return
                if code == "NoSuchUpload":
                    raise
                if code in losing or attempt == _TRIES - 1:
                    raise lost from error
                time.sleep(_PAUSE * 2**attempt)
            else:
                return

    def _is_ours(self, key: str, mark: str) -> bool:
        try:
            found = self._client.head_object(**self._at(key)).get("Metadata", {})
        except self._refused as error:
            if code_of(error) in GONE:
                return False
            raise
        return bool(found.get("write") == mark)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        with translated(self.uri, key, self.endpoint):
            yield


def _described(data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data)
    return {
        "ChecksumSHA256": base64.b64encode(digest.digest()).decode(),
        "Metadata": {"sha256": digest.hexdigest(), "write": uuid.uuid4().hex},
    }


def _check_digest(place: str, found: str, metadata: dict[str, str]) -> None:
    """Compare with the digest that our own uploads carry; other tools' objects have none."""
    expected = metadata.get("sha256", found)
    if found != expected:
        raise CheckFailed(
            f"expected {place} with SHA-256 {expected[:12]}…, got {found[:12]}…: it was altered on the way "
            "or is damaged in the store; try again, then restore its former version or upload it again"
        )
