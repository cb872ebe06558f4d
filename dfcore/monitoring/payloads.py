"""The payload log: scores, signs and embeddings of answered requests as Parquet, never images.

One row for each answered image or video. Batch drift compares such a log with one that
`rampart monitor score` wrote for the data that the detector was accepted on.
"""

from __future__ import annotations

import io
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dfcore.errors import ConfigError, DataError, WorkFailed
from dfcore.storage import ObjectStore, open_store

__all__ = ["PAYLOAD_SCHEMA", "PayloadLog", "Record", "read_payloads"]

logger = logging.getLogger(__name__)

PAYLOAD_SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("request", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("weights", pa.string()),
        ("score", pa.float32()),
        ("attack", pa.map_(pa.string(), pa.float32())),
        ("flags", pa.list_(pa.string())),
        ("quality", pa.map_(pa.string(), pa.float32())),
        ("slices", pa.map_(pa.string(), pa.string())),
        ("embedding", pa.list_(pa.float16())),
    ],
    metadata={"kind": "rampart-payloads", "version": "1"},
)
"""Columns of the log. `attack` holds calibrated signs in [0, 1) by name, "combined" among them; `quality`
measures of the input; `slices` what drift is told apart by, such as client kind or compression: few values
each, nothing that names a person."""

_KEPT = 4  # files' worth of rows that wait while the store does not answer
_LARGEST = 65504.0  # of float16


@dataclass(frozen=True)
class Record:
    """One answered request, as PAYLOAD_SCHEMA says.

    `time` is in seconds since 1970, `weights` the SHA-256 of weights.safetensors: only embeddings of the same
    weights can be compared.
    """

    time: float
    request: str
    model: str
    version: str
    weights: str
    score: float
    attack: Mapping[str, float] = field(default_factory=dict)
    flags: Sequence[str] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, str] = field(default_factory=dict)
    embedding: NDArray[np.floating] | None = None


class PayloadLog:
    """Collects records and writes them from a thread of its own, a file at a time.

    A file appears whole or not at all. Where the store does not answer, rows wait, and the oldest are dropped
    and counted once four files' worth are waiting: a request never waits for the log, and fails for it never.

    Args:
        uri: a folder, `file://…` or `s3://…`.
        rows: of a file at most.
        seconds: after which an unfinished file is written all the same.

    Attributes:
        dropped: records that were given up.

    Raises:
        ConfigError: rows or seconds that are not positive, or an address of another kind.
    """

    def __init__(self, uri: str, *, rows: int = 4096, seconds: float = 300.0) -> None:
        if rows < 1 or not seconds > 0:
            raise ConfigError(f"expected positive rows and seconds, got {rows} and {seconds}")
        self._store = open_store(uri)
        self._rows = rows
        self._seconds = seconds
        self._waiting: list[Record] = []
        self._since = time.monotonic()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._closed = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._loop, name="payload-log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        self.close()

    def append(self, record: Record) -> None:
        """Take a record; returns at once."""
        with self._changed:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(record)
            excess = len(self._waiting) - _KEPT * self._rows
            if excess > 0:
                del self._waiting[:excess]
                self.dropped += excess
            if len(self._waiting) == 1 or len(self._waiting) >= self._rows:
                self._changed.notify()

    def flush(self) -> int:
        """Write everything that waits.

        Returns:
            Rows written.

        Raises:
            WorkFailed: the store does not take it; the rows go on waiting.
        """
        written = 0
        with self._writing:
            while True:
                with self._changed:
                    chunk = self._waiting[: self._rows]
                if not chunk:
                    return written
                self._store.put_if_absent(_name(chunk[-1].time), _encode(chunk))
                written += len(chunk)
                with self._changed:
                    # rows may have been dropped at the front meanwhile
                    done = {id(record) for record in chunk}
                    self._waiting = [record for record in self._waiting if id(record) not in done]
                    self._since = time.monotonic()

    def close(self) -> None:
        """Stop the thread and write what is left.

        Raises:
            WorkFailed: the store does not take it.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.flush()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if not (self._closed or self._due()):
                    self._changed.wait(self._left())
                if self._closed:
                    return
                if not self._due():
                    continue
            try:
                self.flush()
            except WorkFailed as error:
                logger.warning("payload log: %s; %d rows wait", error, len(self._waiting))
                with self._changed:
                    self._since = time.monotonic()  # try again after the usual time, not at once
                    self._changed.wait_for(lambda: self._closed, timeout=self._seconds)

    def _due(self) -> bool:
        old = bool(self._waiting) and time.monotonic() - self._since >= self._seconds
        return old or len(self._waiting) >= self._rows

    def _left(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, self._seconds - (time.monotonic() - self._since))


def read_payloads(
    uri: str, since: float | None = None, until: float | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a log, or one file of it.

    Args:
        uri: a folder, `file://…`, `s3://…`, or the path of one Parquet file.
        since: only rows from here on, in seconds since 1970.
        until: only rows before.
        columns: to read; None reads all.

    Returns:
        Rows by PAYLOAD_SCHEMA, by time.

    Raises:
        DataError: there is no log, a file is none, or no row is left.
    """
    store, keys = _files(uri, since, until)
    tables = [_decode(store.get(key), f"{uri}/{key}") for key in keys]
    table = pa.concat_tables(tables) if tables else PAYLOAD_SCHEMA.empty_table()
    times = table["time"].cast(pa.int64()).to_numpy() / 1e6
    kept = np.ones(len(times), dtype=bool)
    kept &= True if since is None else times >= since
    kept &= True if until is None else times < until
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise DataError(f"expected payload rows at {uri} in that time, got none; check --since and the log")
    table = table.take(pa.array(rows[np.argsort(times[rows], kind="stable")]))
    return table if columns is None else table.select(list(columns))


