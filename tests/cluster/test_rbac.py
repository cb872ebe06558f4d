"""What each ServiceAccount of the chart may do, and that it is all it may do."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client, config

from components.train_job import TRAIN_JOB, TrainJobSettings, train_job
from dfcore.errors import ConfigError
from rollout import Release as Version
from rollout import RolloutSettings, read_state, roll_out
from rollout.cluster import DEPLOYMENT, INFERENCE_SERVICE, LEASE
from tests.cluster.control_plane import ControlPlane, Done
from tests.cluster.release import Release
from tests.rollout.prometheus import healthy, serve_prometheus

pytestmark = pytest.mark.timeout(300)

_ACCOUNTS = ("rampart-audit", "rampart-exporter", "rampart-registry-init", "rampart-server")
_RUNNER = "pipeline-runner"  # not the chart's: whom it gives two roles
_MAKES = {"get", "create", "patch", "delete"}
# by account: group, resource, name (* is any) and verbs
_MAY: dict[str, dict[tuple[str, str, str], set[str]]] = {
    "rampart-registry-init": {
        ("", "secrets", "*"): {"create"},
        ("", "secrets", "rampart-reader"): {"get", "patch"},
        ("", "secrets", "rampart-writer"): {"get", "patch"},
    },
    _RUNNER: {
        ("serving.kserve.io", "inferenceservices", "*"): _MAKES,
        ("gateway.networking.k8s.io", "httproutes", "*"): _MAKES,
        ("apps", "deployments", "*"): {"get"},
        ("coordination.k8s.io", "leases", "*"): {"get", "create", "update"},
        ("trainer.kubeflow.org", "trainjobs", "*"): {"get", "create", "delete"},
    },
}
_FORBIDDEN = {
    "rampart-server": ["get secret rampart-reader", "get secrets", "get configmap rampart-server", "get po"],
    "rampart-exporter": ["get secret rampart-reader", "get secrets", "get pods -A", "get nodes"],
    "rampart-audit": ["get secret rampart-reader", "get cronjobs", "create job x --image=x"],
    "rampart-registry-init": [
        "get secret minio-admin", "get secrets", "delete secret rampart-reader", "get pods", "get secrets -A",
        "create token rampart-server", "create rolebinding x --role=rampart-registry-init --user=x",
    ],
    _RUNNER: [
        "get secret rampart-reader", "get secrets", "get inferenceservices", "get inferenceservices -A",
        "delete deployment rampart-exporter", "scale deployment rampart-exporter --replicas=0", "get pods",
        "delete lease x", "create token rampart-server", "get configmap rampart-server",
    ],
}  # fmt: skip


@pytest.fixture
def accounts(release: Release) -> Release:
    """A release with every account that the chart has."""
    release.plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}},
        _account(_RUNNER, "kubeflow"),
        _secret("minio-admin", release.namespace),
    )
    image = f"registry.example/rampart-python@sha256:{'0' * 64}"
    release.install(
        "rollout",
        "registryInit.enabled=true",
        "registryInit.adminSecret=minio-admin",
        f"registryInit.image={image}",
    )
    return release


def test_each_account_may_do_what_the_table_says_and_no_more(accounts: Release) -> None:
    found = {item["metadata"]["name"] for item in accounts.list("serviceaccounts")} - {"default"}
    assert found == set(_ACCOUNTS)
    nobody = _rules(accounts.plane, "nobody", accounts.namespace)
    elsewhere = _rules(accounts.plane, "nobody", "default")
    for name in (*_ACCOUNTS, _RUNNER):
        user = _user(accounts, name)
        assert _rules(accounts.plane, user, accounts.namespace) == nobody | _MAY.get(name, {}), name
        # which also says that nothing holds in the whole cluster
        for place in ("default", "kube-system", "kubeflow"):
            assert _rules(accounts.plane, user, place) == elsewhere, (name, place)


@pytest.mark.parametrize("name", _FORBIDDEN)
def test_real_requests_are_refused(accounts: Release, name: str) -> None:
    for request in _FORBIDDEN[name]:
        done = _as(accounts, name, request)
        assert done.returncode, request
        assert "forbidden" in done.stderr.lower(), (request, done.stderr)


def test_pods_have_no_token_of_the_cluster(accounts: Release) -> None:
    accounts.plane.kubectl(
        "-n", accounts.namespace, "create", "job", "by-hand", "--from=cronjob/rampart-audit"
    )
    accounts.settle()
    pods = accounts.list("pods")
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == set(_ACCOUNTS) - {"rampart-server"}
    for pod in pods:
        tokens = {volume["name"] for volume in pod["spec"]["volumes"] if "projected" in volume}
        containers = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
        mounted = [
            container["name"] for container in containers
            for mount in container["volumeMounts"] if mount["name"] in tokens
        ]  # fmt: skip
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        assert mounted == {"audit": ["submit"], "registry-init": ["store-keys"]}.get(component, [])


def test_the_audits_token_is_good_for_nothing_here(accounts: Release) -> None:
    def answer(*audience: str) -> str:
        token = accounts.plane.kubectl(
            "-n", accounts.namespace, "create", "token", "rampart-audit", *audience
        )
        server = accounts.plane.environment["APIPORT"]
        done = accounts.plane.ask(
            "auth", "whoami", "--kubeconfig", "/dev/null", "--token", token.strip(),
            "--server", f"https://127.0.0.1:{server}",
            "--certificate-authority", str(accounts.plane.folder / "pki" / "ca.crt"),
        )  # fmt: skip
        return done.stdout + done.stderr

    assert "system:serviceaccount" in answer()
    assert "Unauthorized" in answer("--audience=pipelines.kubeflow.org")


def test_a_rollout_needs_no_more_than_its_role(accounts: Release) -> None:
    cluster = accounts.plane.connect(accounts.namespace, f"kubeflow/{_RUNNER}")
    with serve_prometheus(healthy) as address:
        settings = RolloutSettings.parse({
            "namespace": accounts.namespace,
            "service": {"image": "registry.example/serve@sha256:0", "release": "rampart"},
            "traffic": {"gateway": "public"}, "analysis": {"prometheus": address, "intervalSeconds": 0.1},
            "steps": [50], "holdSeconds": 0.2, "readySeconds": 60,
        })  # fmt: skip
        first = Version("s3://models/rampart", "faces", "v0001-aaaaaaaa")
        assert roll_out(cluster, first, settings).phase == "promoted"
        assert roll_out(cluster, first._replace(version="v0002-bbbbbbbb"), settings).phase == "promoted"
    # its pods run as the release's account, in the release's policies and budget
    pods = accounts.pods("server")
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"rampart-server"}
    assert accounts.complaints() == []
    assert read_state(cluster, "faces") is not None
    for kind, name in ((LEASE, "faces-rollout"), (DEPLOYMENT, "rampart-exporter")):
        with pytest.raises(ConfigError, match="expected permission to DELETE"):
            cluster.delete(kind, name)
    elsewhere = accounts.plane.connect("default", f"kubeflow/{_RUNNER}")
    with pytest.raises(ConfigError, match="bind the rollout's Role to this account"):
        elsewhere.get(INFERENCE_SERVICE, "faces")


@pytest.mark.usefixtures("trainer")
def test_training_needs_no_more_than_its_role(accounts: Release) -> None:
    cluster = accounts.plane.connect(accounts.namespace, f"kubeflow/{_RUNNER}")
    settings = TrainJobSettings.parse({"namespace": accounts.namespace, "image": "x@sha256:0"})
    assert cluster.serves(TRAIN_JOB)
    cluster.create(TRAIN_JOB, train_job("job", "s3://bucket/key", settings, "podSpecOverrides"))
    assert cluster.get(TRAIN_JOB, "job") is not None
    assert cluster.delete(TRAIN_JOB, "job")
    with pytest.raises(ConfigError, match="expected permission to GET"):
        accounts.plane.connect("default", f"kubeflow/{_RUNNER}").get(TRAIN_JOB, "job")


def _user(release: Release, name: str) -> str:
    place = "kubeflow" if name == _RUNNER else release.namespace
    return f"system:serviceaccount:{place}:{name}"


def _as(release: Release, name: str, request: str) -> Done:
    place = () if " -A" in request else ("-n", release.namespace)
    return release.plane.ask(*request.split(), *place, "--as", _user(release, name))


def _rules(plane: ControlPlane, user: str, namespace: str) -> dict[tuple[str, str, str], set[str]]:
    """Return everything that the authorizer would allow in a namespace, as it says itself."""
    settings = client.Configuration()
    config.load_kube_config(str(plane.kubeconfig), client_configuration=settings)
    api = client.ApiClient(settings)
    api.set_default_header("Impersonate-User", user)
    review: Any = client.AuthorizationV1Api(api).create_self_subject_rules_review(
        {"spec": {"namespace": namespace}}
    )
    assert review.status.incomplete is False
    found: dict[tuple[str, str, str], set[str]] = {}
    for rule in review.status.resource_rules:
        for group in rule.api_groups or [""]:
            for resource in rule.resources:
                for name in rule.resource_names or ["*"]:
                    found.setdefault((group, resource, name), set()).update(rule.verbs)
    return found


def _account(name: str, namespace: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def _secret(name: str, namespace: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}}
