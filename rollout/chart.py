"""One values file: what the chart's own keys say of its server's pods holds for a rollout's pods too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfcore.errors import ConfigError
from rollout.settings import merged

__all__ = ["rollout_values"]

_REPOSITORY = "ghcr.io/rampart/rampart-serve"  # the chart's default
_TOP = (
    "commonLabels", "fullnameOverride", "imagePullSecrets", "nameOverride", "podSecurity", "store", "trust",
)  # fmt: skip
_SERVING = (
    "affinity", "cacheSize", "drainSeconds", "extraEnv", "gpus", "graceSeconds", "nodeSelector",
    "podAnnotations", "priorityClassName", "replicas", "resources", "tokensSecret", "tolerations",
    "topologySpreadConstraints",
)  # fmt: skip


def rollout_values(document: Any) -> Any:
    """Return the keys of `RolloutSettings` in a values file.

    Args:
        document: they stand alone, below `rollout:`, or below `pipelines.rollout` of a chart's values. There
            the rollout's service begins with what the chart's own keys say, and changes single ones.

    Raises:
        ConfigError: a chart's values that don't name its release.
    """
    if not isinstance(document, Mapping):
        return document
    pipelines = document.get("pipelines")
    if isinstance(pipelines, Mapping) and isinstance(pipelines.get("rollout"), Mapping):
        return _in_chart(document, pipelines["rollout"])
    rollout = document.get("rollout")
    return rollout if isinstance(rollout, Mapping) else document


def _in_chart(values: Mapping[str, Any], rollout: Mapping[str, Any]) -> dict[str, Any]:
    service = {key: values[key] for key in _TOP if key in values}
    if "store" in service:
        service["store"] = {key: value for key, value in service["store"].items() if key != "uri"}
    serving = values.get("serving") or {}
    service |= {key: serving[key] for key in _SERVING if key in serving}
    image = values.get("image") or {}
    if image.get("digest") or image.get("tag"):
        mark = f"@{image['digest']}" if image.get("digest") else f":{image['tag']}"
        service["image"] = image.get("repository", _REPOSITORY) + mark
    if "pullPolicy" in image:
        service["imagePullPolicy"] = image["pullPolicy"]
    own = rollout.get("service") or {}
    if "release" not in own:
        raise ConfigError(
            "expected pipelines.rollout.service.release, the chart's name in `helm install NAME`, got none; "
            'pods take its ServiceAccount and server settings ("": there is no such release)'
        )
    mode = (values.get("kserve") or {}).get("deploymentMode")
    return {**({"mode": mode.lower()} if mode else {}), **rollout, "service": merged(service, own)}
