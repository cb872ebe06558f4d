"""Training on several machines, with the real JobSet and Trainer controllers."""

from __future__ import annotations

import json

import pytest

from components.train_job import TRAIN_JOB, TrainJobSettings, _patch_field, _wait, train_job
from dfcore.errors import ConfigError
from tests.cluster.control_plane import ControlPlane


@pytest.mark.timeout(300)
def test_a_cluster_without_trainer_is_told(bare: ControlPlane) -> None:
    with pytest.raises(ConfigError, match="expected Kubeflow Trainer"):
        _patch_field(bare.connect("default"))


@pytest.mark.timeout(300)
def test_a_train_job_becomes_pods_on_gpus(trainer: ControlPlane, namespace: str) -> None:
    plane, cluster = trainer, trainer.connect(namespace)
    plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")
    patch = _patch_field(cluster)
    assert patch == "podSpecOverrides", "Trainer 2.0's name of it"
    settings = TrainJobSettings.parse({
        "namespace": namespace, "image": "registry.example/rampart-python@sha256:0", "nodes": 2, "gpus": 4,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"type": "kwok"},
    })  # fmt: skip
    cluster.create(TRAIN_JOB, train_job("job", "s3://bucket/runs/key", settings, patch))
    _wait(cluster, "job", "train", 0.05)
    pods = json.loads(plane.kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
        assert container["command"] == ["python", "-m", "components.train_node"]
        variables = {item["name"]: item.get("value") for item in container["env"]}
        assert (variables["PET_NNODES"], variables["PET_NPROC_PER_NODE"]) == ("2", "4")
        assert variables["RAMPART_ORDER"] == "s3://bucket/runs/key"
        assert "/dev/shm" in [item["mountPath"] for item in container["volumeMounts"]]  # noqa: S108
        assert pod["spec"]["nodeSelector"] == {"type": "kwok"}
