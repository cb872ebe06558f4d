"""Each pipeline step's command, as KFP gets it, run by a real kubelet in the training image."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.compile import PIPELINES, build
from pipelines.platform import load_platform
from tests.cluster.test_pipeline_pods import VALUES, _pod
from tests.node.node import Node, until

pytestmark = pytest.mark.timeout(1800)

_NAMESPACE = "steps"
_SECRETS = {"rampart-writer": ("accesskey", "secretkey"), "rampart-signing": ("rampart.key",)}


@pytest.fixture(scope="module")
def corpus(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A namespace for steps, with a small data set as the claim `data`."""
    folder = tmp_path_factory.mktemp("corpus")
    done = node.ask(
        "rampart", "data", "synthesize", "--layout", "ffpp", "--identities", "6",
        "--out", str(folder / "ffpp"), seconds=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (*folder.parents, folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    room = {"accessModes": ["ReadOnlyMany"], "storageClassName": "data"}
    place = {"name": "data", "namespace": _NAMESPACE}
    node.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": _NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "data"}, "spec": {
            **room, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)},
        }},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": place, "spec": {
            **room, "resources": {"requests": {"storage": "1Gi"}},
        }},
        *(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": _NAMESPACE},
             "stringData": dict.fromkeys(keys, "none")}
            for name, keys in _SECRETS.items()
        ),
    )  # fmt: skip


def _step(pipeline: str, label: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of a step, for a node of this machine's size and with the image that was built here."""
    document, platform = build(pipeline, load_platform(VALUES))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
    container = document["deploymentSpec"]["executors"][label]["container"]
    made = _pod(
        f"{pipeline.replace('_', '-')}-{label.removeprefix('exec-')}", container, settings, _NAMESPACE
    )
    spec = made["spec"]
    for key in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
        spec.pop(key, None)
    (main,) = spec["containers"]
    main["image"], main["imagePullPolicy"] = "localhost/rampart-train:test", "IfNotPresent"
    main["resources"] = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
    main["args"] = [json.dumps(given) if text == "{{$}}" else text for text in main["args"]]
    spec["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}})
    main["volumeMounts"].append({"name": "data", "mountPath": "/data", "readOnly": True})
    return made


def _run(node: Node, pod: dict[str, Any]) -> tuple[str, str]:
    """Run a pod to its end; returns its phase and what it wrote."""
    name = pod["metadata"]["name"]
    node.apply(pod)

    def phase() -> str:
        return str(node.read("-n", _NAMESPACE, "pod", name)["status"].get("phase"))

    until(
        lambda: phase() in {"Succeeded", "Failed"},
        lambda: node.kubectl("-n", _NAMESPACE, "get", "events"),
        180,
    )
    end, log = phase(), node.kubectl("-n", _NAMESPACE, "logs", name)
    node.kubectl("-n", _NAMESPACE, "delete", "pod", name)
    return end, log


def test_the_first_step_scans_a_data_set(node: Node, corpus: None) -> None:
    made = {"name": "manifest", "type": {"schemaTitle": "system.Dataset"}, "uri": "/tmp/out/manifest"}  # noqa: S108
    given = {
        "inputs": {"parameterValues": {"root": "/data/ffpp", "num_shards": 2, "layout": "auto"}},
        "outputs": {
            "parameters": {"Output": {"outputFile": "/tmp/out/shards"}},  # noqa: S108
            "artifacts": {"manifest": {"artifacts": [made]}},
            "outputFile": "/tmp/out/executor.json",  # noqa: S108
        },
    }
    phase, log = _run(node, _step("train_and_release", "exec-scan-data", given))
    assert phase == "Succeeded", log
    assert "[scan ffpp] done: 60 samples of ffpp" in log


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_step_starts(node: Node, corpus: None, pipeline: str) -> None:
    document, _ = build(pipeline, load_platform(VALUES))
    labels = document["deploymentSpec"]["executors"]
    for label in labels:
        outputs = {"outputFile": "/tmp/out/executor.json"}  # noqa: S108
        phase, log = _run(node, _step(pipeline, label, {"inputs": {}, "outputs": outputs}))
        function = labels[label]["container"]["args"][-1]
        # it is found, loaded and called; what it lacks is what KFP's launcher would have given it
        called = phase == "Succeeded" or f", in {function}\n" in log or f"{function}() missing" in log
        assert called, f"{label}: {log[-2000:]}"
        for refused in ("ImportError", "ModuleNotFoundError", "PermissionError", "Read-only"):
            assert refused not in log, f"{label}: {log[-2000:]}"
