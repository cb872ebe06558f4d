"""A real Prometheus for tests, with the chart's rules."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from rampart.server_process import free_port
from tests.charts.tools import NAMESPACE, find


class Prometheus:
    """The query API."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and values of an instant query."""
        answer = self.client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found = answer.json()["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        groups = self.client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def run_prometheus(folder: Path, targets: Sequence[str], rules: Path) -> Iterator[Prometheus]:
    """Run one that scrapes every two seconds."""
    program, port = find("prometheus"), free_port()
    targets_config = [{"targets": list(targets), "labels": {"namespace": NAMESPACE}}]
    config = {
        # a busy machine may take a second for an answer
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "rampart", "static_configs": targets_config}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        program, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while not _ready(server):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Prometheus did not start: {(folder / 'prometheus.log').read_text()[-3000:]}")
            time.sleep(0.1)
        yield server
        server.client.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(server: Prometheus) -> bool:
    try:
        return server.client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def panels(dashboard: Path) -> list[tuple[str, str]]:
    """Return the title and query of each panel of a dashboard, its variables set to "all"."""
    document = json.loads(dashboard.read_text(encoding="utf-8"))
    found = []
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable in document["templating"]["list"]:
                expression = expression.replace(f"${variable['name']}", ".*")
            found.append((f"{document['title']}: {panel['title']}", expression))
    return found
