"""From evidence to a release: gate, bundle, signature, registry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfcore.models.bundle import fetch, verify_bundle
    from dfcore.release.advice import advise
    from dfcore.release.audit import Event
    from dfcore.release.audits import AuditRecord, read_audits, write_audit
    from dfcore.release.bundle import build_bundle
    from dfcore.release.collect import Garbage
    from dfcore.release.gate import Decision, Rule, check_gate
    from dfcore.release.policy import GatePolicy, load_policy
    from dfcore.release.provision import Provisioned, provision_minio
    from dfcore.release.registry import Registry, Version
    from dfcore.release.signing import ensure_key, sign_bundle, sign_with_sigstore

__all__ = [
    "AuditRecord",
    "Decision",
    "Event",
    "Garbage",
    "GatePolicy",
    "Provisioned",
    "Registry",
    "Rule",
    "Version",
    "advise",
    "build_bundle",
    "check_gate",
    "ensure_key",
    "fetch",
    "load_policy",
    "provision_minio",
    "read_audits",
    "sign_bundle",
    "sign_with_sigstore",
    "verify_bundle",
    "write_audit",
]

_HOMES = {
    "AuditRecord": "release.audits",
    "Decision": "release.gate",
    "Event": "release.audit",
    "Garbage": "release.collect",
    "GatePolicy": "release.policy",
    "Provisioned": "release.provision",
    "Registry": "release.registry",
    "Rule": "release.gate",
    "Version": "release.registry",
    "advise": "release.advice",
    "build_bundle": "release.bundle",
    "check_gate": "release.gate",
    "ensure_key": "release.signing",
    "fetch": "models.bundle",
    "load_policy": "release.policy",
    "provision_minio": "release.provision",
    "read_audits": "release.audits",
    "sign_bundle": "release.signing",
    "sign_with_sigstore": "release.signing",
    "verify_bundle": "models.bundle",
    "write_audit": "release.audits",
}


def __getattr__(name: str) -> Any:
    # on demand: who moves a channel needs no network's libraries
    if name not in _HOMES:
        raise AttributeError(f"module 'dfcore.release' has no attribute {name!r}")
    return getattr(import_module(f"dfcore.{_HOMES[name]}"), name)
