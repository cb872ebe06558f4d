"""Component: bundle, sign and publish a detector that the gate let through."""

from typing import NamedTuple

from kfp import dsl

from components.images import component


@component
def publish_bundle(  # noqa: PLR0913  # KFP: inputs, outputs and settings in one signature
    model: dsl.Input[dsl.Model],
    store: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    registry: str,
    name: str,
    channel: str,
    bundle: dsl.Output[dsl.Model],
) -> NamedTuple("Outputs", [("uri", str), ("version", str)]):  # type: ignore[valid-type]  # KFP's form
    """Publish a version and point the channel at it.

    Args:
        model: the detector's folder.
        store: the crop store; its validation split gives the drift reference.
        evidence: the detector's evidence.
        decision: the gate's decision.
        report: the HTML report.
        registry: address of the object store, `file://…` or `s3://…`.
        name: the model's name in the registry.
        channel: the channel to move.
        bundle: the signed bundle.

    Returns:
        uri: `registry://NAME@CHANNEL`. version: the published version.
    """
    from pathlib import Path

    from components.progress import say
    from components.release import Address, Candidate, publish

    say("publish", f"bundle {name} into {registry}")
    candidate = Candidate(Path(model.path), Path(evidence.path), Path(decision.path))
    version, reused = publish(
        candidate, Path(store.path), Path(report.path), Path(bundle.path), Address(registry, name, channel)
    )
    text = f"{name} {version} on {channel}"
    say("publish", f"reused: {text} is the same already" if reused else f"done: {text}")
    return (f"registry://{name}@{channel}", version)
