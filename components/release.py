"""From evidence to a report, and from a detector that passed the gate to a signed version that is served."""

import getpass
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = ["Address", "Candidate", "current_bundle", "publish", "signing_key", "write_release_report"]


class Address(NamedTuple):
    """Where a version goes: the registry's object store, the model's name, the channel."""

    registry: str
    name: str
    channel: str


class Candidate(NamedTuple):
    """The folders of one detector: weights, evidence, and the gate's decision if there is one."""

    model: Path
    evidence: Path
    decision: Path | None = None


def write_release_report(
    path: Path, candidates: Mapping[str, Candidate], corpora: "Mapping[str, Crops]"
) -> Path:
    """Write the HTML report with attacked faces of the first corpus, ROC curves and the gate's advice.

    Args:
        path: the HTML file.
        candidates: by name, the baseline first.
        corpora: test crops by corpus name.

    Returns:
        The file.
    """
    from dfcore.evaluation import Evidence, collect_looks, collect_pictures, write_report
    from dfcore.models import load_detector
    from dfcore.release import Decision, advise

    detectors = {name: load_detector(one.model) for name, one in candidates.items()}
    corpus, crops = next(iter(corpora.items()))
    pictures = collect_pictures(detectors, crops, corpus=corpus)
    evidences = {name: Evidence.read(one.evidence) for name, one in candidates.items()}
    decisions = {
        name: Decision.model_validate_json((one.decision / "decision.json").read_text(encoding="utf-8"))
        for name, one in candidates.items() if one.decision is not None
    }  # fmt: skip
    return write_report(
        path, evidences, decisions, pictures,
        advice={name: advise(decision) for name, decision in decisions.items()},
        # a bundle may be without its samples
        scores={
            name: one.evidence for name, one in candidates.items()
            if (one.evidence / "samples.parquet").is_file()
        },
        looks=[collect_looks(detectors, crops, corpus=corpus)],
    )  # fmt: skip


def current_bundle(address: Address) -> Path | None:
    """Return the verified bundle that a channel serves now, or None where nothing is served."""
    from dfcore.release import Registry

    registry = Registry(address.registry)
    if address.channel not in registry.channels(address.name):
        return None
    return registry.verify(address.name, address.channel)


def publish(
    candidate: Candidate, store: Path, report: Path, bundle: Path, address: Address
) -> tuple[str, bool]:
    """Build a bundle, sign it, publish it, move the channel; unless the channel serves the same already.

    Args:
        candidate: the detector's folders.
        store: the crop store that it was trained on; the validation split gives the drift reference.
        report: the HTML report.
        bundle: where the signed bundle is written.
        address: where it goes.

    Returns:
        The version, and whether it was there already.

    Raises:
        CheckFailed: the decision is not a promotion.
    """
    from dfcore.errors import CheckFailed
    from dfcore.release import Registry, build_bundle, ensure_key, sign_bundle

    assert candidate.decision is not None
    decision = candidate.decision / "decision.json"
    if not json.loads(decision.read_text(encoding="utf-8"))["promoted"]:
        raise CheckFailed(f"expected a promotion in {decision}, got a rejection; nothing was published")
    registry = Registry(address.registry)
    served = current_bundle(address)
    if served is not None and _same_content(served, candidate):
        shutil.copytree(served, bundle, dirs_exist_ok=True)
        return registry.resolve(address.name, address.channel), True
    build_bundle(
        bundle, candidate.model, candidate.evidence, decision, report, _reference(candidate.model, store)
    )
    private = signing_key(address.registry)
    public = ensure_key(private)
    sign_bundle(bundle, private)
    who, why = getpass.getuser(), "the release gate passed"
    version = registry.publish(address.name, bundle, public_key=public, who=who, why=why)
    registry.promote(address.name, version, address.channel, who=who, why=why)
    return version, False


def signing_key(registry: str) -> Path:
    """Return the private key's path: `RAMPART_SIGNING_KEY`, or `rampart.key` beside a registry of files."""
    given = os.environ.get("RAMPART_SIGNING_KEY")
    if given:
        return Path(given)
    if registry.startswith("file://"):
        return Path(registry.removeprefix("file://")).with_name("rampart.key")
    return Path.home() / ".config" / "rampart" / "rampart.key"


def _reference(model: Path, store: Path) -> dict[str, Any]:
    from dfcore.data import CropStore
    from dfcore.models import load_detector
    from dfcore.monitoring import build_reference

    return build_reference(load_detector(model), CropStore.open(store).select(split="val"))


def _same_content(served: Path, candidate: Candidate) -> bool:
    from dfcore.provenance import sha256_file

    pairs = (
        (served / "weights.safetensors", candidate.model / "weights.safetensors"),
        (served / "detector.json", candidate.model / "detector.json"),
        (served / "evidence.json", candidate.evidence / "evidence.json"),
    )
    return all(sha256_file(theirs) == sha256_file(ours) for theirs, ours in pairs)
