"""Whose folder a store is: what it is made from, that only one run fills it, and that it only grows."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dfcore.data.manifest import Manifest
from dfcore.data.parts import Shard, write_json, writing
from dfcore.data.store import STORE_KIND, STORE_VERSION
from dfcore.errors import DataError, WorkFailed
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import digest_json, sha256_file

__all__ = ["Inputs", "claim", "known_manifest", "read_inputs"]

logger = logging.getLogger(__name__)
_SHOWN = 3


@dataclass(frozen=True)
class Inputs:
    """What a store is made from.

    Attributes:
        manifest: digest of the samples.
        skipped: digest of what the scan left out; it only shows in the report.
        config: how faces are cut out.
        weights: SHA-256 of the detector's weights where they are the user's own.
    """

    manifest: str
    skipped: str
    config: PreprocessingConfig
    weights: str | None

    @classmethod
    def of(cls, manifest: Manifest, config: PreprocessingConfig) -> Inputs:
        """Describe a preparation.

        Raises:
            DataError: the detector's weights can't be read.
        """
        weights = config.detector_weights
        try:
            digest = None if weights is None else sha256_file(weights)
        except OSError as error:
            raise DataError(
                f"expected the face detector's weights at {weights}, got: {error.strerror}; check the path"
            ) from error
        return cls(manifest.digest, digest_json(list(manifest.skipped)), config, digest)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What fixes how an input is prepared: the weights by content, not by their place."""
        kept = self.config.model_dump(mode="json") | {"detector_weights": self.weights}
        return {"config": kept, "version": STORE_VERSION}

    @property
    def content(self) -> dict[str, Any]:
        """What fixes the store."""
        return {"manifest": self.manifest, **self.settings}


@contextmanager
def claim(
    out: Path, manifest: Manifest, inputs: Inputs, shard: Shard | None = None
) -> Iterator[bool]:  # fmt: skip
    """Hold a folder while it is filled; a store may be made anew from a data set that has grown.

    Args:
        out: the store's folder.
        manifest: what it is made from.
        inputs: of this manifest and the settings.
        shard: several shards may fill one folder at the same time; a whole store has it alone.

    Yields:
        Whether work is left.

    Raises:
        DataError: it holds something else, other settings, or inputs that are no longer in the manifest.
        WorkFailed: another run is filling it, or the disk is full.
    """
    if _is_finished(out, inputs):
        _refresh(out, manifest)
        yield False
        return
    _check(out, manifest, inputs)
    with writing(out):
        (out / "parts").mkdir(parents=True, exist_ok=True)
    with _locked(out, shared=shard is not None):
        if shard is None:
            for path in (*out.glob(".*"), *out.glob("*/.*")):
                if path.name != ".lock":
                    path.unlink(missing_ok=True)  # what a killed run was writing
        _write_inputs(out, manifest, inputs)
        yield True


def _is_finished(out: Path, inputs: Inputs) -> bool:
    header = _read(out / "store.json")
    return header.get("inputs") == inputs.content and header.get("skipped") == inputs.skipped


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _check(out: Path, manifest: Manifest, inputs: Inputs) -> None:
    """Refuse a folder of something else."""
    mark = out / "parts" / "inputs.json"
    former, header = _read(mark), _read(out / "store.json")
    if not former and not header:
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if any(not name.startswith(".") for name in names - {"parts"}):
            raise DataError(
                f"expected {out} to be new, empty or a crop store, got other files; choose another folder"
            )
        return
    version = former.get("version", header.get("version"))
    if version != STORE_VERSION:
        raise DataError(
            f"expected {STORE_KIND} version {STORE_VERSION}, got version {version} in {out}; "
            "choose another folder and prepare it again"
        )
    recorded = header.get("inputs", {})
    settings = former.get("settings") or {name: recorded.get(name) for name in inputs.settings}
    if settings != inputs.settings:
        raise DataError(
            f"expected {out} to be new or made with the same settings, got another store; "
            "choose another folder or remove it"
        )
    known = known_manifest(out)
    lost = {one.sample_id for one in known.samples} if known else set()
    lost -= {one.sample_id for one in manifest.samples}
    if lost:
        raise DataError(
            f"expected every input of {out} in {manifest.root}, got {len(lost)} that are gone "
            f"({', '.join(sorted(lost)[:_SHOWN])}): a store only grows; choose another folder or remove it"
        )


@contextmanager
def _locked(out: Path, *, shared: bool) -> Iterator[None]:
    with (out / ".lock").open("ab") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkFailed(f"expected {out} for this run alone, another run is filling it; wait") from error
        yield


def _write_inputs(out: Path, manifest: Manifest, inputs: Inputs) -> None:
    """Note what is being made; the mark last."""
    mark = out / "parts" / "inputs.json"
    document = {
        "version": STORE_VERSION,
        "manifest": inputs.manifest,
        "skipped": inputs.skipped,
        "settings": inputs.settings,
        "config": inputs.config.model_dump(mode="json"),
    }
    if _read(mark) == document:
        return
    with writing(mark):
        manifest.write(out / "parts" / "manifest.parquet")
    write_json(mark, document)


def read_inputs(folder: Path) -> tuple[Inputs, Manifest]:
    """Read what a shard's folder is made from.

    Raises:
        DataError: it is none, or one of another version.
    """
    document = _read(folder / "parts" / "inputs.json")
    if document.get("version") != STORE_VERSION:
        raise DataError(
            f"expected the output of `rampart data prepare` (version {STORE_VERSION}) in {folder}, "
            f"got version {document.get('version')}; prepare it again"
        )
    manifest = Manifest.read(folder / "parts" / "manifest.parquet")
    if manifest.digest != document["manifest"]:
        raise DataError(
            f"expected the manifest of {folder} as it was prepared, got another; prepare it again"
        )
    config = PreprocessingConfig.parse(document["config"], source=str(folder))
    weights = document["settings"]["config"]["detector_weights"]
    return Inputs(document["manifest"], document["skipped"], config, weights), manifest


def known_manifest(out: Path) -> Manifest | None:
    """Return what a store was last made from, for `scan` to compare with; None for a new folder."""
    for path in (out / "parts" / "manifest.parquet", out / "manifest.parquet"):
        if path.is_file():
            try:
                return Manifest.read(path)
            except DataError as error:
                logger.warning("%s is not used: %s", path, error)
    return None


def _refresh(out: Path, manifest: Manifest) -> None:
    """Keep the files' times, so that the next scan need not read files again that were only touched."""
    known = known_manifest(out)
    if known is not None and known.samples != manifest.samples:
        with suppress(OSError):  # a store on a read-only disk is as good
            manifest.write(out / "parts" / "manifest.parquet")
