"""Component: give a published detector the traffic, step by step, or write what would be applied."""

from kfp import dsl

from components.images import component


@component
def deploy(
    version: str,
    registry: str,
    name: str,
    channel: str,
    image: str,
    manifest: dsl.Output[dsl.Artifact],
    rollout: dict = {},  # type: ignore[type-arg]  # noqa: B006  # KFP reads the default, nothing writes to it
) -> None:
    """Roll a version out as a canary; if it is worse than the one before, the channel goes back too.

    Args:
        version: the published version.
        registry: address of the object store.
        name: the model's name, also the service's.
        channel: what points at the version.
        image: the predictor's image, where `rollout` names none.
        manifest: the InferenceService as YAML.
        rollout: keys of `RolloutSettings`; empty applies nothing.

    Raises:
        CheckFailed: it was rolled back.
    """
    from pathlib import Path

    from components.delivery import deliver, manifest_of
    from components.progress import say
    from components.release import Address
    from components.writing import write_text

    address = Address(registry, name, channel)
    write_text(Path(manifest.path), manifest_of(address, version, image, rollout))
    if rollout:
        deliver(address, version, rollout)
    else:
        say("deploy", f"manifest for {name} {version} written, not applied")
