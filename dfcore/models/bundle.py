"""Find a bundle and verify it before any of its bytes is deserialised.

An address is a folder, `file://…`, `s3://…`, or `registry://NAME@CHANNEL` (or `@VERSION`) in the store that
the environment variable RAMPART_REGISTRY names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from dfcore.config import suggest
from dfcore.errors import BundleError, ConfigError, DataError
from dfcore.models.trust import verify_signature
from dfcore.provenance import sha256_file
from dfcore.storage import FileStore, ObjectStore, open_store

__all__ = [
    "CARD",
    "MANIFEST",
    "PUBLIC_KEY",
    "SIGNATURE",
    "channel_key",
    "fetch",
    "list_files",
    "read_pointer",
    "verify_bundle",
    "version_prefix",
]

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
CARD = "detector.json"
PUBLIC_KEY = "keys/rampart.pub"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Source(NamedTuple):
    """Where a bundle lies, and what the registry says it must be."""

    store: ObjectStore
    prefix: str
    manifest_sha256: str | None
    trusted_root: ObjectStore | None


def check_name(name: str, what: str = "name") -> str:
    """Return a model, channel or version name; ConfigError if it could not be part of a key."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a {what} of letters, digits, '.', '_' and '-', got {name!r}")
    return name


def version_prefix(name: str, version: str) -> str:
    """Return the prefix of a published version in a registry's store."""
    return f"models/{check_name(name)}/versions/{check_name(version, 'version')}"


def channel_key(name: str, channel: str) -> str:
    """Return the key of a channel's pointer in a registry's store."""
    return f"models/{check_name(name)}/channels/{check_name(channel, 'channel')}.json"


def read_pointer(store: ObjectStore, name: str, channel: str) -> dict[str, Any]:
    """Return what a channel points at: `version`, `manifest_sha256`, `event`.

    Raises:
        DataError: nothing was ever promoted to this channel.
        BundleError: the pointer is no such document.
    """
    try:
        data = store.get(channel_key(name, channel))
    except DataError as error:
        advice = _known(store, name, channel)
        raise DataError(
            f"expected channel {channel!r} of {name!r} in {store.uri}, found none{advice}"
        ) from error
    try:
        pointer: dict[str, Any] = json.loads(data)
        check_name(pointer["version"], "version")
        str(pointer["manifest_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"channel {channel!r} of {name!r} holds no pointer: {error}; promote again"
        ) from error
    return pointer


def _known(store: ObjectStore, name: str, channel: str) -> str:
    channels = [key.rpartition("/")[2] for key in store.list(f"models/{name}/channels/")]
    if channels:
        return suggest(channel, (file.removesuffix(".json") for file in channels))
    models = {key.split("/")[1] for key in store.list("models/")}
    return "; promote a version first" if name in models or not models else suggest(name, models)


def fetch(uri: str | Path, public_key: Path | None = None, cache: Path | None = None) -> Path:
    """Resolve an address to a local folder whose signature and digests hold.

    Args:
        uri: a folder, file://, s3:// or registry://NAME@CHANNEL.
        public_key: who must have signed it (see `dfcore.models.trust`); else RAMPART_PUBLIC_KEY; else the
            registry's keys/rampart.pub.
        cache: where downloads are kept; else RAMPART_CACHE or ~/.cache/rampart.

    Returns:
        The folder. A local folder with detector.json but without manifest.json is a training output: it is
        returned as it is.

    Raises:
        BundleError: incomplete, altered, unsigned or signed by another key.
        ConfigError: an address or a key that can't be used.
        DataError: nothing is there.
    """
    source = _resolve(str(uri), isinstance(uri, Path))
    if isinstance(source.store, FileStore):
        folder = source.store.root / source.prefix if source.prefix else source.store.root
        return _check_local(folder, source, public_key)
    return _download(source, public_key, cache)


def _resolve(uri: str, is_path: bool) -> _Source:
    parts = urlsplit(uri)
    if is_path or parts.scheme in {"", "file"}:
        folder = Path(uri if is_path or not parts.scheme else unquote(parts.path)).expanduser().absolute()
        return _Source(FileStore(folder), "", None, _root_of_folder(folder))
    if parts.scheme == "s3":
        head, _, _ = uri.rstrip("/").partition("/models/")
        root = open_store(head) if head != uri.rstrip("/") else None
        return _Source(open_store(uri), "", None, root)
    if parts.scheme == "registry":
        return _resolve_registry(uri.removeprefix("registry://"))
    raise ConfigError(f"expected a folder, file://, s3:// or registry://NAME@CHANNEL, got {uri!r}")


def _resolve_registry(reference: str) -> _Source:
    name, separator, target = reference.partition("@")
    root = os.environ.get("RAMPART_REGISTRY")
    if not separator or not target:
        raise ConfigError(f"expected registry://NAME@CHANNEL, got registry://{reference}")
    if not root:
        raise ConfigError(
            f"registry://{reference} needs RAMPART_REGISTRY; set it to a path, file:// or s3:// address"
        )
    store = open_store(root)
    if store.etag(f"{version_prefix(name, target)}/{MANIFEST}") is not None:
        return _Source(store, version_prefix(name, target), None, store)
    pointer = read_pointer(store, name, target)
    return _Source(store, version_prefix(name, pointer["version"]), pointer["manifest_sha256"], store)


def _root_of_folder(folder: Path) -> FileStore | None:
    parents = folder.parents
    if len(parents) > 3 and parents[0].name == "versions" and parents[2].name == "models":
        return FileStore(parents[3])
    return None


def _check_local(folder: Path, source: _Source, public_key: Path | None) -> Path:
    if not folder.is_dir():
        raise DataError(
            f"expected a bundle or a training output at {folder}, found no folder; check the address"
        )
    published = source.manifest_sha256 is not None
    if not published and not (folder / MANIFEST).exists() and not (folder / SIGNATURE).exists():
        if (folder / CARD).is_file() and _root_of_folder(folder) is None:
            return folder
        raise BundleError(
            f"expected {MANIFEST} (bundle) or {CARD} (training output) in {folder}, found neither"
        )
    _verify(folder, source, public_key)
    return folder


def _verify(folder: Path, source: _Source, public_key: Path | None) -> None:
    expected = source.manifest_sha256
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"expected {MANIFEST} in {folder}, found none: the bundle is incomplete; publish it again"
        )
    if expected is not None and sha256_file(folder / MANIFEST) != expected:
        raise BundleError(
            f"{folder}: {MANIFEST} is not the one that was promoted; roll back or publish again"
        )
    with _trusted_key(public_key, source.trusted_root) as key:
        verify_bundle(folder, key)


