"""What the placed pipelines ask of a cluster, as KFP's backend turns it into pods: admitted and scheduled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.compile import PIPELINES, build
from pipelines.platform import load_platform
from tests.charts.tools import CHART
from tests.cluster.control_plane import ControlPlane

# a team's own file, and the chart's, which mounts a volume
VALUES = Path(__file__).parent.parent / "pipelines" / "values.yaml"
CHART_VALUES = CHART / "ci" / "rollout-values.yaml"
# what the backend adds to every container of a user
_ADDED = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


def _pod(name: str, container: dict[str, Any], pod: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Build the pod of an executor the way KFP 2.17's driver does."""
    given = container["resources"]
    resources: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for unit in ("Cpu", "Memory"):
        resources["requests"][unit.lower()] = given[f"resource{unit}Request"]
        resources["limits"][unit.lower()] = given[f"resource{unit}Limit"]
    if "accelerator" in given:
        resources["limits"][given["accelerator"]["resourceType"]] = given["accelerator"]["resourceCount"]
    environment = list(container["env"]) + [
        {
            "name": pair["envVar"],
            "valueFrom": {"secretKeyRef": {"name": secret["secretName"], "key": pair["secretKey"]}},
        }
        for secret in pod.get("secretAsEnv", ())
        for pair in secret["keyToEnv"]
    ]
    security = {
        key: int(value) if key != "runAsNonRoot" else value for key, value in pod["securityContext"].items()
    }
    volumes, mounts = [], []
    for mount in pod.get("emptyDirMounts", ()):
        source = {"medium": mount["medium"], "sizeLimit": mount["sizeLimit"]}
        volumes.append({"name": mount["volumeName"], "emptyDir": source})
        mounts.append({"name": mount["volumeName"], "mountPath": mount["mountPath"]})
    for secret in pod.get("secretAsVolume", ()):
        volumes.append({"name": secret["secretName"], "secret": {"secretName": secret["secretName"]}})
        mounts.append({"name": secret["secretName"], "mountPath": secret["mountPath"]})
    for mount in pod.get("pvcMount", ()):
        claim = mount["pvcNameParameter"]["runtimeValue"]["constant"]
        volumes.append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": claim, "mountPath": mount["mountPath"]})
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(pod["activeDeadlineSeconds"]),
        "imagePullSecrets": [{"name": item["secretName"]} for item in pod.get("imagePullSecret", ())],
        "nodeSelector": pod.get("nodeSelector", {}).get("labels", {}),
        "tolerations": pod.get("tolerations", []),
        "volumes": volumes,
        "containers": [
            {
                "name": "main", "image": container["image"], "command": container["command"],
                "args": container["args"], "env": environment, "resources": resources,
                "volumeMounts": mounts, "imagePullPolicy": pod["imagePullPolicy"],
                "securityContext": {**_ADDED, **security},
            }
        ],
    }  # fmt: skip
    if "nodeAffinity" in pod:
        spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": term["weight"], "preference": {"matchExpressions": term["matchExpressions"]}}
            for term in pod["nodeAffinity"]
        ]}}  # fmt: skip
    metadata = {
        "name": name.removeprefix("exec-"),
        "namespace": namespace,
        "labels": pod["podMetadata"]["labels"],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("values", [VALUES, CHART_VALUES], ids=["own", "chart"])
@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_is_admitted_as_restricted(
    plane: ControlPlane, namespace: str, name: str, values: Path
) -> None:
    documents = _pods(name, values, namespace)
    plane.apply(*documents)
    assert len(plane.read("-n", namespace, "pods")) == len(documents)


@pytest.mark.timeout(300)
def test_steps_land_on_their_pools_with_their_volumes(plane: ControlPlane, namespace: str) -> None:
    steps = {pod["metadata"]["name"]: pod for pod in _pods("train_and_release", CHART_VALUES, namespace)}
    wanted = [steps["train-detector"], steps["prepare-faces"]]
    plane.apply(*_volume("datasets", namespace), *wanted)
    for pod in wanted:
        name = f"pod/{pod['metadata']['name']}"
        plane.kubectl("-n", namespace, "wait", "--for=condition=PodScheduled", name, "--timeout=60s")
    train, prepare = (plane.read("-n", namespace, "pod", pod["metadata"]["name"]) for pod in wanted)
    assert (train["spec"]["nodeName"], prepare["spec"]["nodeName"]) == ("kwok-1", "kwok-0")
    (container,) = train["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
    assert mounts["/data"] == "datasets"
    assert "/dev/shm" in mounts  # noqa: S108  # the pod's


def _pods(name: str, values: Path, namespace: str) -> list[dict[str, Any]]:
    pipeline, platform = build(name, load_platform(values))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return [
        _pod(label, executor["container"], pods[label], namespace)
        for label, executor in pipeline["deploymentSpec"]["executors"].items()
    ]


def _volume(claim: str, namespace: str) -> list[dict[str, Any]]:
    """A claim that is bound, as a team would have one with its videos."""
    size, modes = {"storage": "1Gi"}, ["ReadOnlyMany"]
    metadata = {"name": claim, "namespace": namespace}
    return [
        {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{claim}"},
            "spec": {"capacity": size, "accessModes": modes, "claimRef": metadata,
                     "hostPath": {"path": "/nowhere"}},
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": {"accessModes": modes, "resources": {"requests": size}, "storageClassName": ""},
        },
    ]  # fmt: skip
