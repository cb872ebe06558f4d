"""Attack the served detector again and compare: the body of the audit."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from components.release import Address

if TYPE_CHECKING:
    from dfcore.release import AuditRecord, GatePolicy, Registry

__all__ = ["audit"]


def audit(
    address: Address,
    store: Path,
    out: Path,
    *,
    policy: str,
    suite: str,
    frames_per_video: int,
    seed: int | None,
) -> "AuditRecord":
    """Evaluate what a channel serves, decide by a policy, and write both beside the version.

    Args:
        address: registry, model and channel.
        store: the crop store to attack on.
        out: gets evidence.json, samples.parquet and decision.json.
        policy: the gate's policy; one that a single corpus can meet.
        suite: which scenarios.
        frames_per_video: at most this many crops of each video.
        seed: of the attacks; None takes today's date.

    Raises:
        ConfigError: no audit could ever hold the policy.
        DataError: nothing is served, or the store has no test split.
        ConflictError: there is an audit of this date and seed.
    """
    from components.progress import counter, say
    from dfcore.data import CropStore
    from dfcore.evaluation import check_unseen, evaluate, get_suite, read_corpus
    from dfcore.models import load_detector
    from dfcore.release import Registry, check_gate, load_policy, write_audit

    rules, scenarios = load_policy(policy), get_suite(suite)
    registry = Registry(address.registry)
    version = registry.resolve(address.name, address.channel)
    bundle = registry.verify(address.name, version)
    os.environ["RAMPART_REGISTRY"] = address.registry
    detector = load_detector(f"registry://{address.name}@{version}")
    crops = CropStore.open(store)
    corpus = str(crops.index["dataset"][0].as_py())
    _check_policy(rules, corpus)
    corpora = {corpus: read_corpus(crops, max_frames_per_video=frames_per_video)}
    check_unseen(detector, corpora)
    chosen = int(f"{datetime.now(UTC):%Y%m%d}") if seed is None else seed
    moved = any(scenario.needs_surrogates for scenario in scenarios)
    surrogates = _other_version(registry, address.name, version) if moved else []
    if moved and not surrogates:
        say("audit", "there is no other version: attacks that are transferred from one are left out")
        scenarios = get_suite(suite, [one.name for one in scenarios if not one.needs_surrogates])
    learned = any(scenario.needs_training for scenario in scenarios)
    say("audit", f"{address.name} {version}, suite {suite}, seed {chosen}")
    evaluate(
        detector, corpora, suite=suite if scenarios == get_suite(suite) else scenarios,
        name=f"{address.name}-{version}", out=out, seed=chosen,
        training=crops.select(split="train", max_frames_per_video=1) if learned else None,
        surrogates=[load_detector(uri) for uri in surrogates],
        cache=out / "cache", progress=counter("audit", "attack steps"), device="auto",
    )  # fmt: skip
    check_gate(out, rules, current=bundle).save(out / "decision.json")
    target = (address.name, version, address.channel)
    return write_audit(registry, target, out, seed=chosen, suite=suite)


def _check_policy(policy: "GatePolicy", corpus: str) -> None:
    """Refuse a policy of a release before hours of attacks: it would say no whatever they find."""
    from dfcore.errors import ConfigError
    from dfcore.release.policy import EACH

    named = [
        *policy.required_corpora, *(rule.corpus for rule in policy.floors),
        *(rule.corpus for rule in policy.worst_slice), *(rule.corpus for rule in policy.regressions),
    ]  # fmt: skip
    asked = [name for name in dict.fromkeys(named) if name not in {corpus, EACH}]
    if policy.require_baseline:
        asked.append("a baseline")
    if asked:
        raise ConfigError(
            f"expected a policy that {corpus} alone can meet, got {policy.name!r}, which also asks for "
            f"{', '.join(asked)}; set policy=audit, or a YAML file of its own"
        )


def _other_version(registry: "Registry", name: str, version: str) -> list[str]:
    """Return the address of the newest other version: an attacker would start from what was served before."""
    others = [item.version for item in registry.list(name)[name] if item.version != version]
    return [f"registry://{name}@{others[-1]}"] if others else []
