from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dfcore.errors import ConfigError
from dfcore.evaluation import Evidence
from dfcore.models.bundle import channel_key, version_prefix
from dfcore.release import Registry, write_audit
from serving.kpi_exporter import ExportSettings, KpiExporter, run_exporter
from serving.kpi_reading import FAMILIES, KpiReader, Limits, Sample
from tests.faulty_server import Fault, FaultyServer, faulty_server
from tests.release.conftest import built as built  # real signed bundles, and what they are made of
from tests.release.conftest import parts as parts
from tests.release.conftest import registry as registry
from tests.release.evidence import WEAK, write_evaluation
from tests.serving.conftest import free_port

on_s3_too = pytest.mark.parametrize("registry", ["file", "s3"], indirect=True)
Samples = dict[tuple[str, ...], float]


@pytest.fixture
def published(registry: Registry, built: Path, parts: Path) -> tuple[str, str]:
    """Two versions of faces; production points at the second after the first."""
    public_key = parts / "keys/rampart.pub"
    one = registry.publish("faces", built / "bundle", public_key=public_key, who="ci")
    two = registry.publish("faces", built / "second", public_key=public_key, who="ci")
    registry.promote("faces", one, "production", "ci", "first")
    registry.promote("faces", two, "production", "ci", "second")
    return one, two


def read(registry: Registry, limits: Limits | None = None) -> Samples:
    """Return the values of a fresh reading, by family and labels."""
    return index(KpiReader(registry.store, limits or Limits()).read())


def index(samples: tuple[Sample, ...]) -> Samples:
    """Return values by family and labels, each once."""
    found = {(sample.family, *sample.labels): sample.value for sample in samples}
    assert len(found) == len(samples)
    for sample in samples:
        assert len(sample.labels) == len(FAMILIES[sample.family][1])
    return found


def make_audit(registry: Registry, version: str, folder: Path, seed: int = 7) -> datetime:
    """Store an audit that found the detector weaker."""
    write_evaluation(folder, WEAK)
    created = datetime.now(UTC).isoformat()
    rules = [{"name": "a", "passed": False}, {"name": "b", "passed": True, "applied": False}]
    decision = {"promoted": False, "policy": "strict", "rules": rules, "created": created}
    (folder / "decision.json").write_text(json.dumps(decision))
    return write_audit(registry, ("faces", version, "production"), folder, seed=seed, suite="full").created


@on_s3_too
def test_what_a_channel_points_at_is_shown(
    registry: Registry, published: tuple[str, str], parts: Path
) -> None:
    _, two = published
    found = read(registry)
    served = ("faces", two, "production")
    assert found["rampart_channel_info", *served] == 1
    assert found["rampart_channel_readable", "faces", "production"] == 1
    assert found["rampart_registry_versions", "faces"] == 2
    assert found["rampart_gate_decision", *served, "demo", "release"] == 1
    assert found["rampart_gate_rules", *served, "release", "failed"] == 0
    assert found["rampart_gate_rules", *served, "release", "passed"] > 5
    evidence = Evidence.read(parts / "evaluation")
    moment = datetime.fromisoformat(evidence.created).timestamp()
    assert found["rampart_evidence_timestamp_seconds", *served, "release"] == moment
    assert found["rampart_evidence_valid", *served, "release"] == 1
    shown = {key[4:7]: value for key, value in found.items() if key[0] == "rampart_robustness_auc"}
    reported = [one for one in evidence.results if one.slice == "all"]
    assert len(shown) == len(reported) == 16
    for result in reported:
        epsilon = str(result.threat_model.model_dump(mode="json")["epsilon"] or "none")
        place = (result.scenario, result.corpus, epsilon)
        auc = result.metrics["auc"]
        assert shown[place] == auc.value
        assert found["rampart_robustness_interval", *served, *place, "low"] == auc.low
        assert found["rampart_robustness_interval", *served, *place, "high"] == auc.high
    assert ("pgd20_8_255", "celebdf", "8/255") in shown
    assert ("clean", "ffpp", "none") in shown


