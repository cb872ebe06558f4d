"""From a compiled pipeline and the platform's values to one whose steps have a place on a cluster.

The wiring stays the same for a laptop and for a cluster: what is set here are the fields of KFP's own
documents, the pipeline spec and kfp-kubernetes' platform spec, both checked by their message types.
"""

import re
from collections.abc import Iterator
from typing import Any

from dfcore.errors import ConfigError
from pipelines.platform import STEPS, Platform, StepSettings

__all__ = ["place"]

_KEY_FOLDER = "/var/run/rampart"
_SIGNS = "publish_bundle"  # the one step that sees the private key


def place(pipeline: dict[str, Any], platform: Platform) -> dict[str, Any]:
    """Set images, resources, retries and parameters of a pipeline spec, and return its platform spec.

    Args:
        pipeline: the pipeline spec; changed in place.
        platform: the values.

    Returns:
        The platform spec: what only Kubernetes knows.

    Raises:
        ConfigError: the pipeline signs, and no Secret holds a key.
    """
    _set_parameters(pipeline, platform)
    executors = pipeline["deploymentSpec"]["executors"]
    if not platform.signing.secret and any(_step_of(label) == _SIGNS for label in executors):
        raise ConfigError(
            "expected signing.secret in the values, got none: each run would sign with a key of its own, and "
            "the registry refuses the second; make a Secret with the private key and name it there: "
            f"kubectl create secret generic rampart-signing --from-file={platform.signing.key}"
        )
    kubernetes = {}
    for label, executor in executors.items():
        name = _step_of(label)
        settings = platform.step(name)
        container = executor["container"]
        container["image"] = platform.image
        container["resources"] = _resources(settings)
        variables = {item["name"]: item["value"] for item in container.get("env", ())}
        variables |= platform.storage.environment | _environment(name, settings, platform)
        container["env"] = [{"name": key, "value": value} for key, value in sorted(variables.items())]
        kubernetes[label] = _pod(name, settings, platform)
    for task, name in _tasks(pipeline):
        settings = platform.step(name)
        task.setdefault("cachingOptions", {})["enableCache"] = False  # KFP's ignores what artifacts contain
        if settings.retries:
            task["retryPolicy"] = {
                "maxRetryCount": settings.retries, "backoffDuration": _seconds(settings.backoff),
                "backoffFactor": settings.backoff_factor,
                "backoffMaxDuration": _seconds(settings.backoff_maximum),
            }  # fmt: skip
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": kubernetes}}}}


def _set_parameters(pipeline: dict[str, Any], platform: Platform) -> None:
    known = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    values = dict(platform.parameters)
    if platform.rollout is not None and "rollout" in known:
        values["rollout"] = platform.rollout.model_dump(mode="json", by_alias=True)
    for name in values.keys() & known.keys():  # what is another pipeline's is in the same file
        known[name]["defaultValue"] = values[name]
        known[name]["isOptional"] = True


def _step_of(label: str) -> str:
    """Return the component of an executor; KFP numbers further uses of one: exec-deploy-2."""
    name = label.removeprefix("exec-").removeprefix("comp-")
    found = re.sub(r"-\d+$", "", name).replace("-", "_")
    assert found in STEPS, f"{found} is no step: add it to pipelines.platform.STEPS"
    return found


def _tasks(pipeline: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the tasks that run a container, wherever they are nested, and their component."""
    components = pipeline["components"]
    for dag in [pipeline["root"], *components.values()]:
        for task in dag.get("dag", {}).get("tasks", {}).values():
            reference = task["componentRef"]["name"]
            if "executorLabel" in components[reference]:
                yield task, _step_of(components[reference]["executorLabel"])


def _resources(settings: StepSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, prefix in ((settings.requests, "Request"), (settings.limits, "Limit")):
        for name, value in kind.items():
            found[f"resource{name.capitalize()}{prefix}"] = value
    if settings.gpus:
        gpu, count = settings.gpu_resource, str(settings.gpus)
        # servers before 2.5 read the second pair
        found["accelerator"] = {
            "resourceType": gpu, "resourceCount": count, "type": gpu, "count": count,
        }  # fmt: skip
    return found


def _environment(name: str, settings: StepSettings, platform: Platform) -> dict[str, str]:
    found = {"HOME": "/tmp", "RAMPART_CACHE": "/tmp/rampart"}  # noqa: S108  # a container of its own
    found["RAMPART_PROCESSES"] = str(max(settings.gpus, 1))
    if name == _SIGNS:
        found["RAMPART_SIGNING_KEY"] = f"{_KEY_FOLDER}/{platform.signing.key}"
    return found


def _pod(name: str, settings: StepSettings, platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = {
        "securityContext": {
            "runAsUser": str(platform.user), "runAsGroup": str(platform.group), "runAsNonRoot": True,
        },
        "imagePullPolicy": platform.image_pull_policy,
        "activeDeadlineSeconds": str(settings.timeout_seconds),
        "podMetadata": {
            "labels": {"app.kubernetes.io/part-of": "rampart", "rampart.io/step": name.replace("_", "-")},
        },
    }  # fmt: skip
    if platform.image_pull_secrets:
        found["imagePullSecret"] = [{"secretName": secret} for secret in platform.image_pull_secrets]
    if platform.storage.secret:
        pairs = [
            {"secretKey": key, "envVar": variable} for variable, key in sorted(platform.storage.keys.items())
        ]
        found["secretAsEnv"] = [_secret(platform.storage.secret, keyToEnv=pairs)]
    if name == _SIGNS:
        found["secretAsVolume"] = [_secret(platform.signing.secret, mountPath=_KEY_FOLDER)]
    if platform.volumes:
        found["pvcMount"] = [
            {
                "pvcNameParameter": {"runtimeValue": {"constant": claim}},
                "constant": claim,
                "mountPath": folder,
            }
            for claim, folder in sorted(platform.volumes.items())
        ]
    if settings.node_selector:
        found["nodeSelector"] = {"labels": dict(settings.node_selector)}
    if settings.affinity:
        found["nodeAffinity"] = [
            item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in settings.affinity
        ]
    if settings.tolerations:
        found["tolerations"] = [item.manifest() for item in settings.tolerations]
    if settings.shared_memory:
        found["emptyDirMounts"] = [
            {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory",  # noqa: S108
             "sizeLimit": settings.shared_memory}
        ]  # fmt: skip
    return found


def _secret(name: str, **more: Any) -> dict[str, Any]:
    parameter = {"runtimeValue": {"constant": name}}
    return {"secretName": name, "secretNameParameter": parameter, "optional": False, **more}


def _seconds(duration: str) -> str:
    """Write a duration as KFP's documents do: "10m" is "600s"."""
    factor = {"s": 1, "m": 60, "h": 3600}[duration[-1]]
    return f"{int(duration[:-1]) * factor}s"
