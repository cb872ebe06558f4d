"""Audits beside a version: written once, named by date and seed, whole or not there."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dfcore.errors import BundleError, ConfigError, ConflictError, DataError
from dfcore.release import Registry, check_gate, load_policy, read_audits, write_audit
from tests.release.conftest import on_s3_too
from tests.release.evidence import WEAK, write_evaluation


@pytest.fixture
def audited(tmp_path: Path, parts: Path) -> Path:
    """An evaluation that is worse than the published one, with the gate's decision on it."""
    folder = write_evaluation(tmp_path / "audit", WEAK)
    check_gate(folder, load_policy("demo"), current=parts / "evaluation").save(folder / "decision.json")
    return folder


@on_s3_too
def test_an_audit_is_kept_beside_its_version(
    registry: Registry, bundle: Path, public_key: Path, audited: Path
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "production", "ann", "go")
    target = ("faces", version, "production")
    record = write_audit(registry, target, audited, seed=7, suite="full")
    assert record.audit == f"{datetime.now(UTC):%Y-%m-%d}-seed7"
    assert record.regressed
    assert "regression: auc of pgd20_2_255 on ffpp" in record.failed
    prefix = f"models/faces/audits/{version}/{record.audit}/"
    assert registry.store.get(f"{prefix}evidence.json") == (audited / "evidence.json").read_bytes()
    with pytest.raises(ConflictError, match="never replaced"):
        write_audit(registry, target, audited, seed=7, suite="full")
    second = write_audit(registry, target, audited, seed=8, suite="full")
    assert read_audits(registry, "faces", version) == (record, second)
    registry.verify("faces", version)  # the version itself is untouched
    assert registry.list("faces")["faces"][0].version == version


def test_what_a_killed_audit_left_is_no_audit(
    registry: Registry, bundle: Path, public_key: Path, audited: Path
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    name = f"{datetime.now(UTC):%Y-%m-%d}-seed7"
    registry.store.put(f"models/faces/audits/{version}/{name}/evidence.json", b"half")
    assert read_audits(registry, "faces", version) == ()
    record = write_audit(registry, ("faces", version, "production"), audited, seed=7, suite="full")
    assert read_audits(registry, "faces", version) == (record,)


def test_what_can_not_be_an_audit_is_refused(
    registry: Registry, bundle: Path, public_key: Path, audited: Path, tmp_path: Path
) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "production", "ann", "go")
    with pytest.raises(DataError, match="name the version"):
        write_audit(registry, ("faces", "production", "production"), audited, seed=1, suite="full")
    partial = Path(shutil.copytree(audited, tmp_path / "partial"))
    (partial / "samples.parquet").unlink()
    with pytest.raises(DataError, match=r"expected samples\.parquet"):
        write_audit(registry, ("faces", version, "production"), partial, seed=1, suite="full")
    key = f"models/faces/audits/{version}/2026-01-01-seed1/audit.json"
    registry.store.put(key, b"{")
    with pytest.raises(BundleError, match="restore it"):
        read_audits(registry, "faces", version)
    registry.store.put(key, b"{}")
    with pytest.raises(ConfigError, match="Field required"):
        read_audits(registry, "faces", version)
