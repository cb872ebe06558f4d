"""Rollouts on a real API server with the real KServe controller: promoted, rolled back, refused, resumed."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from kubernetes import client, config
from typer.testing import CliRunner

from dfcore.errors import ConfigError, ConflictError, DataError, WorkFailed
from rampart import app
from rollout import Cluster, Kind, Release, RolloutSettings, State, abort, read_state, roll_out, traffic
from rollout.cluster import DEPLOYMENT, HTTP_ROUTE, INFERENCE_SERVICE, LEASE
from rollout.lock import Lock
from rollout.manifests import version_of
from rollout.traffic import KnativeTraffic, OwnCanary
from tests.cluster.control_plane import ControlPlane, install_crds
from tests.rollout.prometheus import Series, healthy, serve_prometheus

pytestmark = pytest.mark.timeout(600)

_FIRST = Release("s3://models/rampart", "faces", "v0001-aaaaaaaa")
_SECOND = _FIRST._replace(version="v0002-bbbbbbbb")
_THIRD = _FIRST._replace(version="v0003-cccccccc")


class Site(NamedTuple):
    """A namespace with KServe, and a Prometheus whose answer can be changed."""

    plane: ControlPlane
    cluster: Cluster
    settings: RolloutSettings
    says: list[Callable[[str], Series | int]]

    def weights(self) -> dict[str, int]:
        """The route's."""
        route = self.cluster.get(HTTP_ROUTE, "faces-rollout")
        assert route is not None
        return {item["name"]: item["weight"] for item in route["spec"]["rules"][0]["backendRefs"]}

    def served(self) -> str | None:
        """The stable service's version, which its pods must have too."""
        version = version_of(self.cluster.get(INFERENCE_SERVICE, "faces"))
        deployment = self.cluster.get(DEPLOYMENT, "faces-predictor")
        assert deployment is not None
        assert version_of(deployment["spec"]["template"]) == version
        return version

    def changed(self, **changes: Any) -> RolloutSettings:
        return RolloutSettings.parse(self.settings.model_dump(mode="json", by_alias=True) | changes)


@pytest.fixture
def site(kserve: ControlPlane, namespace: str) -> Iterator[Site]:
    says: list[Callable[[str], Series | int]] = [healthy]
    with serve_prometheus(lambda query: says[0](query)) as address:
        settings = RolloutSettings.parse({
            "namespace": namespace,
            "service": {"image": "registry.example/serve@sha256:0", "gpus": 1},
            "traffic": {"gateway": "public"},
            "analysis": {"prometheus": address, "intervalSeconds": 0.1},
            "steps": [10, 50], "holdSeconds": 0.3, "readySeconds": 60,
        })  # fmt: skip
        yield Site(kserve, kserve.connect(namespace), settings, says)


def test_a_version_is_installed_then_the_next_is_promoted(site: Site) -> None:
    first = roll_out(site.cluster, _FIRST, site.settings)
    assert (first.phase, first.reason) == ("promoted", "the first version")
    assert site.served() == _FIRST.version
    assert site.weights() == {"faces-predictor": 100}
    seen: list[str] = []
    second = roll_out(site.cluster, _SECOND, site.settings, say=seen.append)
    assert (second.phase, second.previous, second.weight) == ("promoted", _FIRST.version, 100)
    assert [text.partition(" to")[0] for text in seen if "watched" in text] == ["10 %", "50 %"]
    assert {check.name for check in second.checks if check.passed} >= {"latency", "score drift", "errors"}
    assert site.served() == _SECOND.version
    assert site.weights() == {"faces-predictor": 100}
    assert site.cluster.get(INFERENCE_SERVICE, "faces-canary") is None
    pods = json.loads(site.plane.kubectl("-n", site.settings.namespace, "get", "pods", "-o", "json"))["items"]
    stable = [pod for pod in pods if pod["metadata"]["labels"].get("app") == "isvc.faces-predictor"]
    limits = stable[-1]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert stable[-1]["spec"]["nodeName"].startswith("kwok-")
    assert roll_out(site.cluster, _SECOND, site.settings).reason == "unchanged"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda query: [({}, 9.0)] if "histogram_quantile" in query and "v0002" in query else healthy(query),
         "latency: 9.000 s"),
        (lambda _: [], "requests: 0 answered"),
        (lambda _: 503, "prometheus: .*HTTP 503"),
    ],
)  # fmt: skip
def test_a_worse_or_unknown_candidate_is_rolled_back(
    site: Site, answer: Callable[[str], Series | int], reason: str
) -> None:
    roll_out(site.cluster, _FIRST, site.settings)
    before = site.cluster.get(DEPLOYMENT, "faces-predictor")
    site.says[0] = answer
    end = roll_out(site.cluster, _SECOND, site.settings)
    assert end.phase == "rolled-back"
    assert end.weight == 0
    assert re.search(reason, end.reason)
    after = site.cluster.get(DEPLOYMENT, "faces-predictor")
    assert before is not None
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"], "stable pods were not touched"
    assert site.weights() == {"faces-predictor": 100}
    assert site.cluster.get(INFERENCE_SERVICE, "faces-canary") is None


