"""The compiled pipelines on a cluster: golden documents without the code in them, and what must always hold.

`RAMPART_UPDATE=1 pytest tests/pipelines/test_placement.py` writes the golden documents anew.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as pb
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.compile import PIPELINES, build, compile_pipeline
from pipelines.platform import load_platform

VALUES = Path(__file__).with_name("values.yaml")
GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="module")
def built() -> dict[str, list[dict[str, Any]]]:
    platform = load_platform(VALUES)
    return {name: build(name, platform) for name in PIPELINES}


def _without_code(documents: list[dict[str, Any]]) -> str:
    """Leave out source, descriptions and the SDK's version; the rest is what a cluster does."""
    shown: list[dict[str, Any]] = _undescribed(copy.deepcopy(documents))
    shown[0].pop("sdkVersion")
    for executor in shown[0]["deploymentSpec"]["executors"].values():
        del executor["container"]["command"]
    return yaml.safe_dump_all(shown, sort_keys=True, width=110)


def _undescribed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _undescribed(value) for key, value in node.items() if key != "description"}
    return [_undescribed(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("name", PIPELINES)
def test_as_before(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    path, text = GOLDEN / f"{name}.yaml", _without_code(built[name])
    if os.environ.get("RAMPART_UPDATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "changed on purpose? RAMPART_UPDATE=1 writes it anew"


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_has_its_place(built: dict[str, list[dict[str, Any]]], name: str) -> None:
    pipeline, platform = built[name]
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = pipeline["deploymentSpec"]["executors"]
    assert pods.keys() == executors.keys()
    for label, executor in executors.items():
        container, pod = (
            executor["container"],
            json_format.ParseDict(pods[label], pb.KubernetesExecutorConfig()),
        )
        assert "@sha256:" in container["image"]
        assert "pip install" not in " ".join(container["command"])
        assert {"resourceCpuLimit", "resourceMemoryLimit", "resourceCpuRequest"} <= container[
            "resources"
        ].keys()
        assert pod.security_context.run_as_non_root
        assert pod.security_context.run_as_user == 65532
        assert pod.active_deadline_seconds > 0
        assert [item.secret_name for item in pod.secret_as_env] == ["rampart-writer"]
        assert [item.secret_name for item in pod.image_pull_secret] == ["registry-login"]
        volumes = [item.secret_name for item in pod.secret_as_volume]
        assert volumes == (["rampart-signing"] if label == "exec-publish-bundle" else [])


def test_training_gets_the_gpus(built: dict[str, list[dict[str, Any]]]) -> None:
    pipeline, platform = built["train_and_release"]
    for label in ("exec-train-detector", "exec-train-detector-2"):
        container = pipeline["deploymentSpec"]["executors"][label]["container"]
        assert container["resources"]["accelerator"] == {
            "resourceType": "nvidia.com/gpu", "resourceCount": "4", "type": "nvidia.com/gpu", "count": "4",
        }  # fmt: skip
        assert {"name": "RAMPART_PROCESSES", "value": "4"} in container["env"]
        pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
        assert pod["nodeSelector"] == {"labels": {"pool": "gpu"}}
        assert pod["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert pod["nodeAffinity"][0]["weight"] == 50


def test_every_task_is_tried_again_and_never_cached(built: dict[str, list[dict[str, Any]]]) -> None:
    for pipeline, _ in built.values():
        dags = [pipeline["root"], *pipeline["components"].values()]
        tasks = [task for dag in dags for task in dag.get("dag", {}).get("tasks", {}).values()]
        leaves = [
            task for task in tasks
            if "executorLabel" in pipeline["components"][task["componentRef"]["name"]]
        ]  # fmt: skip
        assert len(leaves) >= 4
        for task in leaves:
            assert not task["cachingOptions"].get("enableCache")
            if task["componentRef"]["name"] == "comp-flag-regression":
                assert "retryPolicy" not in task, "it fails on purpose"
                continue
            policy = task["retryPolicy"]
            assert policy["maxRetryCount"] >= 1
            assert policy["backoffDuration"].endswith("s")
        assert any("parameterIterator" in task for task in tasks), "prepare_faces is fanned out"


def test_parameters_come_from_the_values(built: dict[str, list[dict[str, Any]]]) -> None:
    known = built["train_and_release"][0]["root"]["inputDefinitions"]["parameters"]
    assert known["registry"]["defaultValue"] == "s3://models/rampart"
    assert known["rollout"]["defaultValue"]["traffic"]["gateway"] == "public"
    assert "rollout" not in built["audit_robustness"][0]["root"]["inputDefinitions"]["parameters"]


def test_manifests_for_gitops(tmp_path: Path) -> None:
    platform = load_platform(VALUES)
    first = compile_pipeline(tmp_path / "a.yaml", "audit_robustness", platform, manifests=True)
    pipeline, version = yaml.safe_load_all(first.read_text(encoding="utf-8"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {item["metadata"]["namespace"] for item in (pipeline, version)} == {"team-faces"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "audit-robustness"
    assert version["spec"]["pipelineSpec"]["pipelineInfo"]["name"] == "audit-robustness"
    assert "kubernetes" in version["spec"]["platformSpec"]["platforms"]
    other = platform.model_copy(update={"user": 1000})
    second = compile_pipeline(tmp_path / "b.yaml", "audit_robustness", other, manifests=True)
    _, changed = yaml.safe_load_all(second.read_text(encoding="utf-8"))
    assert changed["metadata"]["name"] != version["metadata"]["name"], "a version never changes its content"
