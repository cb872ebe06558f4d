"""Read a registry's figures: what each channel points at, how it withstood attacks, what the gate said."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from dfcore.config import Config
from dfcore.errors import BundleError, ConfigError, DataError
from dfcore.storage import Entry, ObjectStore

__all__ = ["FAMILIES", "KpiReader", "Limits", "Sample"]

_SERVED = ("model", "version", "channel")
_FIGURE = (*_SERVED, "scenario", "corpus", "epsilon")
_SUCCESS = "rampart_pipeline_last_success_timestamp_seconds"
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rampart_channel_info": ("The version that a channel points at; 1.", _SERVED),
    "rampart_channel_timestamp_seconds": ("When the channel was moved, and how.", (*_SERVED, "action")),
    "rampart_channel_readable": ("Whether the version's evidence and decision hold.", ("model", "channel")),
    "rampart_registry_versions": ("Published versions.", ("model",)),
    "rampart_registry_event_timestamp_seconds": ("The last event of a kind.", ("model", "channel", "action")),
    "rampart_registry_left_out": ("What was too much for the exporter's limits.", ("kind",)),
    "rampart_robustness_auc": ("Area under the ROC curve, from the newest evidence.", _FIGURE),
    "rampart_robustness_interval": ("Its 95 % bootstrap interval.", (*_FIGURE, "bound")),
    "rampart_robustness_released_auc": ("The same when the version was released.", _FIGURE),
    "rampart_evidence_timestamp_seconds": ("When the evidence was made.", (*_SERVED, "source")),
    "rampart_evidence_valid": ("Whether its guards passed.", (*_SERVED, "source")),
    "rampart_gate_decision": ("1: the gate lets the version through; 0: it does not.",
                              (*_SERVED, "policy", "source")),
    "rampart_gate_rules": ("Rules of that decision.", (*_SERVED, "source", "outcome")),
    _SUCCESS: ("The last published version, or audit.",
               ("model", "pipeline")),
}  # fmt: skip
"""Metric families: help text and label names."""

_CHANNEL = re.compile(r"models/([^/]+)/channels/([^/]+)\.json")
_VERSION = re.compile(r"models/([^/]+)/versions/[^/]+/manifest\.json")
_EVENT = re.compile(r"models/([^/]+)/audit/\d+\.json")
_AUDIT = re.compile(r"models/([^/]+)/audits/([^/]+)/([^/]+)/audit\.json")
_EVENTS_READ = 50  # the newest of each model
_AUDITS_READ = 5  # the newest of each version
_OVERALL = "all"


class Limits(Config):
    """What one reading takes in; beyond it `rampart_registry_left_out` counts.

    Attributes:
        channels: of all models together.
        figures: of one version.
        document_bytes: of one JSON document.
    """

    channels: int = Field(default=64, ge=1)
    figures: int = Field(default=1000, ge=1)
    document_bytes: int = Field(default=32 * 2**20, ge=1)


class Sample(NamedTuple):
    """One value."""

    family: str
    labels: tuple[str, ...]
    value: float


class _View(BaseModel):
    # what a later version of these documents adds does not disturb
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Entry(_View):
    action: str
    time: datetime


class _Pointer(_View):
    version: str
    manifest_sha256: str
    entry: _Entry | None = None


class _Interval(_View):
    value: float | None
    low: float | None = None
    high: float | None = None


class _Figure(_View):
    scenario: str
    corpus: str
    slice: str | None = None
    role: str = "report"
    threat_model: dict[str, Any] | None = None
    metrics: dict[str, _Interval]


class _Evidence(_View):
    created: datetime
    valid: bool
    results: tuple[_Figure, ...]


class _Rule(_View):
    passed: bool
    applied: bool = True


class _Decision(_View):
    promoted: bool
    policy: str
    rules: tuple[_Rule, ...] = ()


class _Event(_View):
    action: str
    time: datetime
    channel: str | None = None


class _Audit(_View):
    """The record that an audit writes last: without it there is no audit yet."""

    created: datetime
    files: dict[str, str]


class _Proof(NamedTuple):
    """One evaluation and what the gate said about it."""

    evidence: _Evidence
    decision: _Decision


class KpiReader:
    """Reads a registry; what can't have changed since the last time is not read again.

    Args:
        store: of the registry.
        limits: of what one reading takes in.
    """

    def __init__(self, store: ObjectStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._released: dict[str, tuple[str, _Pointer, _Proof]] = {}  # by pointer key, with its tag
        self._written_once: dict[str, Any] = {}  # audits and events, by key
        self._sizes: dict[str, int] = {}
        self._used: set[str] = set()
        self._left_out: dict[str, int] = {}

    def read(self) -> tuple[Sample, ...]:
        """Return every value.

        Raises:
            WorkFailed: the store does not answer.
            ConfigError: it does not know us.
        """
        entries = self._store.entries("models/")
        self._sizes = {entry.key: entry.size for entry in entries}
        self._used = set()
        self._left_out = {"channels": 0, "figures": 0, "unreadable": 0}
        samples = [*self._counts(entries), *self._events(entries)]
        channels = [found for entry in entries if (found := _CHANNEL.fullmatch(entry.key))]
        self._left_out["channels"] = max(0, len(channels) - self._limits.channels)
        for found in channels[: self._limits.channels]:
            samples += self._channel(found[1], found[2], found[0])
        samples += [
            Sample("rampart_registry_left_out", (kind,), count) for kind, count in self._left_out.items()
        ]
        self._forget()
        return tuple(samples)

    def _forget(self) -> None:
        for cache in (self._released, self._written_once):
            for key in cache.keys() - self._used:
                del cache[key]

    def _counts(self, entries: Sequence[Entry]) -> Iterator[Sample]:
        counts: dict[str, int] = {}
        for entry in entries:
            if found := _VERSION.fullmatch(entry.key):
                counts[found[1]] = counts.get(found[1], 0) + 1
        for model, count in counts.items():
            yield Sample("rampart_registry_versions", (model,), count)

    def _events(self, entries: Sequence[Entry]) -> Iterator[Sample]:
        """Yield the time of the last event of each kind, and of the last publication and audit."""
        keys: dict[str, list[str]] = {}
        for entry in entries:
            if found := _EVENT.fullmatch(entry.key):
                keys.setdefault(found[1], []).append(entry.key)
        for model, all_keys in keys.items():
            last: dict[tuple[str, str], float] = {}
            for key in sorted(all_keys)[-_EVENTS_READ:]:
                event = self._readable(key, _Event)
                if event is None:
                    continue
                place = (event.channel or "", event.action)
                last[place] = max(last.get(place, 0.0), _seconds(event.time))
            for (channel, action), moment in last.items():
                yield Sample("rampart_registry_event_timestamp_seconds", (model, channel, action), moment)
            if published := last.get(("", "publish")):
                yield Sample(_SUCCESS, (model, "train_and_release"), published)
        for model, moment in self._last_audits().items():
            yield Sample(_SUCCESS, (model, "audit_robustness"), moment)

    def _last_audits(self) -> dict[str, float]:
        last: dict[str, float] = {}
        for model, _, key in self._audits():
            record = self._readable(key, _Audit)
            if record is not None:
                last[model] = max(last.get(model, 0.0), _seconds(record.created))
        return last

    def _audits(self) -> Iterator[tuple[str, str, str]]:
        """Yield model, version and key of each version's newest audits; a name begins with the day."""
        keys: dict[tuple[str, str], list[str]] = {}
        for key in self._sizes:
            if found := _AUDIT.fullmatch(key):
                keys.setdefault((found[1], found[2]), []).append(key)
        for (model, version), several in keys.items():
            yield from ((model, version, key) for key in sorted(several)[-_AUDITS_READ:])

    def _channel(self, model: str, channel: str, key: str) -> Iterator[Sample]:
        try:
            pointer, released = self._release(model, key)
            audit = self._newest_audit(model, pointer.version)
        except (BundleError, ConfigError, DataError):  # altered, no such document, or gone since the listing
            yield Sample("rampart_channel_readable", (model, channel), 0)
            return
        served = (model, pointer.version, channel)
        yield Sample("rampart_channel_readable", (model, channel), 1)
        yield Sample("rampart_channel_info", served, 1)
        if pointer.entry is not None:
            labels = (*served, pointer.entry.action)
            yield Sample("rampart_channel_timestamp_seconds", labels, _seconds(pointer.entry.time))
        yield from _proof(served, "release", released)
        if audit is not None:
            yield from _proof(served, "audit", audit)
        yield from self._robustness(served, released.evidence, audit.evidence if audit else None)

    def _robustness(
        self, served: tuple[str, ...], released: _Evidence, audit: _Evidence | None
    ) -> Iterator[Sample]:
        before = _figures(released)
        now = {**before, **_figures(audit)} if audit else before
        self._left_out["figures"] += max(0, len(now) - self._limits.figures)
        for place, found in list(now.items())[: self._limits.figures]:
            labels = (*served, *place)
            yield Sample("rampart_robustness_auc", labels, found["value"])
            if place in before:
                yield Sample("rampart_robustness_released_auc", labels, before[place]["value"])
            for bound in ("low", "high"):
                if bound in found:
                    yield Sample("rampart_robustness_interval", (*labels, bound), found[bound])

    def _release(self, model: str, key: str) -> tuple[_Pointer, _Proof]:
        """Return a channel's pointer and the proof that its version was released with."""
        stored = self._store.read(key)
        known = self._released.get(key)
        if known is None or known[0] != stored.etag:
            pointer = _parse(_Pointer, key, stored.data)
            prefix = f"models/{model}/versions/{pointer.version}/"
            manifest = self._document(f"{prefix}manifest.json", pointer.manifest_sha256)
            try:
                digests = {name: one["sha256"] for name, one in json.loads(manifest)["files"].items()}
                wanted = {name: digests[f"{name}.json"] for name in ("evidence", "decision")}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BundleError(f"{prefix}manifest.json names no evidence and decision: {error}") from error
            texts = {name: self._document(f"{prefix}{name}.json", sha) for name, sha in wanted.items()}
            proof = _Proof(
                _parse(_Evidence, prefix, texts["evidence"]), _parse(_Decision, prefix, texts["decision"])
            )
            known = self._released[key] = (stored.etag, pointer, proof)
        self._used.add(key)
        return known[1], known[2]

    def _newest_audit(self, model: str, version: str) -> _Proof | None:
        keys = [key for name, audited, key in self._audits() if (name, audited) == (model, version)]
        records = {key: self._once(key, _Audit) for key in keys}
        if not records:
            return None
        newest = max(records, key=lambda key: _seconds(records[key].created))
        folder, digests = newest.removesuffix("audit.json"), records[newest].files
        return _Proof(*(
            self._once(f"{folder}{name}.json", view, digests.get(f"{name}.json", "none"))
            for name, view in (("evidence", _Evidence), ("decision", _Decision))
        ))  # fmt: skip

    def _readable(self, key: str, view: type[Any]) -> Any:
        """Return a document that is never written again, or None: a broken one must not hide the rest."""
        try:
            return self._once(key, view)
        except (BundleError, DataError):
            self._left_out["unreadable"] += 1
            return None

    def _once(self, key: str, view: type[Any], sha256: str | None = None) -> Any:
        """Return a document that is never written again."""
        self._used.add(key)
        if key not in self._written_once:
            self._written_once[key] = _parse(view, key, self._document(key, sha256))
        return self._written_once[key]

    def _document(self, key: str, sha256: str | None = None) -> bytes:
        if self._sizes.get(key, 0) > self._limits.document_bytes:
            raise DataError(f"expected at most {self._limits.document_bytes} bytes in {key}, got more")
        data = self._store.get(key)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise BundleError(f"expected {key} as it was promoted, got an altered one; roll back")
        return data