def test_a_candidate_that_never_gets_ready_is_rolled_back(site: Site) -> None:
    roll_out(site.cluster, _FIRST, site.settings)
    service = site.settings.service.model_dump(mode="json", by_alias=True)
    greedy = site.changed(service={**service, "gpus": 8, "replicas": 3}, readySeconds=4)
    end = roll_out(site.cluster, _SECOND, greedy)
    assert end.phase == "rolled-back"
    assert "not ready after 4 s" in end.reason
    assert site.served() == _FIRST.version


def test_only_one_rollout_at_a_time_and_it_can_be_aborted(site: Site) -> None:
    roll_out(site.cluster, _FIRST, site.settings)
    slow = site.changed(holdSeconds=60)
    ends: list[State] = []
    holder = threading.Thread(target=lambda: ends.append(roll_out(site.cluster, _SECOND, slow)))
    holder.start()
    _until(lambda: (read_state(site.cluster, "faces") or State(version="")).weight == 10)
    assert site.weights() == {"faces-predictor": 90, "faces-canary-predictor": 10}
    with pytest.raises(ConflictError, match=r"v0002-bbbbbbbb at 10 % \(canary\)"):
        roll_out(site.cluster, _THIRD, site.settings)
    assert abort(site.cluster, _SECOND, slow).alive
    holder.join(60)
    assert (ends[0].phase, ends[0].reason) == ("rolled-back", "aborted")
    assert site.weights() == {"faces-predictor": 100}
    with pytest.raises(DataError, match="nothing to abort"):
        abort(site.cluster, _SECOND, slow)


def test_a_service_that_was_edited_by_hand_is_left_alone(site: Site) -> None:
    roll_out(site.cluster, _FIRST, site.settings)
    patch = json.dumps({"spec": {"predictor": {"minReplicas": 3, "maxReplicas": 3}}})
    site.plane.kubectl(
        "-n", site.settings.namespace, "patch", "inferenceservice", "faces", "--type=merge", "-p", patch,
        "--field-manager=kubectl-edit",
    )  # fmt: skip
    with pytest.raises(ConflictError, match=r"kubectl-edit.*takeOver"):
        roll_out(site.cluster, _SECOND, site.settings)
    assert site.cluster.get(INFERENCE_SERVICE, "faces-canary") is None
    assert version_of(site.cluster.get(INFERENCE_SERVICE, "faces")) == _FIRST.version
    assert roll_out(site.cluster, _SECOND, site.changed(takeOver=True)).phase == "promoted"


