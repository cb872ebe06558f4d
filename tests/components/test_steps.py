"""Component bodies that need no corpus, run through `.python_func`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kfp import dsl

import components
from components.progress import counter, say
from components.release import signing_key
from dfcore.release import Decision, Rule


def _decision(folder: Path, promoted: bool) -> dsl.Artifact:
    rule = Rule(name="clean ffpp auc", passed=promoted, value=0.4, bound=0.9, detail="0.4 is below 0.9")
    decision = Decision(promoted=promoted, policy="demo", rules=(rule,), created="2026-01-01T00:00:00Z")
    folder.mkdir()
    (folder / "decision.json").write_text(decision.model_dump_json())
    return dsl.Artifact(name="decision", uri=str(folder))


def test_reject_model_names_every_failed_rule(tmp_path: Path) -> None:
    rejection = dsl.Markdown(name="rejection", uri=str(tmp_path / "rejection.md"))
    address = components.reject_model.python_func(
        decision=_decision(tmp_path / "decision", promoted=False), name="robust", rejection=rejection
    )
    assert address == ""
    assert "- **clean ffpp auc**: 0.4 is below 0.9" in (tmp_path / "rejection.md").read_text()


def test_deploy_writes_a_hardened_inference_service(tmp_path: Path) -> None:
    manifest = dsl.Artifact(name="manifest", uri=str(tmp_path / "isvc.yaml"))
    components.deploy.python_func(
        version="v0001-1a2b3c4d", registry="s3://bucket/registry", name="Deep_Fake", channel="production",
        image="registry.example/rampart@sha256:0", manifest=manifest,
    )  # fmt: skip
    document = yaml.safe_load((tmp_path / "isvc.yaml").read_text())
    (container,) = document["spec"]["predictor"]["containers"]
    assert document["kind"] == "InferenceService"
    assert document["metadata"]["name"] == "deep-fake"
    assert document["metadata"]["annotations"]["rampart.io/model-version"] == "v0001-1a2b3c4d"
    # the version, not the channel: what serves changes by a rollout only
    assert "registry://Deep_Fake@v0001-1a2b3c4d" in container["command"]
    assert container["securityContext"]["runAsNonRoot"] is True
    assert {"name": "RAMPART_REGISTRY", "value": "s3://bucket/registry"} in container["env"]


def test_signing_key_lies_beside_a_registry_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAMPART_SIGNING_KEY", raising=False)
    assert signing_key("file:///data/registry") == Path("/data/rampart.key")
    assert signing_key("s3://bucket") == Path.home() / ".config" / "rampart" / "rampart.key"
    monkeypatch.setenv("RAMPART_SIGNING_KEY", "/keys/k.pem")
    assert signing_key("s3://bucket") == Path("/keys/k.pem")


def test_progress_lines_are_few_and_the_last_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    say("train robust", "starts")
    report = counter("prepare ffpp", "videos")
    for done in range(1, 101):
        report(done, 100)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "[train robust] starts"
    assert lines[-1] == "[prepare ffpp] 100/100 videos"
    assert len(lines) < 10
