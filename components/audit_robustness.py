"""Component: attack what a channel serves, with fresh seeds, and hold the result against its own evidence."""

from typing import NamedTuple

from kfp import dsl

from components.images import component


@component
def audit_robustness(  # noqa: PLR0913  # KFP: inputs, outputs and settings in one signature
    store: dsl.Input[dsl.Dataset],
    registry: str,
    name: str,
    channel: str,
    evidence: dsl.Output[dsl.Artifact],
    policy: str = "audit",
    suite: str = "full",
    frames_per_video: int = 4,
    seed: str = "",  # KFP's local runner can't hand on a pipeline's None
) -> NamedTuple("Outputs", [("regressed", bool), ("failed", str), ("version", str), ("audit", str)]):  # type: ignore[valid-type]  # KFP's form
    """Evaluate the served detector on a corpus and write the audit beside its version.

    Args:
        store: the crop store; its test split is attacked, and learned attacks are fitted on its train split.
        registry: address of the object store.
        name: the model's name in the registry.
        channel: whose detector is attacked.
        evidence: evidence.json, samples.parquet, decision.json.
        policy: what must still hold; it may ask for no other corpus and no baseline.
        suite: which scenarios.
        frames_per_video: at most this many crops of each video.
        seed: a number for the attacks' random starts; "" takes today's date, so that no two days are alike.

    Returns:
        regressed: whether a rule does not hold any more. failed: the names of these rules, separated by
        commas. version: what was attacked. audit: the name of the record.
    """
    from pathlib import Path

    from components.auditing import audit
    from components.progress import say
    from components.release import Address

    record = audit(
        Address(registry, name, channel), Path(store.path), Path(evidence.path), policy=policy, suite=suite,
        frames_per_video=frames_per_video, seed=int(seed) if seed else None,
    )  # fmt: skip
    verdict = f"{len(record.failed)} rules do not hold any more" if record.regressed else "every rule holds"
    say("audit", f"done: {name} {record.version}, {record.audit}: {verdict}")
    return (record.regressed, ",".join(record.failed), record.version, record.audit)
