"""One values file, two who make the predictor: the chart, and `rampart rollout`. Its pods must not differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout import Release, RolloutSettings, inference_service, rollout_values
from rollout.chart import _SERVING
from rollout.settings import merged
from tests.charts.tools import CHART, NAMESPACE, VARIANTS, flat, render, validate

_ROLLOUT: dict[str, Any] = {
    "namespace": NAMESPACE,
    "service": {"release": "rampart"},
    "analysis": {"prometheus": "http://prometheus:9090"},
}
_EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example/serve", "tag": "2", "pullPolicy": "Always"},
    "nameOverride": "detector",
    "commonLabels": {"team": "red"},
    "imagePullSecrets": ["one", "two"],
    "store": {
        "uri": "s3://models/registry", "endpoint": "https://minio.storage:9000", "region": "eu-west-1",
        "existingSecret": "reader", "caConfigMap": "authority",
    },
    "trust": {"existingConfigMap": "signer"},
    "serving": {
        "replicas": 3, "gpus": 2, "tokensSecret": "tokens", "settings": {"max_instances": 3},
        "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "8", "memory": "9Gi"}},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        ]}},
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
        ],
        "priorityClassName": "high", "cacheSize": "9Gi", "drainSeconds": 5, "graceSeconds": 7,
        "extraEnv": [{"name": "AWS_RETRY_MODE", "value": "adaptive"}],
        "podAnnotations": {"example.org/cost-centre": "42"},
    },
    "podSecurity": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": None},
}  # fmt: skip
_SHARES_NOT = {
    "mode": "a rollout makes InferenceServices only",
    "settings": "they are in the release's ConfigMap, which both mount",
    "service": "KServe makes the Service",
    "serviceAccount": "the release makes it; a rollout names it",
}
_AUTOSCALER = "a rollout compares equal numbers of pods, so it never scales"
_DIFFERS = {
    "metadata.name": "the model's, not the release's: a candidate stands beside it",
    "metadata.namespace": "Helm adds it when it installs",
    "metadata.labels.app.kubernetes.io/managed-by": "its owner",
    "metadata.labels.app.kubernetes.io/version": "the chart's",
    "metadata.labels.helm.sh/chart": "the chart's",
    "metadata.annotations.rampart.io/model-version": "by it a rollout knows what is served",
    "predictor.annotations.rampart.io/model-version": "by it a rollout knows what is served",
    "predictor.annotations.checksum/settings": "new settings reach a rollout's pods with the next version",
}
_SCALED = {
    "metadata.annotations.serving.kserve.io/autoscalerClass": _AUTOSCALER,
    "predictor.maxReplicas": _AUTOSCALER,
}


def _comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Return metadata and predictor by place, with command and arguments in one."""
    predictor = dict(document["spec"]["predictor"])
    (container,) = predictor["containers"]
    command = [*container["command"], *container.get("args", ())]
    predictor["containers"] = [{**container, "command": command, "args": None}]
    return flat({"metadata": document["metadata"], "predictor": predictor})


def _both(values: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return what the chart makes, what a rollout makes, and all of the chart's objects."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    found = render(values=path)
    name = values.get("model", {}).get("name", "deepfake")
    # the chart follows a channel, a rollout names a version
    release = Release(values.get("store", {}).get("uri", "s3://rampart/registry"), name, "production")
    settings = RolloutSettings.parse(rollout_values(yaml.safe_load(path.read_text(encoding="utf-8"))))
    (service,) = (one for one in found if one["kind"] == "InferenceService")
    return _comparable(service), _comparable(inference_service(release, settings)), found


def _values(variant: str) -> dict[str, Any]:
    own = _EVERYTHING if variant == "everything" else yaml.safe_load(
        (CHART / "ci" / f"{variant}-values.yaml").read_text(encoding="utf-8")
    )  # fmt: skip
    served = {"serving": {"mode": "kserve"}, "kserve": {"createInferenceService": True}}
    values = merged(merged(own, served), {"pipelines": {"rollout": _ROLLOUT}})
    found: dict[str, Any] = merged({"image": {"digest": f"sha256:{'0' * 64}"}}, values)
    return found


@pytest.mark.parametrize("variant", [*VARIANTS, "everything"])
def test_pods_are_the_same_whoever_makes_them(variant: str, tmp_path: Path) -> None:
    values = _values(variant)
    chart, ours, found = _both(values, tmp_path / "values.yaml")
    named = {**_DIFFERS, **(_SCALED if values.get("autoscaling", {}).get("enabled") else {})}
    different = {place for place in {*chart, *ours} if chart.get(place) != ours.get(place)}
    shown = {place: (chart.get(place), ours.get(place)) for place in different - set(named)}
    assert not shown, "chart, rollout"
    # and what these pods name is there
    there = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert ("ServiceAccount", ours["predictor.serviceAccountName"]) in there
    assert ("ConfigMap", ours["predictor.volumes.settings.configMap.name"]) in there


def test_what_a_rollout_applies_fits_kserves_schema(tmp_path: Path) -> None:
    for variant in ("everything", "knative", "openshift"):
        settings = RolloutSettings.parse(rollout_values(_values(variant)))
        document = inference_service(Release("s3://x", "faces", "v0001-aaaaaaaa"), settings)
        (tmp_path / f"{variant}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    summary = validate(tmp_path)
    assert summary["valid"] == sum(summary.values()) == 3


def test_each_difference_that_is_named_exists(tmp_path: Path) -> None:
    chart, ours, _ = _both(_values("kserve"), tmp_path / "values.yaml")
    named = {**_DIFFERS, **_SCALED}
    assert {place for place in named if chart.get(place) == ours.get(place)} == set()


def test_every_key_of_the_server_is_shared_or_named() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(values["serving"]) == {*_SERVING, *_SHARES_NOT}
    assert not set(_SERVING) & set(_SHARES_NOT)


@pytest.mark.parametrize(
    ("release", "own"),
    [
        ("prod", {}),
        ("my-rampart", {}),
        ("prod", {"nameOverride": "faces"}),
        ("prod", {"fullnameOverride": "detector"}),
        ("a-name-that-is-so-long-that-it-is-cut-off-here", {}),
        ("a-name-cut-off-behind-the-dash-that-is-x-y", {"nameOverride": "z"}),
    ],
)
def test_a_release_is_found_by_its_name(release: str, own: dict[str, Any], tmp_path: Path) -> None:
    rollout = merged(_ROLLOUT, {"service": {"release": release, "image": "x:1"}})
    values = {**own, "serving": {"mode": "kserve"}, "pipelines": {"rollout": rollout}}
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    found = render(values=path, release=release)
    (service,) = (one for one in found if one["kind"] == "InferenceService")
    ours = inference_service(Release("s3://x", "m", "v"), RolloutSettings.parse(rollout_values(values)))
    for key in ("serviceAccountName", "labels"):
        assert ours["spec"]["predictor"][key] == service["spec"]["predictor"][key]
