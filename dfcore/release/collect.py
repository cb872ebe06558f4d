"""Garbage: versions that no channel and no audit log names, and uploads that nobody finished."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from dfcore.config import Config
from dfcore.errors import ConfigError, ConflictError
from dfcore.models.bundle import MANIFEST, read_pointer, version_prefix
from dfcore.release.audit import names_of, read_events
from dfcore.storage import Entry, ObjectStore

__all__ = ["Garbage", "collect_garbage"]

_MINIMUM = timedelta(minutes=10)


class Garbage(Config):
    """One thing that was, or would be, removed.

    Attributes:
        kind: "version" (published halfway, or unknown to the log) or "upload" (begun and never finished).
        what: its address below the store's.
        bytes: its size; 0 for an upload, whose parts are not listed.
        modified: when it was last written, by the store's clock.
    """

    kind: str
    what: str
    bytes: int
    modified: datetime


def collect_garbage(
    store: ObjectStore, names: Sequence[str], older_than: timedelta, *, dry_run: bool
) -> tuple[Garbage, ...]:
    """Remove what nobody can reach.

    Args:
        store: of the registry; only `models/NAME/versions/` is looked at.
        names: of the models.
        older_than: what is younger stays: its publisher may still be at work. At least ten minutes.
        dry_run: remove nothing, only tell.

    Returns:
        What was removed.

    Raises:
        ConfigError: too short an age.
        BundleError: an audit log misses entries, so that nobody knows what it named.
    """
    if older_than < _MINIMUM:
        raise ConfigError(f"expected an age of at least {_MINIMUM}, got {older_than}; publishing takes time")
    before = store.now() - older_than
    garbage = [
        item for name in names for item in _versions(store, name, before)
        if dry_run or _remove_version(store, name, item)
    ]  # fmt: skip
    for upload in store.unfinished("models/"):
        if upload.started < before:
            garbage.append(Garbage(kind="upload", what=upload.key, bytes=0, modified=upload.started))
            if not dry_run:
                store.abort(upload)
    return tuple(garbage)


def _versions(store: ObjectStore, name: str, before: datetime) -> Iterator[Garbage]:
    prefix = version_prefix(name, "x").removesuffix("x")
    objects: dict[str, list[Entry]] = defaultdict(list)
    for entry in store.entries(prefix):
        objects[entry.key.removeprefix(prefix).partition("/")[0]].append(entry)
    named = _named(store, name)
    for version, entries in objects.items():
        modified = max(entry.modified for entry in entries)
        if version not in named and modified < before:
            size = sum(entry.size for entry in entries)
            yield Garbage(kind="version", what=f"{prefix}{version}", bytes=size, modified=modified)


def _named(store: ObjectStore, name: str) -> set[str]:
    keys = store.list(f"models/{name}/channels/")
    channels = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
    pointed = {str(read_pointer(store, name, channel)["version"]) for channel in channels}
    return pointed | set(names_of(read_events(store, name)))


def _remove_version(store: ObjectStore, name: str, item: Garbage) -> bool:
    """Remove a version, manifest first; put it back if somebody named it meanwhile."""
    manifest = f"{item.what}/{MANIFEST}"
    data = store.get(manifest) if store.etag(manifest) is not None else None
    if data is not None:
        # Who wants this version logs it and then reads the manifest; we remove that and then read the log:
        # at least one of us sees the other.
        store.delete(manifest)
        if item.what.rpartition("/")[2] in _named(store, name):
            with contextlib.suppress(ConflictError):
                store.put_if_absent(manifest, data)
            return False
    for key in store.list(f"{item.what}/"):
        store.delete(key)
    return True
