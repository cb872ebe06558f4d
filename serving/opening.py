"""Open a bundle: verified, pinned to one version, with its card and reference."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfcore.errors import BundleError
from dfcore.models import DetectorCard
from dfcore.models.bundle import CARD, MANIFEST, SIGNATURE, fetch, read_pointer
from dfcore.models.card import WEIGHTS_FILE
from dfcore.provenance import sha256_file
from dfcore.storage import open_store
from serving.answers import ModelIdentity

__all__ = ["OpenedBundle", "open_bundle", "promoted_digest"]

_SCHEME = "registry://"
_SHORT_DIGEST = 12
_VERSION_DIGEST = 8  # v0001-1a2b3c4d: the registry ends a version with its manifest's digest
_VERSION = re.compile(r"v[0-9]+-[0-9a-f]{8}")


@dataclass(frozen=True, eq=False)
class OpenedBundle:
    """A verified bundle.

    Attributes:
        address: what names exactly this version, where the registry knows it; else what was given.
        folder: its files.
        identity: what answers carry.
        card: preprocessing and threshold.
        weights: SHA-256 of the weights.
        reference: what drift is measured against, or None.
    """

    address: str | Path
    folder: Path
    identity: ModelIdentity
    card: DetectorCard
    weights: str
    reference: Mapping[str, Any] | None


def open_bundle(
    model: str | Path, *, name: str = "rampart", public_key: Path | None = None, allow_unsigned: bool = False
) -> OpenedBundle:
    """Fetch and verify a bundle; a channel is resolved once, so that all its parts are of one version.

    Args:
        model: bundle folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        name: the name that answers carry.
        public_key: what the signature must match; by default the registry's key or `RAMPART_PUBLIC_KEY`.
        allow_unsigned: also take a training output, which nobody has signed.

    Raises:
        BundleError: it is altered, incomplete or unsigned, or not the one that was promoted.
    """
    address, promoted = _pin(model)
    folder = fetch(address, public_key)
    if not allow_unsigned:
        _require_signed(folder, model)
    if promoted is not None and sha256_file(folder / MANIFEST) != promoted:
        raise BundleError(f"{model}: {MANIFEST} is not the one that was promoted; roll back or publish again")
    if not (folder / CARD).is_file():
        raise BundleError(f"expected {CARD} in {folder}, got a detector without its card")
    card = DetectorCard.from_yaml(folder / CARD)
    identity = _identify(folder, name, str(address))
    weights = sha256_file(folder / WEIGHTS_FILE)
    return OpenedBundle(address, folder, identity, card, weights, _read_reference(folder / "reference.json"))


def promoted_digest(model: str | Path) -> str | None:
    """Return the digest of the manifest that a channel points at now; None where the address is no channel.

    Raises:
        DataError: the channel is empty.
        WorkFailed: the store does not answer.
    """
    return _pin(model)[1]


def _pin(model: str | Path) -> tuple[str | Path, str | None]:
    text = str(model)
    name, _, target = text.removeprefix(_SCHEME).partition("@")
    if isinstance(model, Path) or not text.startswith(_SCHEME) or not target or _VERSION.fullmatch(target):
        return model, None
    if "RAMPART_REGISTRY" not in os.environ:
        return model, None  # `fetch` says what is missing
    pointer = read_pointer(open_store(os.environ["RAMPART_REGISTRY"]), name, target)
    return f"{_SCHEME}{name}@{pointer['version']}", str(pointer["manifest_sha256"])


def _require_signed(folder: Path, model: str | Path) -> None:
    missing = [name for name in (MANIFEST, SIGNATURE) if not (folder / name).is_file()]
    if missing:
        raise BundleError(
            f"expected a signed bundle at {model}, got a folder without {' and '.join(missing)}; "
            "publish it first, or allow unsigned models"
        )


def _identify(folder: Path, name: str, address: str) -> ModelIdentity:
    manifest = folder / MANIFEST
    digest = sha256_file(manifest if manifest.is_file() else folder / WEIGHTS_FILE)
    version = _find_version(folder, address)
    if version is None or not version.endswith(f"-{digest[:_VERSION_DIGEST]}"):
        version = digest[:_SHORT_DIGEST]  # not from a registry
    return ModelIdentity(name=name, version=version, digest=f"sha256:{digest}")


def _find_version(folder: Path, address: str) -> str | None:
    """Return the registry's name of the version, where the address tells it."""
    if folder.parent.name == "versions":
        return folder.name
    parts = address.rstrip("/").split("/")
    if len(parts) > 2 and parts[-2] == "versions":
        return parts[-1]
    target = address.partition("@")[2] if address.startswith(_SCHEME) else ""
    return target if _VERSION.fullmatch(target) else None


def _read_reference(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or "histograms" not in document:
        raise BundleError(f"expected histograms in {path}, got another document; rebuild the bundle")
    return document
