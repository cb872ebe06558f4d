"""The registry: versions written once, channels moved by compare-and-swap, an audit log that only grows.

keys/rampart.pub                                   what consumers trust by default
models/NAME/versions/v0001-1a2b3c4d/…              a bundle; manifest.json arrives last
models/NAME/channels/CHANNEL.json                  points at a version
models/NAME/sequence/0001.json                     who took which number
models/NAME/audit/00000001.json                    one event each
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dfcore.config import Config, suggest
from dfcore.errors import BundleError, ConflictError, DataError, WorkFailed
from dfcore.models.bundle import (
    MANIFEST,
    PUBLIC_KEY,
    SIGNATURE,
    channel_key,
    fetch,
    list_files,
    read_pointer,
    verify_bundle,
    version_prefix,
)
from dfcore.release.audit import TRIES, Event, append_event, new_event, read_events
from dfcore.release.collect import Garbage, collect_garbage
from dfcore.release.model_registry import register_version, registry_address
from dfcore.storage import FileStore, ObjectStore, open_store

__all__ = ["Registry", "Version"]

_VERSION = re.compile(r"v(\d{4,})-[0-9a-f]{8}")


class Version(Config):
    """One published version and the channels that point at it."""

    version: str
    channels: tuple[str, ...] = ()


class _Move(NamedTuple):
    """Who moves a channel, why, and from which version (None: from any)."""

    action: str
    who: str
    why: str
    current: str | None


class Registry:
    """Versions and channels of models on an object store."""

    def __init__(self, store_uri: str | Path) -> None:
        """Open the store (path, file:// or s3://); nothing is written yet."""
        self.store: ObjectStore = open_store(store_uri)

    @property
    def uri(self) -> str:
        """The store's address."""
        return self.store.uri

    def publish(
        self, name: str, bundle: Path, *, public_key: Path, who: str = "unknown", why: str = "published"
    ) -> str:
        """Verify a bundle and write it once; the same bundle again gives the same version.

        Args:
            name: the model.
            bundle: a signed bundle folder.
            public_key: who must have signed it (see `dfcore.models.trust`); the first publisher's becomes
                the registry's.
            who: for the audit log.
            why: for the audit log.

        Returns:
            The version, such as v0001-1a2b3c4d.

        Raises:
            BundleError: the bundle does not hold, or the registry trusts another signer.
            WorkFailed: the store keeps no conditions, or lost a file.
        """
        registry_address()
        verify_bundle(bundle, public_key)
        self._trust(public_key)
        manifest = (bundle / MANIFEST).read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        version = self._find(name, manifest, digest)
        if version is None:
            version = self._take_number(name, digest)
            self.store.upload_folder(bundle, version_prefix(name, version), last=MANIFEST)
        self._ensure_logged(name, version, who, why, _evidence_digest(manifest))
        self._check_stored(bundle, version_prefix(name, version))
        register_version(name, version, f"{self.uri}/{version_prefix(name, version)}", digest, who)
        return version

    def promote(
        self, name: str, version: str, channel: str, who: str, why: str, *, current: str | None = None
    ) -> None:
        """Point a channel at a version.

        Args:
            name: the model.
            version: what the channel shall point at.
            channel: made if there is none.
            who: for the audit log.
            why: for the audit log.
            current: the version that the channel must still point at, such as the one that the candidate was
                compared with; None means any.

        Raises:
            DataError: no such version.
            BundleError: the version does not hold.
            ConflictError: somebody else moved the channel first.
        """
        self._move(name, version, channel, _Move("promote", who, why, current))

    def rollback(self, name: str, channel: str, who: str, why: str) -> str:
        """Point a channel at the version it had before the last promotion.

        Returns:
            That version.

        Raises:
            DataError: there is no version to go back to.
        """
        self._settle(name, channel)
        # even from a log that lost entries: an alarm must not wait for its repair
        history = [event for event in read_events(self.store, name, strict=False) if event.channel == channel]
        stack: list[str] = []
        for event in history:
            if event.action == "promote" and stack[-1:] != [event.version]:
                stack.append(event.version)
            elif event.action == "rollback" and stack:
                stack.pop()
        current = read_pointer(self.store, name, channel)["version"]
        if stack[-1:] == [current]:
            stack.pop()
        if not stack:
            raise DataError(f"expected an earlier version in channel {channel!r} of {name!r}, found none")
        self._move(name, stack[-1], channel, _Move("rollback", who, why, current))
        return stack[-1]

    def list(self, name: str | None = None) -> dict[str, tuple[Version, ...]]:
        """Return the whole versions of one model, or of all, oldest first."""
        names = [name] if name else self._names()
        found = {}
        for model in names:
            channels = self.channels(model)
            found[model] = tuple(
                Version(
                    version=version, channels=tuple(sorted(c for c, at in channels.items() if at == version))
                )
                for version in self._whole_versions(model)
            )
        return found

    def channels(self, name: str) -> dict[str, str]:
        """Return the version that each channel of a model points at."""
        keys = self.store.list(f"models/{name}/channels/")
        names = [key.rpartition("/")[2].removesuffix(".json") for key in keys]
        return {channel: str(read_pointer(self.store, name, channel)["version"]) for channel in names}

    def show(self, name: str, target: str) -> dict[str, Any]:
        """Return a version (or a channel's): its address, files, decision and channels.

        Raises:
            DataError: no such version or channel.
        """
        version = self.resolve(name, target)
        prefix = version_prefix(name, version)
        manifest = json.loads(self.store.get(f"{prefix}/{MANIFEST}"))
        return {
            "name": name,
            "version": version,
            "uri": f"{self.uri}/{prefix}",
            "channels": sorted(channel for channel, at in self.channels(name).items() if at == version),
            "files": manifest["files"],
            "decision": json.loads(self.store.get(f"{prefix}/decision.json")),
        }

    def resolve(self, name: str, target: str) -> str:
        """Return the version that a version or channel name means.

        Raises:
            DataError: no such version or channel.
        """
        if self.store.etag(f"{version_prefix(name, target)}/{MANIFEST}") is not None:
            return target
        if _VERSION.fullmatch(target):
            known = self._whole_versions(name)
            raise DataError(
                f"expected version {target!r} of {name!r} in {self.uri}, found none that is whole"
                + (suggest(target, known) if known else "; publish one first")
            )
        return str(read_pointer(self.store, name, target)["version"])

    def verify(
        self, name: str, target: str, public_key: Path | None = None, *, cache: Path | None = None
    ) -> Path:
        """Fetch a version (or a channel's) and verify it; return the local folder.

        Args:
            name: the model.
            target: a version or a channel.
            public_key: who must have signed it; see `fetch`.
            cache: where downloads are kept; see `fetch`. With an empty folder every byte is the store's.

        Raises:
            BundleError: it does not hold.
            DataError: no such version or channel.
        """
        prefix = version_prefix(name, self.resolve(name, target))
        if isinstance(self.store, FileStore):
            return fetch(self.store.path(prefix), public_key)
        return fetch(f"{self.uri}/{prefix}", public_key, cache)

    def log(self, name: str) -> tuple[Event, ...]:
        """Return the audit log of a model, oldest first.

        Raises:
            BundleError: an entry is missing or no event.
        """
        events = read_events(self.store, name)
        pending = [self._pending(name, channel, events) for channel in self.channels(name)]
        left_out = [entry for entry in pending if entry is not None]
        return events + tuple(
            Event.parse({"sequence": number, **entry}, source="channel")
            for number, entry in enumerate(left_out, start=len(events) + 1)
        )

    def collect(
        self, older_than: timedelta = timedelta(days=1), *, name: str | None = None, dry_run: bool = False
    ) -> tuple[Garbage, ...]:
        """Remove versions that no channel and no log names, and unfinished uploads; see `collect_garbage`."""
        names = [name] if name else self._names()
        return collect_garbage(self.store, names, older_than, dry_run=dry_run)

    def _names(self) -> Sequence[str]:
        return sorted({key.split("/")[1] for key in self.store.list("models/")})

    def _trust(self, public_key: Path) -> None:
        data = public_key.read_bytes()
        try:
            self.store.put_if_absent(PUBLIC_KEY, data)
        except ConflictError as error:
            if self.store.get(PUBLIC_KEY) != data:
                raise BundleError(
                    f"{self.uri} trusts another signer than {public_key}; sign with the registry's key"
                ) from error

    def _find(self, name: str, manifest: bytes, digest: str) -> str | None:
        """Return the version that has this manifest."""
        for known in self._whole_versions(name):
            key = f"{version_prefix(name, known)}/{MANIFEST}"
            if known.endswith(digest[:8]) and self.store.get(key) == manifest:
                return known
        return None

    def _check_stored(self, bundle: Path, prefix: str) -> None:
        there = {
            entry.key.removeprefix(f"{prefix}/"): entry.size for entry in self.store.entries(f"{prefix}/")
        }
        ours = {name: (bundle / name).stat().st_size for name in list_files(bundle)}
        # a signature by another key or at another time may have another length
        lost = sorted(
            name for name in ours if name not in there or (name != SIGNATURE and there[name] != ours[name])
        )
        if lost:
            raise WorkFailed(
                f"expected {', '.join(lost)} below {self.uri}/{prefix} as published, found it missing or cut "
                "off: somebody removed it meanwhile; publish again"
            )

    def _whole_versions(self, name: str) -> Sequence[str]:
        """Return the versions whose manifest, the last file written, is there."""
        prefix = version_prefix(name, "x").removesuffix("x")
        keys = (key.removeprefix(prefix).split("/") for key in self.store.list(prefix))
        return sorted(
            (parts[0] for parts in keys if parts[1:] == [MANIFEST] and _VERSION.fullmatch(parts[0])),
            key=lambda version: int(version[1:].partition("-")[0]),
        )

    def _take_number(self, name: str, digest: str) -> str:
        """Claim the next version number; two publishers never share one."""
        taken = [
            int(key.rpartition("/")[2].removesuffix(".json"))
            for key in self.store.list(f"models/{name}/sequence/")
        ]
        first = max(taken, default=0) + 1
        for number in range(first, first + TRIES):
            key = f"models/{name}/sequence/{number:04d}.json"
            claim = json.dumps({"digest": digest, "id": uuid.uuid4().hex}).encode()
            try:
                self.store.put_if_absent(key, claim)
            except ConflictError:
                continue
            self._check_conditions(key, claim)
            return f"v{number:04d}-{digest[:8]}"
        raise ConflictError(
            f"expected a free version number of {name!r} in {TRIES} tries, found none; try again"
        )

    def _check_conditions(self, key: str, data: bytes) -> None:
        """Refuse a store that ignores conditions: two promotions could both win on it."""
        another = '"00000000000000000000000000000000"'
        for attempt in (self.store.put_if_absent, partial(self.store.replace, etag=another)):
            try:
                attempt(key, data)
            except ConflictError:
                continue
            raise WorkFailed(
                f"expected conditional writes (If-None-Match, If-Match) of {self.uri}, got a store that "
                "ignores them; use one that has them, such as MinIO, SeaweedFS or AWS"
            )

    def _move(self, name: str, version: str, channel: str, move: _Move) -> None:
        key = channel_key(name, channel)
        before = self.store.read(key) if self.store.etag(key) is not None else None
        previous = str(read_pointer(self.store, name, channel)["version"]) if before else None
        if move.current not in (None, previous):
            raise ConflictError(
                f"expected channel {channel!r} of {name!r} at {move.current}, got {previous}: somebody else "
                "moved it first; compare with that version and try again"
            )
        if self.resolve(name, version) != version:
            raise DataError(f"expected a version, got the channel {version!r}; name the version")
        evidence = self._evidence(name, version)
        self._ensure_logged(
            name, version, move.who, f"found published without an entry: {move.why}", evidence
        )
        # into an empty folder: a copy from before would hide what became of the store's own
        with tempfile.TemporaryDirectory(prefix="rampart-verify-") as cache:
            manifest = (self.verify(name, version, cache=Path(cache)) / MANIFEST).read_bytes()
        event = new_event(
            move.action,
            version,
            move.who,
            move.why,
            channel=channel,
            previous=previous,
            evidence_digest=evidence,
        )
        pointer = {
            "version": version, "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
            "event": event["id"], "entry": event,
        }  # fmt: skip
        # The pointer carries its own log entry: whoever moves it next writes what a killed process left out.
        self._settle(name, channel)
        data = json.dumps(pointer, indent=2).encode()
        if before is None:
            self.store.put_if_absent(key, data)
        else:
            self.store.replace(key, data, before.etag)
        append_event(self.store, name, event)

    def _settle(self, name: str, channel: str) -> None:
        """Append the log entry of a channel's last move if its process died before it could."""
        entry = self._pending(name, channel, read_events(self.store, name, strict=False))
        if entry is not None:
            append_event(self.store, name, entry)

    def _pending(self, name: str, channel: str, events: Sequence[Event]) -> dict[str, Any] | None:
        key = channel_key(name, channel)
        pointer = json.loads(self.store.get(key)) if self.store.etag(key) is not None else {}
        entry: dict[str, Any] | None = pointer.get("entry")
        return entry if entry is not None and entry["id"] not in {event.id for event in events} else None

    def _ensure_logged(self, name: str, version: str, who: str, why: str, evidence: str | None) -> None:
        events = read_events(self.store, name, strict=False)
        if not any((event.action, event.version) == ("publish", version) for event in events):
            append_event(self.store, name, new_event("publish", version, who, why, evidence_digest=evidence))

    def _evidence(self, name: str, version: str) -> str | None:
        return _evidence_digest(self.store.get(f"{version_prefix(name, version)}/{MANIFEST}"))


def _evidence_digest(manifest: bytes) -> str | None:
    entry = json.loads(manifest)["files"].get("evidence.json")
    return str(entry["sha256"]) if entry else None
