"""The queries on a real Prometheus that scrapes two pods with the server's metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from dfcore.monitoring import SCORE_BUCKETS
from rampart.server_process import free_port
from rollout import Analysis, Prometheus, Versions, judge

pytestmark = pytest.mark.timeout(120)

_VERSIONS = Versions("serving", "faces", "v0001-aaaaaaaa", "v0002-bbbbbbbb")
_SECONDS = 3.0


class Pod(NamedTuple):
    """The metrics of one server that answers all the time; `seconds` and `score` can be changed."""

    registry: CollectorRegistry
    version: str
    behaviour: dict[str, float]


def _answer_always(pod: Pod, stop: threading.Event) -> None:
    """Answer a hundred requests a second, a few of them refused."""
    labels, registry = ("faces", pod.version), pod.registry
    names = ("model", "version")
    requests = Counter("rampart_requests_total", "-", (*names, "outcome"), registry=registry)
    rejected = Counter("rampart_input_rejected_total", "-", ("reason",), registry=registry)
    seconds = Histogram("rampart_request_seconds", "-", ("stage",), registry=registry)
    scores = Histogram("rampart_fake_score", "-", names, buckets=SCORE_BUCKETS, registry=registry)
    Gauge("rampart_model_info", "-", (*names, "digest"), registry=registry).labels(*labels, "sha256:0").set(1)
    count = 0
    while not stop.wait(0.01):
        count += 1
        requests.labels(*labels, "ok").inc()
        seconds.labels("score").observe(pod.behaviour["seconds"])
        scores.labels(*labels).observe((count % 10) / 10 * pod.behaviour["score"])
        if count % 100 < pod.behaviour["rejected"]:
            rejected.labels("media").inc()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Pod]]:
    """A Prometheus that scrapes a stable and a candidate pod; yields its address and the candidate."""
    home = Path(os.environ.get("RAMPART_CLUSTER", "~/.cache/rampart-cluster")).expanduser()
    program = shutil.which("prometheus") or shutil.which("prometheus", path=str(home / "bin"))
    if program is None:
        pytest.skip("real Prometheus: not built; run tests/cluster/install.sh prom (needs Go, 5 minutes)")
    stop, jobs, threads, servers = threading.Event(), [], [], []
    pods = []
    for name, version in (("stable", _VERSIONS.stable), ("candidate", _VERSIONS.candidate)):
        pod = Pod(CollectorRegistry(), version, {"seconds": 0.02, "score": 1.0, "rejected": 2})
        server, thread = start_http_server(0, addr="127.0.0.1", registry=pod.registry)
        servers.append((server, thread))
        labels = {"namespace": "serving", "pod": f"faces-{name}-predictor-1"}
        jobs.append({"targets": [f"127.0.0.1:{server.server_port}"], "labels": labels})
        threads.append(threading.Thread(target=_answer_always, args=(pod, stop)))
        threads[-1].start()
        pods.append(pod)
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "rampart", "static_configs": jobs}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}",
             f"--storage.tsdb.path={tmp_path / 'data'}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait(f"http://{address}/-/ready")
        yield f"http://{address}", pods[1]
    finally:
        stop.set()
        process.terminate()
        process.wait(30)
        for thread in threads:
            thread.join()
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join()


def _wait(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  # our own loopback server
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _failed(address: str) -> list[str] | None:
    """Return the checks that fail, or None while there are too few requests to judge."""
    settings = Analysis(prometheus=address, minimum_requests=20)
    checks = judge(Prometheus(settings), settings, _VERSIONS, _SECONDS)
    return [check.name for check in checks if not check.passed] if len(checks) > 1 else None


def _until(address: str, expected: list[str]) -> None:
    deadline = time.monotonic() + 60  # a busy machine scrapes late
    while (found := _failed(address)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_equal_pods_pass_and_each_fault_is_seen(site: tuple[str, Pod]) -> None:
    address, candidate = site
    assert _failed(address) is None, "nothing was scraped twice yet"
    _until(address, [])
    candidate.behaviour.update({"seconds": 0.4, "score": 0.3, "rejected": 40.0})
    _until(address, ["errors", "latency", "score drift"])
