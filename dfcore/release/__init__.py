"""From evidence to a release: gate, bundle, signature, registry."""

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
