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
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dfcore.config import Config
from dfcore.errors import BundleError, ConflictError, DataError
from dfcore.models.bundle import (
    MANIFEST,
    PUBLIC_KEY,
    channel_key,
    fetch,
    read_pointer,
    verify_bundle,
    version_prefix,
)
from dfcore.storage import FileStore, ObjectStore, open_store

__all__ = ["Event", "Registry", "Version"]

_VERSION = re.compile(r"v(\d{4,})-[0-9a-f]{8}")
# Far above what concurrent publishers can need; a store that never says yes must not hang us.
_TRIES = 1000


class Version(Config):
    """One published version and the channels that point at it."""

    version: str
    channels: tuple[str, ...] = ()


class Event(Config):
    """One line of the audit log."""

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
            public_key: must have signed it; the first publisher's becomes the registry's.

        Returns:
            The version, such as v0001-1a2b3c4d.

        Raises:
            BundleError: the bundle does not hold, or the registry trusts another key.
        """
        verify_bundle(bundle, public_key)
        self._trust(public_key)
        manifest = (bundle / MANIFEST).read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        for known in self._whole_versions(name):
            if (
                known.endswith(digest[:8])
                and self.store.get(f"{version_prefix(name, known)}/{MANIFEST}") == manifest
            ):
                return known
        version = self._take_number(name, digest)
        self.store.upload_folder(bundle, version_prefix(name, version), last=MANIFEST)
        self._log(name, "publish", version, who, why, evidence=_evidence_digest(manifest))
        return version

    def promote(self, name: str, version: str, channel: str, who: str, why: str) -> None:
        """Point a channel at a version.

        Raises:
            DataError: no such version.
            BundleError: the version does not hold.
            ConflictError: somebody else moved the channel at the same time.
        """
        self._move(name, version, channel, who, why, action="promote")

    def rollback(self, name: str, channel: str, who: str, why: str) -> str:
        """Point a channel at the version it had before the last promotion.

        Returns:
            That version.

        Raises:
            DataError: there is no version to go back to.
        """
        history = [event for event in self.log(name) if event.channel == channel]
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
        self._move(name, stack[-1], channel, who, why, action="rollback")
        return stack[-1]

    def list(self, name: str | None = None) -> dict[str, tuple[Version, ...]]:
        """Return the whole versions of one model, or of all, oldest first."""
        names = [name] if name else sorted({key.split("/")[1] for key in self.store.list("models/")})
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
            raise DataError(
                f"expected version {target!r} of {name!r} in {self.uri}, found none that is whole"
            )
        return str(read_pointer(self.store, name, target)["version"])

    def verify(self, name: str, target: str, public_key: Path | None = None) -> Path:
        """Fetch a version (or a channel's) and verify it; return the local folder.

        Raises:
            BundleError: it does not hold.
            DataError: no such version or channel.
        """
        prefix = version_prefix(name, self.resolve(name, target))
        if isinstance(self.store, FileStore):
            return fetch(self.store.path(prefix), public_key)
        return fetch(f"{self.uri}/{prefix}", public_key)

    def log(self, name: str) -> tuple[Event, ...]:
        """Return the audit log of a model, oldest first."""
        keys = self.store.list(f"models/{name}/audit/")
        return tuple(Event.parse(json.loads(self.store.get(key)), source=key) for key in keys)

    def _trust(self, public_key: Path) -> None:
        data = public_key.read_bytes()
        try:
            self.store.put_if_absent(PUBLIC_KEY, data)
        except ConflictError as error:
            if self.store.get(PUBLIC_KEY) != data:
                raise BundleError(
                    f"{self.uri} trusts another key than {public_key}; sign with the registry's key"
                ) from error

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
        for number in range(first, first + _TRIES):
            claim = json.dumps({"digest": digest, "id": uuid.uuid4().hex}).encode()
            try:
                self.store.put_if_absent(f"models/{name}/sequence/{number:04d}.json", claim)
            except ConflictError:
                continue
            return f"v{number:04d}-{digest[:8]}"
        raise ConflictError(
            f"expected a free version number of {name!r} in {_TRIES} tries, found none; try again"
        )

    def _move(self, name: str, version: str, channel: str, who: str, why: str, *, action: str) -> None:
        key = channel_key(name, channel)
        before = self.store.read(key) if self.store.etag(key) is not None else None
        previous = str(json.loads(before.data)["version"]) if before else None
        if self.resolve(name, version) != version:
            raise DataError(f"expected a version, got the channel {version!r}; name the version")
        folder = self.verify(name, version)
        manifest = (folder / MANIFEST).read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        pointer = {"version": version, "manifest_sha256": digest, "event": uuid.uuid4().hex}
        data = json.dumps(pointer, indent=2).encode()
        if before is None:
            self.store.put_if_absent(key, data)
        else:
            self.store.replace(key, data, before.etag)
        evidence = _evidence_digest(manifest)
        event = {"previous": previous, "channel": channel, "id": pointer["event"]}
        self._log(name, action, version, who, why, evidence=evidence, extra=event)

    def _log(
        self, name: str, action: str, version: str, who: str, why: str, *,
        evidence: str | None, extra: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        first = len(self.store.list(f"models/{name}/audit/")) + 1
        for sequence in range(first, first + _TRIES):
            event = {
                "sequence": sequence, "id": uuid.uuid4().hex, "action": action, "who": who, "why": why,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "version": version,
                "evidence_digest": evidence, **(extra or {}),
            }  # fmt: skip
            try:
                self.store.put_if_absent(
                    f"models/{name}/audit/{sequence:08d}.json", json.dumps(event).encode()
                )
            except ConflictError:
                continue
            return
        raise ConflictError(f"expected to append to the audit log of {name!r} in {_TRIES} tries; try again")


def _evidence_digest(manifest: bytes) -> str | None:
    entry = json.loads(manifest)["files"].get("evidence.json")
    return str(entry["sha256"]) if entry else None