def _files(uri: str, since: float | None, until: float | None) -> tuple[ObjectStore, Sequence[str]]:
    if uri.endswith(".parquet"):
        folder, _, name = uri.rpartition("/")
        return open_store(folder or "."), [name]
    store = open_store(uri)
    keys = [key for key in store.list() if key.endswith(".parquet")]
    # a file's name is the time of its last row; one day covers rows that came late
    day = 86400.0
    first = None if since is None else _stamp(since - day)
    last = None if until is None else _stamp(until + day)
    return store, [key for key in keys if (first is None or key >= first) and (last is None or key <= last)]


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S")


def _name(seconds: float) -> str:
    return f"{_stamp(seconds)}-{uuid.uuid4().hex}.parquet"


def _encode(records: Sequence[Record]) -> bytes:
    columns = {
        "time": [round(record.time * 1e6) for record in records],
        "attack": [list(record.attack.items()) for record in records],
        "flags": [list(record.flags) for record in records],
        "quality": [list(record.quality.items()) for record in records],
        "slices": [list(record.slices.items()) for record in records],
        "embedding": [
            None if record.embedding is None
            else np.clip(record.embedding, -_LARGEST, _LARGEST).astype(np.float16)
            for record in records
        ],
    }  # fmt: skip
    for name in ("request", "model", "version", "weights", "score"):
        columns[name] = [getattr(record, name) for record in records]
    table = pa.table(
        {name: pa.array(columns[name], PAYLOAD_SCHEMA.field(name).type) for name in PAYLOAD_SCHEMA.names},
        schema=PAYLOAD_SCHEMA,
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _decode(data: bytes, where: str) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a payload log's Parquet file at {where}, got: {error}") from error
    if not table.schema.equals(PAYLOAD_SCHEMA):
        raise DataError(
            f"expected the columns {PAYLOAD_SCHEMA.names} at {where}, got {table.schema.names}; "
            "give a log that the server or `rampart monitor score` wrote"
        )
    return table