def test_moves_of_a_channel_show(registry: Registry, published: tuple[str, str]) -> None:
    one, two = published
    reader = KpiReader(registry.store, Limits())
    before = index(reader.read())
    assert ("rampart_channel_timestamp_seconds", "faces", two, "production", "promote") in before
    registry.rollback("faces", "production", "ann", "alarm")
    after = index(reader.read())
    assert after["rampart_channel_info", "faces", one, "production"] == 1
    assert not [key for key in after if two in key]
    rolled = after["rampart_registry_event_timestamp_seconds", "faces", "production", "rollback"]
    assert rolled == after["rampart_channel_timestamp_seconds", "faces", one, "production", "rollback"]
    published_at = after["rampart_registry_event_timestamp_seconds", "faces", "", "publish"]
    success = ("rampart_pipeline_last_success_timestamp_seconds", "faces", "train_and_release")
    assert after[success] == published_at <= rolled


@on_s3_too
def test_an_audit_overrides_the_release(
    registry: Registry, published: tuple[str, str], tmp_path: Path
) -> None:
    one, two = published
    served = ("faces", two, "production")
    place = ("pgd20_2_255", "ffpp", "2/255")
    released = read(registry)["rampart_robustness_auc", *served, *place]
    created = make_audit(registry, two, tmp_path / "audit")
    make_audit(registry, one, tmp_path / "former")
    found = read(registry)
    assert found["rampart_robustness_released_auc", *served, *place] == released
    assert found["rampart_robustness_auc", *served, *place] < released - 0.2
    assert found["rampart_gate_decision", *served, "strict", "audit"] == 0
    assert found["rampart_gate_rules", *served, "audit", "failed"] == 1
    assert found["rampart_gate_rules", *served, "audit", "not_applied"] == 1
    measured = found["rampart_evidence_timestamp_seconds", *served, "audit"]
    assert created.timestamp() - 60 < measured <= created.timestamp()
    success = ("rampart_pipeline_last_success_timestamp_seconds", "faces", "audit_robustness")
    assert found[success] >= created.timestamp()


def test_only_whole_audits_count(registry: Registry, published: tuple[str, str], tmp_path: Path) -> None:
    _, two = published
    make_audit(registry, two, tmp_path / "audit")
    (record,) = (key for key in registry.store.list("models/faces/audits/") if key.endswith("/audit.json"))
    altered = record.replace("audit.json", "evidence.json")
    registry.store.put(altered, b"{}")
    assert read(registry)["rampart_channel_readable", "faces", "production"] == 0
    registry.store.delete(record)  # as if it had been killed before
    found = read(registry)
    assert found["rampart_channel_readable", "faces", "production"] == 1
    assert not [key for key in found if "audit" in key]


def test_what_was_altered_is_not_shown(registry: Registry, published: tuple[str, str]) -> None:
    one, two = published
    registry.promote("faces", one, "canary", "ci", "try")
    registry.store.put(f"{version_prefix('faces', two)}/evidence.json", b'{"results": []}')
    registry.store.put(channel_key("faces", "broken"), b"not json")
    registry.store.put("models/faces/audit/00000099.json", b"[]")
    found = read(registry)
    assert found["rampart_channel_readable", "faces", "production"] == 0
    assert found["rampart_channel_readable", "faces", "broken"] == 0
    assert found["rampart_channel_readable", "faces", "canary"] == 1
    assert found["rampart_registry_left_out", "unreadable"] == 1
    assert {key[2] for key in found if key[0] == "rampart_robustness_auc"} == {one}