def test_what_a_dead_holder_left_is_rolled_back_or_finished(site: Site) -> None:
    roll_out(site.cluster, _FIRST, site.settings)
    left = Lock(site.cluster, "faces", 1)
    left.acquire(State(version=_SECOND.version, previous=_FIRST.version, phase="canary", weight=50))
    state = read_state(site.cluster, "faces")
    assert state is not None
    assert state.running
    time.sleep(1.2)
    seen: list[str] = []
    end = roll_out(site.cluster, _THIRD, site.settings, say=seen.append)
    assert "was left at 50 %" in seen[0]
    assert (end.phase, site.served()) == ("promoted", _THIRD.version)
    left.acquire(State(version=_SECOND.version, previous=_THIRD.version, phase="promoting", weight=50))
    time.sleep(1.2)
    assert roll_out(site.cluster, _SECOND, site.settings).phase == "promoted"
    assert site.served() == _SECOND.version
    left.acquire(State(version=_THIRD.version, previous=_SECOND.version, phase="canary", weight=50))
    time.sleep(1.2)
    assert abort(site.cluster, _THIRD, site.settings).phase == "rolled-back"
    with pytest.raises(ConflictError, match="another holder"):
        left.update(weight=1)
    site.cluster.delete(LEASE, "faces-rollout")
    with pytest.raises(ConflictError, match="somebody deleted it"):
        left.update(weight=1)


def test_a_first_version_that_never_gets_ready_leaves_nothing(site: Site) -> None:
    service = site.settings.service.model_dump(mode="json", by_alias=True)
    end = roll_out(site.cluster, _FIRST, site.changed(service={**service, "gpus": 9}, readySeconds=3))
    assert end.phase == "rolled-back"
    assert site.cluster.get(INFERENCE_SERVICE, "faces") is None


def test_a_foreign_lease_is_no_rollout(site: Site) -> None:
    site.plane.apply({
        "apiVersion": LEASE.api_version, "kind": "Lease",
        "metadata": {"name": "faces-rollout", "namespace": site.settings.namespace}, "spec": {},
    })  # fmt: skip
    with pytest.raises(ConfigError, match="without rampart"):
        read_state(site.cluster, "faces")


def test_a_cluster_without_what_is_needed_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected Knative Serving"):
        roll_out(site.cluster, _FIRST, site.changed(mode="knative"))
    with pytest.raises(ConfigError, match=r"no spec\.canary; set traffic\.gateway"):
        roll_out(site.cluster, _FIRST, site.changed(traffic=None))
    for name, message in (("HTTP_ROUTE", "Gateway API"), ("INFERENCE_SERVICE", "expected KServe's")):
        other = getattr(traffic, name)._replace(version="v9")  # the real server has no such version
        monkeypatch.setattr(traffic, name, other)
        with pytest.raises(ConfigError, match=message):
            roll_out(site.cluster, _FIRST, site.settings)
    assert read_state(site.cluster, "faces") is None


def test_without_permission_nothing_is_tried(site: Site) -> None:
    settings = client.Configuration()
    config.load_kube_config(str(site.plane.kubeconfig), client_configuration=settings)
    api = client.ApiClient(settings)
    api.set_default_header("Impersonate-User", "somebody")
    with pytest.raises(ConfigError, match="expected permission to GET"):
        read_state(Cluster(api, site.settings.namespace), "faces")


def test_what_the_cluster_does_not_admit_changes_nothing(site: Site) -> None:
    service = site.settings.service.model_dump(mode="json", by_alias=True)
    wrong = site.changed(service={**service, "resources": {"limits": {"cpu": "much"}}})
    with pytest.raises(ConfigError, match="expected the cluster to admit"):
        roll_out(site.cluster, _FIRST, wrong)
    assert site.cluster.get(INFERENCE_SERVICE, "faces") is None


def test_knatives_percentage_moves_and_is_left_out_at_the_end(site: Site) -> None:
    # KServe needs Knative to act on it: here the API server and the webhooks judge the objects
    control = KnativeTraffic(site.cluster, site.changed(mode="knative"), lambda _: None)
    control.check(_FIRST)
    control.install(_FIRST)

    def percentage() -> int | None:
        found = site.cluster.get(INFERENCE_SERVICE, "faces")
        assert found is not None
        value: int | None = found["spec"]["predictor"].get("canaryTrafficPercent")
        return value

    control.start(_FIRST, _SECOND)
    assert percentage() == 0
    control.shift(_FIRST, _SECOND, 25)
    assert percentage() == 25
    control.promote(_SECOND)
    assert percentage() is None
    control.start(_SECOND, _THIRD)
    control.roll_back(_SECOND)
    assert percentage() is None
    assert version_of(site.cluster.get(INFERENCE_SERVICE, "faces")) == _SECOND.version


