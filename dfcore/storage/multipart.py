"""A large file in parts: several at once, each with its checksum, none left behind after a failure."""

from __future__ import annotations

import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["PART", "Parts", "ranges"]

PART = 16 * 2**20
_MAX_PARTS = 10_000


def ranges(size: int) -> list[tuple[int, int]]:
    """Cut a length into parts of at least `PART` bytes (but the last), at most 10,000 of them.

    >>> ranges(PART), ranges(0)
    ([(0, 16777216)], [(0, 0)])
    """
    length = max(PART, -(-size // _MAX_PARTS))
    return [(start, min(start + length, size)) for start in range(0, max(size, 1), length)]


class Parts:
    """One multipart upload; leaving it without `complete` gives it up."""

    def __init__(self, client: Any, at: dict[str, str], source: Path, at_once: int) -> None:
        """Keep what is sent where; nothing is sent yet."""
        self._client, self._at, self._source, self._at_once = client, at, source, at_once
        self._upload: dict[str, str] | None = None
        self._done: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the upload up unless it is complete; its parts would be paid for and seen by nobody."""
        if self._upload is None or kind is None:
            return
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.abort_multipart_upload(**self._upload)
        except (BotoCoreError, ClientError):
            return  # the first error matters more; the bucket's lifecycle frees the parts

    def send(self, metadata: dict[str, str]) -> None:
        """Send every part.

        Args:
            metadata: the finished object's.
        """
        begun = self._client.create_multipart_upload(
            **self._at, ChecksumAlgorithm="SHA256", Metadata=metadata
        )
        self._upload = {**self._at, "UploadId": begun["UploadId"]}
        pieces = ranges(self._source.stat().st_size)
        with self._source.open("rb") as stream, ThreadPoolExecutor(self._at_once) as pool:
            handle = stream.fileno()
            jobs = [
                pool.submit(self._send_part, handle, number, *piece)
                for number, piece in enumerate(pieces, start=1)
            ]
            try:
                self._done = [job.result() for job in jobs]
            finally:
                pool.shutdown(cancel_futures=True)

    def complete(self, if_none_match: str) -> None:
        """Make the object of the parts, unless one exists."""
        assert self._upload is not None
        self._client.complete_multipart_upload(
            **self._upload, MultipartUpload={"Parts": self._done}, IfNoneMatch=if_none_match
        )

    def _send_part(self, handle: int, number: int, start: int, stop: int) -> dict[str, Any]:
        assert self._upload is not None
        data = os.pread(handle, stop - start, start)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        answer = self._client.upload_part(
            **self._upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
