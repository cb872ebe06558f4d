"""A rollout's settings, and the objects that they make."""

from __future__ import annotations

from typing import Any

import pytest

from dfcore.errors import ConfigError
from rollout import Release, RolloutSettings, Traffic, inference_service, service_name
from rollout.manifests import http_route, version_of

BASE: dict[str, Any] = {
    "namespace": "serving",
    "service": {"image": "registry.example/serve@sha256:0", "gpus": 1, "secret": "reader"},
    "traffic": {"gateway": "public"},
    "analysis": {"prometheus": "http://prometheus:9090/"},
}
RELEASE = Release("s3://models/rampart", "Deep_Fake", "v0002-bbbbbbbb")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [50, 10]}, "steps that rise"),
        ({"steps": []}, "steps that rise"),
        ({"steps": [100]}, "less than or equal to 99"),
        ({"holdSeconds": 10}, "holdSeconds of at least"),
        ({"analysis": {"prometheus": "prometheus:9090"}}, "address of Prometheus"),
        ({"trafic": {}}, "did you mean 'traffic'"),
        ({"mode": "serverless"}, "mode"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutSettings.parse({**BASE, **changes})


def test_a_pod_serves_one_version_and_keeps_to_its_place() -> None:
    document = inference_service(RELEASE, RolloutSettings.parse(BASE))
    predictor = document["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert (
        document["metadata"]["name"]
        == "deep-fake"
        == service_name("Deep_Fake", RolloutSettings.parse(BASE).service)
    )
    assert version_of(document) == version_of({"metadata": predictor}) == RELEASE.version
    assert "registry://Deep_Fake@v0002-bbbbbbbb" in container["command"]
    assert predictor["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["envFrom"] == [{"secretRef": {"name": "reader"}}]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {item["mountPath"] for item in container["volumeMounts"]}
    assert mounted == {"/cache", "/tmp"}  # noqa: S108  # the pod's
    assert "nodeSelector" not in predictor


def test_every_setting_of_the_service_reaches_the_pod() -> None:
    service = {
        **BASE["service"], "name": "faces", "serviceAccount": "reader", "replicas": 2,
        "nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "environment": {"AWS_ENDPOINT_URL": "http://minio"}, "options": ["--settings", "/etc/settings.yaml"],
    }  # fmt: skip
    document = inference_service(
        RELEASE, RolloutSettings.parse({**BASE, "service": service, "mode": "knative"})
    )
    predictor = document["spec"]["predictor"]
    assert document["metadata"]["name"] == "faces"
    assert (predictor["minReplicas"], predictor["serviceAccountName"]) == (2, "reader")
    assert predictor["nodeSelector"] == {"pool": "gpu"}
    assert predictor["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert {"name": "AWS_ENDPOINT_URL", "value": "http://minio"} in predictor["containers"][0]["env"]
    assert predictor["containers"][0]["command"][-2:] == ["--settings", "/etc/settings.yaml"]
    assert document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    assert "deploymentStrategy" not in predictor


def test_the_routes_weights_and_hosts() -> None:
    traffic = Traffic(gateway="public", gateway_namespace="edge", hostnames=("faces.example",))
    route = http_route("faces", "serving", traffic, {"faces": 90, "faces-canary": 10})
    backends = route["spec"]["rules"][0]["backendRefs"]
    assert {item["name"]: item["weight"] for item in backends} == {
        "faces-predictor": 90, "faces-canary-predictor": 10,
    }  # fmt: skip
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route["spec"]["hostnames"] == ["faces.example"]