@contextlib.contextmanager
def _trusted_key(public_key: Path | None, root: ObjectStore | None) -> Iterator[Path]:
    """Yield the path of the key to trust: given, from the environment, or the registry's own."""
    named = os.environ.get("RAMPART_PUBLIC_KEY")
    if public_key is not None or named:
        yield public_key if public_key is not None else Path(str(named))
        return
    if root is None:
        raise ConfigError(
            "expected a public key to verify the bundle with; give one or set RAMPART_PUBLIC_KEY"
        )
    with tempfile.TemporaryDirectory(prefix="rampart-key-") as folder:
        path = Path(folder) / "rampart.pub"
        try:
            path.write_bytes(root.get(PUBLIC_KEY))
        except DataError as error:
            raise ConfigError(
                f"expected a public key at {root.uri}/{PUBLIC_KEY}, found none; "
                "give one or set RAMPART_PUBLIC_KEY"
            ) from error
        yield path


def _download(source: _Source, public_key: Path | None, cache: Path | None) -> Path:
    """Download into a content-addressed cache; what is cached is verified again on each use."""
    prefix = f"{source.prefix}/" if source.prefix else ""
    try:
        manifest = source.store.get(f"{prefix}{MANIFEST}")
    except DataError as error:
        raise BundleError(
            f"expected a bundle at {source.store.uri}/{source.prefix}, found no {MANIFEST}: "
            "the address is wrong or publishing never finished"
        ) from error
    home = cache or Path(os.environ.get("RAMPART_CACHE", "~/.cache/rampart")).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    target = home / hashlib.sha256(manifest).hexdigest()
    if target.is_dir():
        try:
            _verify(target, source, public_key)
        except BundleError:
            shutil.rmtree(target)  # a damaged copy, or one signed by another key: fetch it afresh
        else:
            return target
    with tempfile.TemporaryDirectory(prefix=".download-", dir=home) as name:
        folder = Path(name) / "bundle"
        source.store.download_folder(source.prefix, folder)
        _verify(folder, source, public_key)
        # A second process may have been quicker; its copy has the same manifest and was verified too.
        with contextlib.suppress(FileExistsError):
            _move_folder(folder, target)
    return target


def _move_folder(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(str(target)) from error
        raise


def list_files(folder: Path) -> list[str]:
    """Return the relative names of every file in a bundle, sorted.

    Raises:
        BundleError: something in it is no plain file (a link, a device) or has a hidden name.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"expected plain files in {folder}, found {name}; remove it")
        if any(part.startswith(".") for part in name.split("/")):
            raise BundleError(f"expected no hidden file in {folder}, found {name}; remove it")
        if path.is_file():
            names.append(name)
    return names


def verify_bundle(folder: Path, public_key: Path) -> None:
    """Check the signature first, then every file against manifest.json.

    Args:
        folder: the bundle.
        public_key: who must have signed it; see `dfcore.models.trust`.

    Raises:
        BundleError: a missing, altered or extra file, no signature, or another signer's.
        ConfigError: the trust file can't be used.
    """
    names = set(list_files(folder))
    for needed in (MANIFEST, SIGNATURE):
        if needed not in names:
            raise BundleError(
                f"expected {needed} in {folder}, found none: the bundle is not signed or incomplete"
            )
    verify_signature(folder, SIGNATURE, public_key)
    expected = _read_manifest(folder / MANIFEST)
    names -= {MANIFEST, SIGNATURE}
    if missing := sorted(set(expected) - names):
        raise BundleError(f"{folder}: missing {', '.join(missing)}; fetch or publish the bundle again")
    if extra := sorted(names - set(expected)):
        raise BundleError(f"{folder}: not in {MANIFEST}: {', '.join(extra)}; remove or sign again")
    for name, digest in expected.items():
        if (found := sha256_file(folder / name)) != digest:
            raise BundleError(
                f"{folder}: {name} is altered: expected sha256 {digest[:12]}…, got {found[:12]}…"
            )


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_bytes())["files"]
        return {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is no bundle manifest: {error}") from error
