"""Later evidence on a published version: what an audit measured, kept beside it and never changed.

models/NAME/audits/VERSION/2026-11-21-seed20261121/   evidence.json, samples.parquet, decision.json, and
                                                      audit.json, written last
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dfcore.config import Config
from dfcore.errors import BundleError, ConflictError, DataError
from dfcore.models.bundle import check_name
from dfcore.provenance import sha256_file
from dfcore.release.gate import Decision
from dfcore.release.registry import Registry
from dfcore.storage import write_atomic

__all__ = ["AuditRecord", "read_audits", "write_audit"]

_LAST = "audit.json"
_FILES = ("evidence.json", "samples.parquet", "decision.json")
_NAME = re.compile(r"\d{4}-\d\d-\d\d-seed\d+")


class AuditRecord(Config):
    """What one audit found.

    Attributes:
        audit: its name, date and seed.
        model, version: what was attacked.
        channel: that served it then.
        created: UTC.
        seed: of the attacks' random starts.
        suite: which scenarios.
        policy: the gate policy that was applied again.
        regressed: whether a rule of it does not hold any more.
        failed: the names of these rules.
        files: SHA-256 of each file beside this one.
    """

    audit: str
    model: str
    version: str
    channel: str
    created: datetime
    seed: int
    suite: str
    policy: str
    regressed: bool
    failed: tuple[str, ...] = ()
    files: dict[str, str]


def write_audit(
    registry: Registry, target: tuple[str, str, str], folder: Path, *, seed: int, suite: str
) -> AuditRecord:
    """Write an audit beside its version, once.

    Args:
        registry: with the version.
        target: model, version, and the channel that serves it.
        folder: evidence.json, samples.parquet and decision.json.
        seed: of the attacks.
        suite: which scenarios.

    Raises:
        ConflictError: there is one of this date and seed.
        DataError: no such version, or a file is missing.
    """
    model, version, channel = target
    if registry.resolve(model, version) != version:
        raise DataError(f"expected a version of {model!r}, got the channel {version!r}; name the version")
    for name in _FILES:
        if not (folder / name).is_file():
            raise DataError(f"expected {name} of an audit in {folder}, found none; evaluate first")
    decision = Decision.load(folder / "decision.json")
    now = datetime.now(UTC)
    record = AuditRecord(
        audit=f"{now:%Y-%m-%d}-seed{seed}", model=model, version=version, channel=channel, created=now,
        seed=seed, suite=suite, policy=decision.policy, regressed=not decision.promoted,
        failed=tuple(rule.name for rule in decision.failed),
        files={name: sha256_file(folder / name) for name in _FILES},
    )  # fmt: skip
    prefix = f"{_prefix(model, version)}{record.audit}/"
    store = registry.store
    there = store.list(prefix)
    if f"{prefix}{_LAST}" in there:
        raise ConflictError(
            f"expected no audit {record.audit} of {model} {version}, got one: audits are never replaced; "
            "take another seed"
        )
    for key in there:  # left by an audit that was killed while it wrote
        store.delete(key)
    for name in _FILES:
        store.upload_file(folder / name, f"{prefix}{name}")
    with tempfile.TemporaryDirectory(prefix="rampart-audit-") as name:
        last = Path(name) / _LAST
        write_atomic(last, f"{record.model_dump_json(indent=2)}\n".encode())
        store.upload_file(last, f"{prefix}{_LAST}")
    return record


def read_audits(registry: Registry, model: str, version: str) -> tuple[AuditRecord, ...]:
    """Return the whole audits of a version, oldest first.

    Raises:
        BundleError: a record is none, or names another evidence than lies beside it.
    """
    return tuple(sorted(_read(registry, model, version), key=lambda record: record.created))


def _read(registry: Registry, model: str, version: str) -> Iterator[AuditRecord]:
    prefix = _prefix(model, version)
    for key in registry.store.list(prefix):
        audit, _, name = key.removeprefix(prefix).partition("/")
        if name != _LAST or not _NAME.fullmatch(audit):
            continue
        try:
            document = json.loads(registry.store.get(key))
        except ValueError as error:
            raise BundleError(
                f"expected an audit in {registry.uri}/{key}, got: {error}; restore it"
            ) from error
        yield AuditRecord.parse(document, source=key)


def _prefix(model: str, version: str) -> str:
    return f"models/{check_name(model)}/audits/{check_name(version, 'version')}/"
