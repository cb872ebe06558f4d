"""The audit log of a model: one object for each event, numbered without gaps, created and never replaced."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from dfcore.config import Config
from dfcore.errors import BundleError, ConflictError
from dfcore.storage import ObjectStore

__all__ = ["TRIES", "Event", "append_event", "names_of", "new_event", "read_events"]

# Far above what concurrent writers can need; a store that never says yes must not hang us.
TRIES = 1000
_AT_ONCE = 8


class Event(Config):
    """One line of the audit log.

    Attributes:
        sequence: its number, from 1.
        id: its own, by which a repeated line is recognised.
        time: UTC, of the machine that acted.
        action: "publish", "promote" or "rollback".
        who, why: as told.
        version: published, or what the channel points at since.
        previous: what the channel pointed at before.
        channel: None for "publish".
        evidence_digest: SHA-256 of the version's evidence.json.
    """

    sequence: int
    id: str
    time: str
    action: str
    who: str
    why: str
    version: str
    previous: str | None = None
    channel: str | None = None
    evidence_digest: str | None = None


def new_event(action: str, version: str, who: str, why: str, **more: str | None) -> dict[str, Any]:
    """Return an event that has no number yet."""
    return {
        "id": uuid.uuid4().hex, "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "action": action, "who": who, "why": why, "version": version, **more,
    }  # fmt: skip


def append_event(store: ObjectStore, name: str, event: dict[str, Any]) -> None:
    """Append an event under the next free number; of concurrent writers each gets its own.

    Raises:
        ConflictError: no number was free in a thousand tries.
    """
    first = len(store.list(_folder(name))) + 1
    for sequence in range(first, first + TRIES):
        document = json.dumps({"sequence": sequence, **event}).encode()
        try:
            store.put_if_absent(f"{_folder(name)}{sequence:08d}.json", document)
        except ConflictError:
            continue
        return
    raise ConflictError(f"expected to append to the audit log of {name!r} in {TRIES} tries; try again")


def read_events(store: ObjectStore, name: str, *, strict: bool = True) -> tuple[Event, ...]:
    """Return the events of a model, oldest first; one that was written twice comes once.

    Args:
        store: of the registry.
        name: the model.
        strict: refuse a log that misses a number; a rollback must work all the same.

    Raises:
        BundleError: an entry is gone, or is no event.
    """
    keys = store.list(_folder(name))
    if strict:
        _check_numbers(store, name, keys)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(store.get, keys))
    events: dict[str, Event] = {}
    for key, data in zip(keys, found, strict=True):
        event = Event.parse(_read_json(store, key, data), source=key)
        events.setdefault(event.id, event)
    return tuple(events.values())


def _check_numbers(store: ObjectStore, name: str, keys: Sequence[str]) -> None:
    there = {key.rpartition("/")[2] for key in keys}
    missing = sorted({f"{number:08d}.json" for number in range(1, len(keys) + 1)} - there)
    if missing:
        raise BundleError(
            f"expected {missing[0]} in the audit log of {name!r} in {store.uri}, found none: somebody "
            "removed it; restore it from the bucket's former versions or a backup"
        )


def _read_json(store: ObjectStore, key: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise BundleError(
            f"expected an event in {store.uri}/{key}, got: {error}; restore its former version"
        ) from error


def _folder(name: str) -> str:
    return f"models/{name}/audit/"


def names_of(events: Sequence[Event]) -> Iterator[str]:
    """Yield every version that a log names."""
    for event in events:
        yield event.version
        if event.previous is not None:
            yield event.previous
