"""Component: compare evidence with a policy and decide."""

from typing import NamedTuple

from kfp import dsl

from components.images import component


@component
def check_release_gate(  # noqa: PLR0913  # KFP: inputs, outputs and settings in one signature
    evidence: dsl.Input[dsl.Artifact],
    baseline: dsl.Input[dsl.Artifact],
    name: str,
    policy: str,
    registry: str,
    model_name: str,
    channel: str,
    decision: dsl.Output[dsl.Artifact],
) -> NamedTuple("Outputs", [("promote", bool), ("failed", str)]):  # type: ignore[valid-type]  # KFP's form
    """Decide by the policy's rules; what is missing fails.

    Args:
        evidence: the candidate's evidence.
        baseline: the evidence that improvements are measured from.
        name: what the candidate is called.
        policy: a name in `dfcore/release/policies`, or a YAML file.
        registry: address of the object store.
        model_name: the model's name in the registry.
        channel: what it serves now must not be better by more than the policy allows.
        decision: decision.json.

    Returns:
        promote: whether every rule passed. failed: the names of the rules that did not, separated by commas.
    """
    from pathlib import Path

    from components.progress import say
    from components.release import Address, current_bundle
    from components.writing import write_text
    from dfcore.release import check_gate, load_policy

    current = current_bundle(Address(registry, model_name, channel))
    result = check_gate(
        Path(evidence.path), load_policy(policy), baseline=Path(baseline.path), current=current
    )
    write_text(Path(decision.path) / "decision.json", result.model_dump_json(indent=2))
    failed = [rule.name for rule in result.rules if not rule.passed]
    verdict = "promoted" if result.promoted else f"stopped by {len(failed)} of {len(result.rules)} rules"
    say(f"gate {name}", verdict)
    return (result.promoted, ",".join(failed))
