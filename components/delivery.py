"""From a published version to a rollout, and back to the registry when it fails."""

import getpass
from collections.abc import Mapping
from typing import Any

from components.release import Address

__all__ = ["deliver", "manifest_of"]


def manifest_of(address: Address, version: str, image: str, rollout: Mapping[str, Any]) -> str:
    """Return the InferenceService of a version as YAML.

    Args:
        address: registry, model and channel.
        version: the published version.
        image: used where the rollout's settings are empty.
        rollout: keys of `RolloutSettings`.
    """
    import yaml

    from rollout import Release, RolloutSettings, inference_service

    settings = RolloutSettings.parse(
        rollout or {
            "namespace": "default", "service": {"image": image},
            "analysis": {"prometheus": "http://prometheus.invalid"},
        },
        source="rollout",
    )  # fmt: skip
    document = inference_service(Release(address.registry, address.name, version), settings)
    return str(yaml.safe_dump(document, sort_keys=False))


def deliver(address: Address, version: str, rollout: Mapping[str, Any]) -> None:
    """Roll a version out; where it fails, point the channel at what is served again.

    Args:
        address: registry, model and channel.
        version: the published version.
        rollout: keys of `RolloutSettings`.

    Raises:
        CheckFailed: it was rolled back, now or in a former try; or the channel points elsewhere.
    """
    from components.progress import say
    from dfcore.errors import CheckFailed, DataError
    from dfcore.release import Registry
    from rollout import Cluster, Release, RolloutSettings, roll_out

    settings = RolloutSettings.parse(rollout, source="rollout")
    registry = Registry(address.registry)
    if (now := registry.channels(address.name).get(address.channel)) != version:
        raise CheckFailed(
            f"expected {address.channel} of {address.name} at {version}, got {now}: it was rolled back, or "
            "somebody promoted another; nothing is rolled out"
        )
    cluster = Cluster.connect(settings.namespace)
    end = roll_out(
        cluster, Release(address.registry, address.name, version), settings,
        say=lambda text: say("deploy", text),
    )  # fmt: skip
    if end.phase == "promoted":
        say("deploy", f"done: {address.name} {version} serves all of the traffic")
        return
    if registry.channels(address.name).get(address.channel) == version:
        try:
            back = registry.rollback(
                address.name, address.channel, who=getpass.getuser(), why=f"rolled back: {end.reason}"
            )
            say("deploy", f"{address.channel} points at {back} again")
        except DataError as error:
            say("deploy", f"{address.channel} still points at {version}: {error}")
    raise CheckFailed(
        f"expected {version} to be no worse than {end.previous}, got: {end.reason}; it was rolled back"
    )