def _parse(view: type[Any], source: str, data: bytes) -> Any:
    try:
        return view.model_validate_json(data)
    except ValueError as error:
        raise BundleError(f"expected {view.__name__.strip('_').lower()} in {source}, got: {error}") from error


def _proof(served: tuple[str, ...], source: str, proof: _Proof) -> Iterator[Sample]:
    created, valid = _seconds(proof.evidence.created), float(proof.evidence.valid)
    yield Sample("rampart_evidence_timestamp_seconds", (*served, source), created)
    yield Sample("rampart_evidence_valid", (*served, source), valid)
    labels = (*served, proof.decision.policy, source)
    yield Sample("rampart_gate_decision", labels, float(proof.decision.promoted))
    outcomes = [_outcome(rule) for rule in proof.decision.rules]
    for outcome in ("passed", "failed", "not_applied"):
        yield Sample("rampart_gate_rules", (*served, source, outcome), outcomes.count(outcome))


def _outcome(rule: _Rule) -> str:
    if not rule.passed:
        return "failed"
    return "passed" if rule.applied else "not_applied"


def _figures(evidence: _Evidence) -> dict[tuple[str, ...], dict[str, float]]:
    """Return AUC and interval of the overall results, by scenario, corpus and epsilon."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for result in evidence.results:
        auc = result.metrics.get("auc")
        if result.role != "report" or result.slice not in {None, _OVERALL} or auc is None:
            continue
        numbers = {
            name: number for name, number in auc.model_dump().items()
            if number is not None and math.isfinite(number)
        }  # fmt: skip
        if "value" in numbers:
            epsilon = (result.threat_model or {}).get("epsilon")
            found[result.scenario, result.corpus, "none" if epsilon is None else str(epsilon)] = numbers
    return found


def _seconds(moment: datetime) -> float:
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
