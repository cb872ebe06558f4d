"""What the placed pipelines ask of a cluster, as KFP's backend turns it into pods: admitted and scheduled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.compile import PIPELINES, build
from pipelines.platform import load_platform
from tests.cluster.control_plane import ControlPlane

VALUES = Path(__file__).parent.parent / "pipelines" / "values.yaml"
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
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(pod["activeDeadlineSeconds"]),
        "imagePullSecrets": [{"name": item["secretName"]} for item in pod["imagePullSecret"]],
        "nodeSelector": pod["nodeSelector"]["labels"],
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
@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_is_admitted_as_restricted(plane: ControlPlane, namespace: str, name: str) -> None:
    pipeline, platform = build(name, load_platform(VALUES))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    documents = [
        _pod(label, executor["container"], pods[label], namespace)
        for label, executor in pipeline["deploymentSpec"]["executors"].items()
    ]
    plane.apply(*documents)
    found = json.loads(plane.kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    assert len(found) == len(documents)


@pytest.mark.timeout(300)
def test_training_lands_on_the_gpu_pool(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("label", "node", "kwok-1", "pool=gpu", "--overwrite")
    plane.kubectl("taint", "node", "kwok-1", "nvidia.com/gpu=present:NoSchedule", "--overwrite")
    try:
        pipeline, platform = build("train_and_release", load_platform(VALUES))
        label = "exec-train-detector"
        pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
        container = pipeline["deploymentSpec"]["executors"][label]["container"]
        plane.apply(_pod(label, container, pod, namespace))
        plane.kubectl(
            "-n", namespace, "wait", "--for=condition=PodScheduled", "pod/train-detector", "--timeout=60s"
        )
        found = json.loads(plane.kubectl("-n", namespace, "get", "pod", "train-detector", "-o", "json"))
        assert found["spec"]["nodeName"] == "kwok-1"
        assert found["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    finally:
        plane.kubectl("taint", "node", "kwok-1", "nvidia.com/gpu:NoSchedule-")
        plane.kubectl("label", "node", "kwok-1", "pool-")
