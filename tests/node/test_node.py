"""The chart's pods on a real kubelet, with real requests: `make node-test`, as root.

One release lives through all of it, so the tests run in the order in which they stand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.node.node import start_kserve, until
from tests.node.site import NAMESPACE, Site
from tests.serving.conftest import b64, encode_png

pytestmark = pytest.mark.timeout(3600)

_PATH = "/v1/models/deepfake:predict"


@pytest.fixture(scope="module")
def request_file(portrait: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("request") / "request.json"
    document = {"instances": [{"image": {"b64": b64(encode_png(portrait))}}]}
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def first(site: Site) -> str:
    """A published and promoted version that a ready server serves."""
    version = site.publish("first")
    site.promote(version)
    _restart(site)
    return version


def _restart(site: Site) -> None:
    site.node.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/rampart-server")
    done = site.node.ask(
        "kubectl", "-n", NAMESPACE, "rollout", "status", "deployment/rampart-server", "--timeout=170s",
        seconds=200,
    )  # fmt: skip
    assert done.returncode == 0, [site.log(pod["metadata"]["name"]) for pod in site.pods("server")]


def _ask(site: Site, request_file: Path, service: str = "rampart-server") -> Any:
    address = site.service(service) + _PATH
    content = ("-H", "Content-Type: application/json", "--data-binary", f"@{request_file}")
    done = site.node.ask("curl", "-sS", "--fail", *content, address)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["predictions"][0]


@contextmanager
def _load(site: Site, request_file: Path) -> Iterator[dict[str, Any]]:
    """Ask without a pause; what came is there at the end."""
    log, came = site.folder / "load.json", {}
    address = site.service("rampart-server") + _PATH
    process = site.node.begin("python", "-m", "tests.node.load", address, str(request_file), log=log)
    try:
        yield came
    finally:
        process.communicate(timeout=60)
    came.update(json.loads(log.read_text(encoding="utf-8").splitlines()[-1]))


def test_a_server_without_a_model_says_so(site: Site) -> None:
    def said() -> str:
        return "".join(site.log(pod["metadata"]["name"]) for pod in site.pods("server"))

    until(lambda: "error: expected" in said(), said)


def test_a_published_model_is_served(site: Site, first: str, request_file: Path) -> None:
    answer = _ask(site, request_file)
    assert answer["outcome"] == "ok"
    assert answer["model"]["version"] == first
    (pod,) = site.pods("server")
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    inside = ("kubectl", "-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", "sh", "-c")
    done = site.node.ask(
        *inside, "id -u; touch /app/x || echo refused; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; "
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status"
    )  # fmt: skip
    uid, refused, limit, *status = done.stdout.split("\n")
    assert (uid, refused, int(limit)) == ("65532", "refused", 2 << 30)
    assert [row.split()[1] for row in status if row] == ["0000000000000000", "1", "2"]


def test_a_promotion_is_taken_over_without_a_failed_request(
    site: Site, first: str, request_file: Path
) -> None:
    with _load(site, request_file) as came:
        second = site.publish("second")
        site.promote(second)
        until(lambda: _ask(site, request_file)["model"]["version"] == second)
        time.sleep(2)
    assert came["failures"] == []
    assert set(came["versions"]) == {first, second}


def test_new_pods_take_over_without_a_failed_request(site: Site, first: str, request_file: Path) -> None:
    (old,) = site.pods("server")
    with _load(site, request_file) as came:
        _restart(site)
        until(lambda: [pod["metadata"]["name"] for pod in site.pods("server")] != [old["metadata"]["name"]])
        time.sleep(8)  # the old one drains
    assert came["failures"] == []
    assert sum(came["versions"].values()) > 10


def test_a_killed_server_comes_back(site: Site, first: str, request_file: Path) -> None:
    (pod,) = site.pods("server")
    name = pod["metadata"]["name"]
    (container,) = pod["status"]["containerStatuses"]
    site.node.script("kill", container["containerID"].removeprefix("containerd://"))

    def state() -> tuple[bool, int]:
        status = site.node.read("-n", NAMESPACE, "pod", name)["status"]["containerStatuses"][0]
        return status["ready"], status["restartCount"]

    until(lambda: state() == (True, 1), state, seconds=180)
    assert _ask(site, request_file)["outcome"] == "ok"


def test_a_real_prometheus_scrapes_server_and_exporter(site: Site, first: str) -> None:
    targets = []
    for component in ("server", "exporter"):
        (pod,) = site.pods(component)
        port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
        targets.append({
            "targets": [f"{pod['status']['podIP']}:{port}"], "labels": {"component": component},
        })  # fmt: skip
    job = {"job_name": "rampart", "scrape_interval": "1s", "static_configs": targets}
    settings = {"scrape_configs": [job]}
    (site.folder / "prometheus.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = site.node.begin(
        "prometheus", f"--config.file={site.folder / 'prometheus.yaml'}",
        "--web.listen-address=127.0.0.1:19090", f"--storage.tsdb.path={site.folder / 'tsdb'}",
        log=site.folder / "prometheus.log",
    )  # fmt: skip

    def series(query: str) -> list[Any]:
        given = ("--data-urlencode", f"query={query}")
        done = site.node.ask("curl", "-sS", "-G", "http://127.0.0.1:19090/api/v1/query", *given)
        return list(json.loads(done.stdout)["data"]["result"]) if done.returncode == 0 else []

    def up() -> set[tuple[str, str]]:
        return {(one["metric"]["component"], one["value"][1]) for one in series("up")}

    try:
        until(lambda: up() == {("server", "1"), ("exporter", "1")}, up)
        until(
            lambda: series("rampart_model_info") and series("rampart_channel_info"),
            lambda: series("{job='rampart'}"),
        )
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_an_altered_model_is_not_served(site: Site, first: str, request_file: Path) -> None:
    before = _ask(site, request_file)["model"]["version"]
    site.alter(f"{before}/", "weights.safetensors")
    site.node.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/rampart-server")

    def said() -> str:
        return "".join(site.log(pod["metadata"]["name"]) for pod in site.pods("server"))

    until(lambda: "the signature does not hold" in said(), said)
    assert _ask(site, request_file)["model"]["version"] == before, "the pods that verified it stay"
    site.alter(f"{before}/", "weights.safetensors")
    _restart(site)


def test_kserve_runs_the_same_server(site: Site, first: str, request_file: Path) -> None:
    start_kserve(site.node)
    before = _ask(site, request_file)["model"]["version"]
    values = site.values()
    values["serving"]["mode"] = "kserve"
    site.helm("upgrade", values)
    wait = ("-n", NAMESPACE, "wait", "inferenceservice/rampart", "--for=condition=Ready", "--timeout=170s")
    done = site.node.ask("kubectl", *wait, seconds=200)
    assert done.returncode == 0, [site.log(pod["metadata"]["name"]) for pod in site.pods("server")]
    (pod,) = site.node.read("-n", NAMESPACE, "pods", "-l", "serving.kserve.io/inferenceservice=rampart")
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert _ask(site, request_file, "rampart-predictor")["model"]["version"] == before
