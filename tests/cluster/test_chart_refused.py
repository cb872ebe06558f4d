"""What a cluster lacks, or a value gets wrong, is named before anything is made."""

from __future__ import annotations

import json

import pytest

from tests.charts.tools import CHART
from tests.cluster.release import Release

pytestmark = pytest.mark.timeout(300)

_IMAGE = f"example/python@sha256:{'0' * 64}"
_INIT = "registryInit.enabled=true registryInit.adminSecret=admin registryInit.image=" + _IMAGE
_NO_API = "expected a cluster that serves {} for {}, found none: install {} first"
_NO_OBJECT = "expected the {} in namespace NAMESPACE ({}), found none: create it first"
_REFUSED = {
    "serving.mode=kserve": _NO_API.format("serving.kserve.io/v1beta1", "serving.mode=kserve", "KServe"),
    "serving.mode=kserve kserve.createInferenceService=false": "for serving.mode=kserve, found none",
    "monitoring.podMonitors.enabled=true": _NO_API.format(
        "monitoring.coreos.com/v1", "monitoring.podMonitors.enabled=true", "prometheus-operator"
    ),
    "monitoring.rules.enabled=true": "for monitoring.rules.enabled=true, found none: install prometheus-op",
    "autoscaling.enabled=true autoscaling.kind=keda": "for autoscaling.kind=keda, found none: install KEDA",
    "store.existingSecret=reader": _NO_OBJECT.format("Secret reader", "store.existingSecret"),
    "store.existingSecret=reader serving.mode=none": "(store.existingSecret), found none",
    "store.caConfigMap=ca": _NO_OBJECT.format("ConfigMap ca", "store.caConfigMap"),
    "trust.existingConfigMap=key": _NO_OBJECT.format("ConfigMap key", "trust.existingConfigMap"),
    "serving.tokensSecret=tokens": _NO_OBJECT.format("Secret tokens", "serving.tokensSecret"),
    _INIT: _NO_OBJECT.format("Secret admin", "registryInit.adminSecret"),
    "minio.enabled=true minio.image=x:1 minio.existingSecret=root": _NO_OBJECT.format(
        "Secret root", "minio.existingSecret"
    ),
    "autoscaling.enabled=true serving.replicas=9": "maxReplicas of at least serving.replicas=9, got 8",
    "fullnameOverride=1st.faces": "expected a name that begins with a letter and has no dot",
    "serving.replica=3": "at '/serving': additional properties 'replica' not allowed",
    "serving.gpus=much": "at '/serving/gpus': got string, want integer",
    "serving.resources.limits.memory=much": "at '/serving/resources/limits/memory'",
    "serving.mode=serverless": "at '/serving/mode': value must be one of",
    "audit.enabled=true": "data_root",
    "store.uri=gs://bucket": "at '/store/uri'",
}


@pytest.mark.parametrize("assignments", _REFUSED)
def test_it_is_named_and_nothing_is_made(bare_release: Release, assignments: str) -> None:
    before = bare_release.objects()
    done = bare_release.make("install", None, *assignments.split())
    assert done.returncode
    assert _REFUSED[assignments].replace("NAMESPACE", bare_release.namespace) in done.stderr
    assert bare_release.objects() == before
    assert _records(bare_release) == []


def test_knative_mode_needs_knative(release: Release) -> None:
    release.prepare("knative")
    done = release.make("install", "knative")
    assert _NO_API.format("serving.knative.dev/v1", "kserve.deploymentMode=Knative", "Knative Serving") in (
        done.stderr
    )


def test_an_upgrade_to_wrong_values_leaves_the_release_as_it_is(bare_release: Release) -> None:
    bare_release.install("minimal")
    bare_release.plane.kubectl(
        "-n", bare_release.namespace, "wait", "--for=create", "pod", "--all", "--timeout=30s"
    )
    before = set(bare_release.objects())
    done = bare_release.make("upgrade", "minimal", "serving.mode=kserve")
    assert "install KServe first" in done.stderr
    assert set(bare_release.objects()) == before
    assert _records(bare_release) == [("1", "deployed")]


def test_an_object_of_somebody_else_is_left_alone(bare_release: Release) -> None:
    metadata = {"name": "rampart-server", "namespace": bare_release.namespace}
    bare_release.plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    before = bare_release.objects()
    done = bare_release.make("install", None)
    assert "exists and cannot be imported" in done.stderr
    assert bare_release.objects() == before


def test_what_only_the_cluster_can_refuse_shows_in_a_dry_run_and_is_taken_back(bare_release: Release) -> None:
    before = set(bare_release.objects())
    # free for the schema, which does not repeat all of Kubernetes' own rules
    wrong = ("--set-json", 'serving.tolerations=[{"operator": "Perhaps"}]')
    message = 'tolerations[0].operator: Unsupported value: "Perhaps"'
    documents = bare_release.helm("template", "rampart", str(CHART), "--validate", *wrong).stdout
    tried = bare_release.plane.ask(
        "-n", bare_release.namespace, "create", "--dry-run=server", "-f", "-", given=documents
    )
    assert message in tried.stderr
    done = bare_release.helm("install", "rampart", str(CHART), "--atomic", *wrong)
    assert done.returncode
    assert message in done.stderr
    assert set(bare_release.objects()) == before
    assert _records(bare_release) == []


def _records(release: Release) -> list[tuple[str, str]]:
    found = json.loads(release.helm("list", "--all", "--output", "json").stdout)
    return [(one["revision"], one["status"]) for one in found]