def test_a_manifest_without_evidence_is_not_shown(
    registry: Registry, published: tuple[str, str], tmp_path: Path
) -> None:
    import hashlib

    _, two = published
    manifest = b'{"files": {}}'
    registry.store.put(f"{version_prefix('faces', two)}/manifest.json", manifest)
    pointer = {"version": two, "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    registry.store.put(channel_key("faces", "production"), json.dumps(pointer).encode())
    assert read(registry)["rampart_channel_readable", "faces", "production"] == 0


def test_a_reading_is_bounded(registry: Registry, published: tuple[str, str]) -> None:
    one, _ = published
    registry.promote("faces", one, "canary", "ci", "try")
    found = read(registry, Limits(channels=1, figures=3))
    assert found["rampart_registry_left_out", "channels"] == 1
    assert found["rampart_registry_left_out", "figures"] == 13
    assert sum(key[0] == "rampart_robustness_auc" for key in found) == 3
    assert ("rampart_channel_info", "faces", one, "canary") in found
    small = read(registry, Limits(document_bytes=100))
    assert small["rampart_channel_readable", "faces", "production"] == 0


def test_an_empty_registry_is_no_failure(registry: Registry) -> None:
    exporter = KpiExporter(registry.uri)
    assert exporter.refresh()
    assert exporter.alive


@pytest.fixture
def faulty(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """A server that can fail in front of the S3 server."""
    with faulty_server(os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield server


@pytest.mark.parametrize("registry", ["s3"], indirect=True)
def test_an_unreachable_store_leaves_the_last_reading(
    faulty: FaultyServer, registry: Registry, published: tuple[str, str]
) -> None:
    exporter = KpiExporter(registry.uri)
    assert values(exporter)["rampart_registry_up"] == 0
    assert exporter.refresh()
    known = values(exporter)
    assert known["rampart_registry_up"] == 1
    faulty.requests.clear()
    assert exporter.refresh()
    # unchanged: one listing, and the pointer's tag; nothing else is fetched again
    assert len(faulty.requests) == 2
    faulty.faults.append(Fault("GET", "refuse", times=99, code="InternalError", status=500))
    assert not exporter.refresh()
    assert not exporter.refresh()
    down = values(exporter)
    assert down["rampart_registry_up"] == 0
    assert down["rampart_registry_read_failures_total"] == 2
    assert down["rampart_registry_read_timestamp_seconds"] >= known["rampart_registry_read_timestamp_seconds"]
    assert down["rampart_channel_info"] == 1
    faulty.faults.clear()
    assert exporter.refresh()
    assert values(exporter)["rampart_registry_up"] == 1


def values(exporter: KpiExporter) -> dict[str, float]:
    """Return the sum of each metric."""
    found: dict[str, float] = {}
    for family in exporter.collect():
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_a_scrape_over_http(registry: Registry, published: tuple[str, str], tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "rampart", "monitor", "export", "--port", str(port), "--interval", "1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # the registry from RAMPART_REGISTRY
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            text = _wait(client, process, tmp_path / "log")
            assert client.get("/healthz").text == "ok\n"
            assert client.get("/elsewhere").status_code == 404
            openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
            assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert code == 0, (tmp_path / "log").read_text()
    found = {sample.name: sample for family in text_string_to_metric_families(text)
             for sample in family.samples}  # fmt: skip
    assert found["rampart_channel_info"].labels["version"] == published[1]
    assert found["rampart_robustness_auc"].labels["model"] == "faces"
    # torch alone would be several times as much
    assert found["process_resident_memory_bytes"].value < 120e6


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            text = client.get("/metrics").text
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if "rampart_registry_up 1.0" in text:
            return text
        time.sleep(0.1)
    pytest.fail(f"the exporter did not start: {log.read_text()}")


def test_liveness_ends_where_readings_hang(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = KpiExporter(registry.uri, ExportSettings(interval_seconds=60))
    now = time.monotonic()
    monkeypatch.setattr("serving.kpi_exporter.time.monotonic", lambda: now + 299)
    assert exporter.alive
    monkeypatch.setattr("serving.kpi_exporter.time.monotonic", lambda: now + 301)
    assert not exporter.alive


def test_wrong_use_is_named(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="expected a path, file:///PATH or s3://"):
        run_exporter("gs://bucket", ExportSettings())
    with pytest.raises(ConfigError, match="interval_seconds"):
        ExportSettings.parse({"interval_seconds": 0})
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(ConfigError, match="expected a free port"):
            run_exporter(registry.uri, ExportSettings(port=taken.getsockname()[1]))
