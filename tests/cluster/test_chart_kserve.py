"""The chart with the real KServe controller: its InferenceService, its runtimes, its autoscaler."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.charts.test_chart import RESTRICTED
from tests.charts.tools import ROOT
from tests.cluster.release import Release

pytestmark = pytest.mark.timeout(300)

_GPU_POOL = 'serving.nodeSelector={"pool": "gpu"}'
_OWN = {
    "minReplicas": 1,
    "maxReplicas": 1,
    # KServe's storage initializer has no seccomp profile of its own (docs/chart.md)
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
_CONTAINERS = {"containers": [{"name": "kserve-container", "image": "x"}]}


def test_the_inference_service_becomes_pods_on_the_gpu_pool(release: Release) -> None:
    release.install("kserve", "serving.settings.concurrency=1", _GPU_POOL)
    release.settle()
    service = release.get("inferenceservice", "rampart")
    deployment = release.get("deployment", "rampart-predictor")
    (owner,) = deployment["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("InferenceService", service["metadata"]["uid"])
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    (pod,) = release.pods("server")  # KEDA, which is not here, would make it two
    assert pod["spec"]["nodeName"] == "kwok-1"
    # nothing of KServe's beside it: no agent, no storage initializer
    (container,) = pod["spec"]["containers"]
    assert "initContainers" not in pod["spec"]
    assert container["name"] == "kserve-container"
    assert container["securityContext"] == RESTRICTED
    assert container["resources"]["limits"] == {"cpu": "256", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert pod["spec"]["serviceAccountName"] == "rampart-server"
    assert pod["spec"]["automountServiceAccountToken"] is False
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == 8080
    (port,) = release.get("service", "rampart-predictor")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, 8080)
    target = release.get("scaledobject", "rampart-server")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]


def test_an_upgrade_keeps_what_the_autoscaler_chose(release: Release) -> None:
    release.install("kserve")
    release.settle()
    release.plane.kubectl("-n", release.namespace, "scale", "deployment/rampart-predictor", "--replicas=3")
    release.settle()
    before = {pod["metadata"]["name"] for pod in release.pods("server")}
    release.upgrade("kserve", "serving.settings.concurrency=3")
    release.settle()
    after = {pod["metadata"]["name"] for pod in release.pods("server")}
    assert len(after) == 3
    assert not before & after, "new settings need new pods"


def test_without_an_autoscaler_the_replicas_are_ours(release: Release) -> None:
    release.install("kserve", "autoscaling.enabled=false", "serving.replicas=3")
    release.settle()
    assert len(release.pods("server")) == 3
    assert release.list("horizontalpodautoscalers") == []


def test_a_release_can_change_its_mode(release: Release) -> None:
    release.install("kserve", "autoscaling.enabled=false")
    release.settle()
    release.upgrade("kserve", "autoscaling.enabled=false", "serving.mode=deployment")
    release.settle()
    assert release.list("inferenceservices") == []
    assert {pod["spec"]["containers"][0]["name"] for pod in release.pods("server")} == {"server"}


@pytest.mark.parametrize("form", ["rampart", "rampart-torchserve"])
def test_own_inference_services_run_on_the_charts_runtimes(release: Release, form: str) -> None:
    release.install("kserve", "kserve.createInferenceService=false", "autoscaling.enabled=false")
    model = {"modelFormat": {"name": form}, "storageUri": "s3://models/versions/v0001-1a2b3c4d"}
    if form == "rampart":
        model["protocolVersion"] = "v2"
    release.plane.apply(_service(release, _OWN | {"model": model}, "own"))
    release.settle()
    assert release.complaints() == []
    (pod,) = release.list("pods", "-l", "serving.kserve.io/inferenceservice=own")
    (container,) = pod["spec"]["containers"]
    given = container["args"]
    if form == "rampart":
        assert given[given.index("--model") + 1 :] == ["/mnt/models", "--name", "own"]
    else:
        assert {"--model=/mnt/models", "--name=own"} <= set(given)
    (fetcher,) = pod["spec"]["initContainers"]
    assert fetcher["name"] == "storage-initializer"
    assert fetcher["args"][0] == "s3://models/versions/v0001-1a2b3c4d"


def test_the_runtime_that_needs_no_chart_is_accepted(release: Release) -> None:
    text = (ROOT / "serving" / "torchserve" / "serving-runtime.yaml").read_text(encoding="utf-8")
    release.plane.kubectl("-n", release.namespace, "apply", "-f", "-", "--validate=strict", given=text)
    model = {"modelFormat": {"name": "rampart-torchserve"}, "storageUri": "s3://models/versions/v1"}
    release.plane.apply(_service(release, _OWN | {"model": model}, "faces"))
    release.settle()
    assert release.complaints() == []


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (_CONTAINERS | {"minReplicas": 5, "maxReplicas": 2}, "cannot be greater than MaxReplicas"),
        (_CONTAINERS | {"minReplicas": -1}, "cannot be less than 0"),
        (_CONTAINERS | {"sklearn": {"storageUri": "s3://x/y"}}, "exactly one of"),
        (_CONTAINERS | {"scaleMetric": "gpu"}, 'spec.predictor.scaleMetric: Unsupported value: "gpu"'),
        (_CONTAINERS | {"imagePull": 1}, 'unknown field "spec.predictor.imagePull"'),
        ({}, "exactly one of"),
    ],
)
def test_bad_inference_services_are_denied(release: Release, predictor: Any, message: str) -> None:
    document = _service(release, predictor, "bad")
    done = release.plane.ask("create", "-f", "-", given=yaml.safe_dump(document))
    assert done.returncode
    assert message in done.stderr
    assert release.list("inferenceservices") == []


def _service(release: Release, predictor: Any, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": release.namespace,
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "spec": {"predictor": predictor},
    }