def test_kserves_own_canary_where_its_schema_has_it(bare: ControlPlane, site: Site) -> None:
    # a schema alone: 0.17's webhook writes objects anew, without the fields that it does not know
    install_crds(bare, "chart-crds/kserve/*_inferenceservices.yaml")
    crd = "crd/inferenceservices.serving.kserve.io"
    place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
    canary = {"type": "array", "items": {"type": "object", "properties": {
        "trafficPercent": {"type": "integer"},
        "predictor": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }}}  # fmt: skip
    added = {f"{place}/canary": canary, f"{place}/predictor/properties/name": {"type": "string"}}
    patch = [{"op": "add", "path": path, "value": value} for path, value in added.items()]
    bare.kubectl("patch", crd, "--type=json", "-p", json.dumps(patch))
    cluster = bare.connect("default")
    _until(lambda: cluster.has_field(INFERENCE_SERVICE, "canary"))
    _until(lambda: cluster.has_field(INFERENCE_SERVICE, "predictor", "name"))
    control = traffic.choose_traffic(cluster, site.changed(traffic=None, namespace="default"), lambda _: None)
    assert isinstance(control, OwnCanary)
    control.check(_FIRST)

    def applied() -> dict[str, Any]:
        found = cluster.get(INFERENCE_SERVICE, "faces")
        assert found is not None
        spec: dict[str, Any] = found["spec"]
        return spec

    control.shift(_FIRST, _SECOND, 30)
    (second,) = applied()["canary"]
    assert (second["trafficPercent"], second["predictor"]["name"]) == (30, _SECOND.version)
    assert applied()["predictor"]["name"] == _FIRST.version
    for release in (_SECOND, _FIRST):  # promoted, rolled back
        control._apply(control._document(release))
        assert "canary" not in applied()
        assert applied()["predictor"]["name"] == release.version
    bare.kubectl("delete", crd)


def test_the_command_line_shows_the_last_rollout(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # KUBECONFIG, which the client reads when it is imported
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(site.plane.kubeconfig)
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    arguments = ["rollout", "status", "faces", "-n", site.settings.namespace, "--json"]
    missing = CliRunner().invoke(app, arguments)
    assert isinstance(missing.exception, DataError)
    values = site.plane.folder / "rollout.yaml"
    values.write_text(json.dumps(site.settings.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    begin = ["rollout", "start", "faces", _FIRST.version, "--store", _FIRST.registry, "--values", str(values)]
    assert CliRunner().invoke(app, begin).exit_code == 0
    stop = ["rollout", "abort", "faces", "--store", _FIRST.registry, "--values", str(values)]
    assert isinstance(CliRunner().invoke(app, stop).exception, DataError)
    shown = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert (shown["version"], shown["phase"]) == (_FIRST.version, "promoted")


def test_objects_that_are_not_there(site: Site) -> None:
    assert not site.cluster.delete(HTTP_ROUTE, "nothing")
    assert not site.cluster.serves(Kind("example.com", "v1", "Thing", "things"))


def test_what_is_being_deleted_takes_nothing(site: Site) -> None:
    metadata = {"name": "held", "namespace": site.settings.namespace}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    held = {**lease, "metadata": {**metadata, "finalizers": ["rampart.io/nobody"]}}
    site.cluster.apply(LEASE, held)
    site.plane.kubectl("-n", site.settings.namespace, "delete", "lease", "held", "--wait=false")
    with pytest.raises(WorkFailed, match=r"rampart\.io/nobody"):
        site.cluster.apply(LEASE, held)
    site.plane.kubectl(
        "-n", site.settings.namespace, "patch", "lease", "held", "--type=merge",
        "-p", json.dumps({"metadata": {"finalizers": None}}),
    )  # fmt: skip
    assert "deletionTimestamp" not in site.cluster.apply(LEASE, lease)["metadata"]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
