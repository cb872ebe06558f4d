"""The chart on a real cluster: installed, upgraded, rolled back, taken away; its pods admitted, scheduled."""

from __future__ import annotations

import time

import pytest
import yaml

from tests.charts.test_chart import RESTRICTED
from tests.charts.tools import VARIANTS, render
from tests.cluster.release import Release, changes, until

pytestmark = pytest.mark.timeout(300)

_SECONDS = 20  # from `helm install` to pods that run
_GPU_POOL = (
    'serving.nodeSelector={"pool": "gpu"}',
    'serving.tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]',
)
# a release leaves these on purpose; the Secrets are made by the registry-init Job, which KWOK does not run
_KEPT = {"evaluation": {"PersistentVolumeClaim/rampart-minio"}}
_SERVER = "Deployment/rampart-server"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_accepted_by_strict_validation(release: Release, variant: str) -> None:
    documents = yaml.safe_dump_all(render(variant))
    said = release.plane.kubectl(
        "-n", release.namespace, "create", "--dry-run=server", "--validate=strict", "-f", "-", given=documents
    )
    assert said.count("created (server dry run)") == len(render(variant))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "knative"])
def test_a_variant_is_installed_and_leaves_nothing(release: Release, variant: str) -> None:
    release.prepare(variant)
    before = release.objects()
    started = time.monotonic()
    said = release.install(variant)
    release.settle()
    assert time.monotonic() - started < _SECONDS
    assert "Warning" not in said.stderr
    assert release.complaints() == []
    found = release.objects()
    pods = [one for name, one in found.items() if name.startswith("Pod/")]
    assert pods
    for pod in pods:
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
            assert container["securityContext"] == RESTRICTED, container["name"]
        assert not [volume for volume in pod["spec"]["volumes"] if volume["name"].startswith("kube-api")]
    release.uninstall()
    kept = {*before, *_KEPT.get(variant, ())}
    until(lambda: set(release.objects()) == kept, lambda: set(release.objects()) ^ kept)
    assert changes(before, {name: release.objects()[name] for name in before}) == set()


def test_what_is_not_restricted_is_refused(release: Release) -> None:
    done = release.plane.ask("-n", release.namespace, "run", "x", "--image=x", "--privileged")
    assert 'violates PodSecurity "restricted:latest"' in done.stderr


def test_an_upgrade_changes_what_it_says_and_no_more(release: Release) -> None:
    release.install("deployment")
    release.settle()
    release.plane.kubectl("-n", release.namespace, "scale", "deployment/rampart-server", "--replicas=4")
    release.settle()  # as the autoscaler would
    first, servers = release.objects(), _names(release, "server")
    assert len(servers) == 4

    release.upgrade("deployment", "exporter.intervalSeconds=30")
    release.settle()
    place = "Deployment/rampart-exporter.spec.template.spec.containers.exporter.args"
    assert changes(first, release.objects()) == {place}
    assert _names(release, "server") == servers, "no server was touched, nor scaled back"

    second = release.objects()
    release.upgrade("deployment", "exporter.intervalSeconds=30", "serving.settings.concurrency=3")
    release.settle()
    assert changes(second, release.objects()) == {
        "ConfigMap/rampart-server.data.settings.yaml",
        f"{_SERVER}.spec.template.metadata.annotations.checksum/settings",
    }
    assert not _names(release, "server") & servers, "new settings need new pods"

    assert release.helm("rollback", release.name, "1").returncode == 0
    release.settle()
    assert changes(first, release.objects()) == set()
    assert len(_names(release, "server")) == 4


def test_a_full_gpu_pool_takes_new_pods_in_the_place_of_old_ones(release: Release) -> None:
    whole_node = ("serving.gpus=8", "serving.replicas=1", *_GPU_POOL)
    release.install("minimal", *whole_node)
    release.settle()
    (old,) = release.pods("server")
    assert old["spec"]["nodeName"] == "kwok-1"
    (container,) = old["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    release.upgrade("minimal", *whole_node, "serving.settings.concurrency=3")
    release.settle()
    (new,) = release.pods("server")
    assert new["metadata"]["name"] != old["metadata"]["name"]
    assert new["spec"]["nodeName"] == "kwok-1"


def test_policies_and_budget_find_the_pods(release: Release) -> None:
    release.install("deployment")
    release.settle()

    def budget() -> tuple[int, int]:
        status = release.get("poddisruptionbudget", "rampart-server")["status"]
        return status.get("expectedPods", 0), status.get("currentHealthy", 0)

    until(lambda: budget() == (2, 2), budget)
    named = {}
    for policy in release.list("networkpolicies"):
        selector = policy["spec"]["podSelector"]
        terms = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
        marks = {"Exists": "", "DoesNotExist": "!"}
        terms += [marks[item["operator"]] + item["key"] for item in selector.get("matchExpressions", ())]
        found = release.list("pods", "-l", ",".join(terms))
        named[policy["metadata"]["name"]] = len(found)
    assert named.pop("rampart-pipelines") == 0
    assert named == {"rampart-default-deny": 3, "rampart-server": 2, "rampart-exporter": 1}
    service = release.get("service", "rampart-server")
    selected = ",".join(f"{key}={value}" for key, value in service["spec"]["selector"].items())
    assert len(release.list("pods", "-l", selected)) == 2


def test_the_audits_schedule_becomes_a_pod(release: Release) -> None:
    release.install("rollout")
    release.plane.kubectl("-n", release.namespace, "create", "job", "by-hand", "--from=cronjob/rampart-audit")
    release.settle()
    assert release.complaints() == []
    (pod,) = release.pods("audit")
    assert pod["status"]["phase"] == "Succeeded"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["rampart", "pipeline", "submit"]
    (source,) = (volume["projected"]["sources"] for volume in pod["spec"]["volumes"] if "projected" in volume)
    assert source[0]["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def _names(release: Release, component: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in release.pods(component)}
