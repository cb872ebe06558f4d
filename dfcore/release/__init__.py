"""From evidence to a release: gate, bundle, signature, registry."""

from dfcore.models.bundle import fetch, verify_bundle
from dfcore.release.advice import advise
from dfcore.release.bundle import build_bundle, ensure_key, sign_bundle
from dfcore.release.gate import Decision, Rule, check_gate
from dfcore.release.policy import GatePolicy, load_policy
from dfcore.release.registry import Event, Registry, Version

__all__ = [
    "Decision",
    "Event",
    "GatePolicy",
    "Registry",
    "Rule",
    "Version",
    "advise",
    "build_bundle",
    "check_gate",
    "ensure_key",
    "fetch",
    "load_policy",
    "sign_bundle",
    "verify_bundle",
]
