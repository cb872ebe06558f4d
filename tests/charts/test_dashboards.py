"""Every panel's query on a real Prometheus that scrapes a real server and a real exporter."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from dfcore.models import load_detector
from dfcore.monitoring import build_reference
from dfcore.release import Registry, build_bundle, sign_bundle
from rampart.server_process import free_port
from tests.charts.prometheus_server import Prometheus, panels, run_prometheus
from tests.charts.tools import CHART, find, write_rules
from tests.release.conftest import parts as parts
from tests.serving.conftest import (
    b64,
    encode_png,
    make_crops,
    start,
    stop,
    wait_until_ready,
)
from tests.serving.conftest import portrait as portrait

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
SECONDS = 100


@pytest.fixture(scope="module")
def registry(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with one version in two channels."""
    home = tmp_path_factory.mktemp("registry")
    reference = build_reference(load_detector(parts / "checkpoint"), make_crops(32))
    build_bundle(
        home / "bundle", parts / "checkpoint", parts / "evaluation", parts / "decision.json",
        parts / "report.html", reference,
    )  # fmt: skip
    sign_bundle(home / "bundle", parts / "keys/rampart.key")
    found = Registry(str(home / "store"))
    version = found.publish("tiny", home / "bundle", public_key=parts / "keys/rampart.pub", who="ci")
    for channel in ("production", "beta"):
        found.promote("tiny", version, channel, "ci", "test")
    return found


@pytest.fixture(scope="module")
def prometheus(
    registry: Registry, portrait: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Server, exporter and Prometheus, after some requests of every kind."""
    import os

    find("prometheus")
    home = tmp_path_factory.mktemp("prometheus")
    # a handful of inputs is enough to judge here
    write_rules(home / "rules.yaml", "monitoring.rules.thresholds.psiInputs=1")
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "RAMPART_REGISTRY": registry.uri,
        "RAMPART_CACHE": str(home / "cache"),
    }  # fmt: skip
    port, exporter_port = free_port(), free_port()
    arguments = ["--model", "registry://tiny@production", "--name", "tiny", "--http-port", str(port)]
    server = start([*arguments, "--host", "127.0.0.1"], environment, home / "server.log")
    command = [sys.executable, "-m", "rampart", "monitor", "export", "--interval", "5"]
    with (home / "exporter.log").open("wb") as log:
        exporter = subprocess.Popen(
            [*command, "--port", str(exporter_port)], env=environment, stdout=log, stderr=log
        )
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
            run_prometheus(
                home, [f"127.0.0.1:{port}", f"127.0.0.1:{exporter_port}"], home / "rules.yaml"
            ) as found,
        ):
            wait_until_ready(client, server, home / "server.log")
            for _ in range(8):
                ask(client, portrait)
                time.sleep(1)
            yield found
    finally:
        stop(server)
        stop(exporter)


def ask(client: httpx.Client, portrait: np.ndarray) -> None:
    """Send a face, an image without one, and a file that is no image."""
    nobody = encode_png(np.full((96, 96, 3), 128, dtype=np.uint8))
    for content, status in ((encode_png(portrait), 200), (nobody, 200), (b"no image", 400)):
        answer = client.post(
            "/v1/models/tiny:predict", json={"instances": [{"image": {"b64": b64(content)}}]}
        )
        assert answer.status_code == status, answer.text


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    wanted = [one for dashboard in DASHBOARDS for one in panels(dashboard)]
    assert len(wanted) > 35
    deadline = time.monotonic() + SECONDS
    missing = wanted
    while missing and time.monotonic() < deadline:
        missing = [one for one in missing if not _has_data(prometheus, one[1])]
        time.sleep(1 if missing else 0)
    assert not missing, "\n".join(f"{title}: {expression}" for title, expression in missing)


def _has_data(prometheus: Prometheus, expression: str) -> bool:
    return any(math.isfinite(value) for _, value in prometheus.query(expression))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_marks_and_variables_can_be_asked_for(prometheus: Prometheus, dashboard: Path) -> None:
    document = json.loads(dashboard.read_text(encoding="utf-8"))
    for mark in document["annotations"]["list"]:
        prometheus.query(mark["expr"].replace("$namespace", ".*").replace("$model", ".*"))
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            series, _, label = variable["query"]["query"][len("label_values(") : -1].rpartition(", ")
            found = prometheus.query(series.replace("$namespace", ".*").replace("$model", ".*"))
            assert {labels[label] for labels, _ in found}, variable["name"]


def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert len(rules) > 70
    assert not [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"]
    roles = {labels["role"] for labels, _ in prometheus.query("rampart:served_version:role")}
    assert roles == {"stable"}


def test_the_index_is_that_of_the_library(prometheus: Prometheus) -> None:
    """One score again and again is far from the reference; Python's index says how far."""
    from dfcore.monitoring import psi

    counts, reference = [], []
    query = 'rampart:histogram_bucket:count6h{histogram="fake_score"}'
    buckets = {labels["le"]: value for labels, value in prometheus.query(query)}
    shares = {
        labels["le"]: value
        for labels, value in prometheus.query('rampart_reference_bucket_ratio{histogram="fake_score"}')
    }
    for le in sorted(shares, key=float):
        counts.append(buckets[le])
        reference.append(shares[le] * 1e6)
    ((_, found),) = prometheus.query('rampart:psi:6h{histogram="fake_score"}')
    # the rule lets no share of the reference fall below .001, the library adds half a count to a million
    assert found == pytest.approx(psi([max(one, 1e3) for one in reference], counts), rel=0.05)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(dashboard: Path) -> None:
    document = json.loads(dashboard.read_text(encoding="utf-8"))
    assert document["uid"] == f"rampart-{dashboard.stem}"
    places = []
    for panel in document["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        places += [
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        ]  # fmt: skip
    assert len(places) == len(set(places)), "panels overlap"
    identities = [panel["id"] for panel in document["panels"]]
    assert len(identities) == len(set(identities))
