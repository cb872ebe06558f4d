"""A rollout's settings, and the objects that they make."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dfcore.errors import ConfigError
from rollout import Release, RolloutSettings, Traffic, inference_service, service_name
from rollout.manifests import http_route, version_of

BASE: dict[str, Any] = {
    "namespace": "serving",
    "service": {"image": "registry.example/serve@sha256:0", "gpus": 1, "store": {"existingSecret": "reader"}},
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
        ({"service": {"image": "x", "tokensSecret": "tokens"}}, "settingsConfigMap or release"),
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
    assert "envFrom" not in container, "keys are files"
    assert {"name": "RAMPART_S3_SECRETS", "value": "/etc/rampart/store"} in container["env"]
    assert {"name": "store", "secret": {"secretName": "reader"}} in predictor["volumes"]
    assert predictor["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 300
    mounted = {item["mountPath"] for item in container["volumeMounts"] if "readOnly" not in item}
    assert mounted == {"/cache", "/tmp"}  # noqa: S108  # the pod's
    assert not {"nodeSelector", "serviceAccountName", "affinity", "imagePullSecrets"} & set(predictor)
    assert "--settings" not in container["command"]


def test_without_the_chart_each_object_is_named() -> None:
    service = {
        **BASE["service"], "name": "faces", "serviceAccount": "reader", "settingsConfigMap": "limits",
        "tokensSecret": "tokens", "trust": {"existingConfigMap": "signer"}, "gpus": 0,
    }  # fmt: skip
    document = inference_service(
        RELEASE, RolloutSettings.parse({**BASE, "service": service, "mode": "knative"})
    )
    predictor = document["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert document["metadata"]["name"] == "faces"
    assert predictor["serviceAccountName"] == "reader"
    assert predictor["labels"]["app.kubernetes.io/instance"] == "faces"
    assert {"name": "RAMPART_PUBLIC_KEY", "value": "/etc/rampart/trust/rampart.pub"} in container["env"]
    volumes = {volume["name"]: volume for volume in predictor["volumes"]}
    assert volumes["trust"]["configMap"] == {"name": "signer"}
    assert volumes["settings"]["configMap"] == {"name": "limits"}
    assert volumes["tokens"]["secret"] == {"secretName": "tokens"}
    place = container["command"].index("--settings")
    assert container["command"][place + 1] == "/etc/rampart/server/settings.yaml"
    assert document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    assert "deploymentStrategy" not in predictor
    assert predictor["timeout"] == 50


def test_no_key_is_trusted_but_the_registrys_where_none_is_named() -> None:
    (container,) = inference_service(RELEASE, RolloutSettings.parse(BASE))["spec"]["predictor"]["containers"]
    assert "RAMPART_PUBLIC_KEY" not in {item["name"] for item in container["env"]}
    assert "--allow-unsigned" not in container["command"]


def test_without_gpus_a_new_pod_is_ready_before_an_old_one_goes() -> None:
    settings = RolloutSettings.parse({**BASE, "service": {"image": "x"}})
    strategy = inference_service(RELEASE, settings)["spec"]["predictor"]["deploymentStrategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_pipelines_parameter_gives_the_same_pods() -> None:
    """KFP hands every number over as a float."""
    service = {
        **BASE["service"], "resources": {"limits": {"cpu": 3, "memory": None}, "requests": {"cpu": 0.5}},
        "topologySpreadConstraints": [{"maxSkew": 2}], "extraEnv": [{"name": "A", "value": "b"}],
        "affinity": {"nodeAffinity": {"weights": [1, 2.5]}}, "tolerations": [{"tolerationSeconds": 3}],
        "podSecurity": {"runAsUser": None},
    }  # fmt: skip
    settings = RolloutSettings.parse({**BASE, "service": service})
    document = inference_service(RELEASE, settings)
    predictor = document["spec"]["predictor"]
    assert predictor["containers"][0]["resources"] == {
        "requests": {"cpu": "0.5", "memory": "2Gi"}, "limits": {"cpu": "3", "nvidia.com/gpu": "1"},
    }  # fmt: skip
    assert "runAsUser" not in predictor["securityContext"]
    handed = json.loads(
        json.dumps(settings.model_dump(mode="json", by_alias=True)),
        parse_int=float,
    )
    again = inference_service(RELEASE, RolloutSettings.parse(handed))
    assert json.dumps(again) == json.dumps(document)


def test_the_routes_weights_and_hosts() -> None:
    traffic = Traffic(gateway="public", gateway_namespace="edge", hostnames=("faces.example",))
    route = http_route("faces", "serving", traffic, {"faces": 90, "faces-canary": 10})
    backends = route["spec"]["rules"][0]["backendRefs"]
    assert {item["name"]: item["weight"] for item in backends} == {
        "faces-predictor": 90, "faces-canary-predictor": 10,
    }  # fmt: skip
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route["spec"]["hostnames"] == ["faces.example"]
