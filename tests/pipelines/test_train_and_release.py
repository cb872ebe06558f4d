"""The whole pipeline through KFP's own local runner, on a real small corpus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dfcore.data.synthetic import synthesize
from dfcore.errors import ConfigError, DataError
from dfcore.release import Registry, read_audits
from rampart.local_run import child_environment, run_locally
from rampart.steps import Steps

# Sees to it that a model is released whatever one short epoch achieves; fails closed all the same.
_POLICY = """
name: anything
floors:
  - {scenario: clean, corpus: ffpp, metric: auc, at_least: 0.0}
require_valid_guards: false
"""
_TINY = [
    "optimiser.epochs=1",
    "optimiser.warmup_epochs=0",
    "model.backbone=resnet10t",
    "model.image_size=64",
    "data.max_train_crops=16",
    "data.batch_size=8",
    "validation.crops=8",
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("corpora")
    policy = root / "policy.yaml"
    policy.write_text(_POLICY)
    return {
        "data_root": str(synthesize("ffpp", root / "ffpp", identities=6, seed=1)),
        "cross_root": str(synthesize("celebdf", root / "celebdf", identities=6, seed=1)),
        "registry": f"file://{root / 'registry'}",
        "preprocessing": {"image_size": 64, "frames_per_video": 2},
        "baseline_recipe": "demo_baseline",
        "robust_recipe": "demo_robust",
        "baseline_overrides": _TINY,
        "robust_overrides": [*_TINY, "defence.warmup_epochs=0"],
        "frames_per_video": 1,
        "policy": str(policy),
        "suite": "quick",
        "cache": str(root / "cache"),
    }


@pytest.mark.timeout(900)
def test_releases_then_reuses_then_rejects(arguments: dict[str, object], tmp_path: Path) -> None:
    with Steps() as steps:
        outputs = run_locally(arguments, tmp_path / "first", steps)
    registry = Registry(str(arguments["registry"]))
    assert outputs["uri"] == "registry://deepfake@production"
    assert registry.channels("deepfake") == {"production": outputs["version"]}
    bundle = registry.verify("deepfake", "production")
    assert {"weights.safetensors", "evidence.json", "report.html", "signature.json"} <= {
        path.name for path in bundle.iterdir()
    }
    manifests = list((tmp_path / "first" / "artifacts").glob("*/deploy/manifest"))
    assert len(manifests) == 1
    assert outputs["version"] in manifests[0].read_text()
    assert set(steps.seconds) >= {
        "prepare ffpp", "prepare celebdf", "train baseline", "train robust", "evaluate baseline",
        "evaluate robust", "gate baseline", "gate robust", "report", "publish", "deploy",
    }  # fmt: skip
    assert not steps.reused

    # Unchanged work is reused, and the strict policy stops what the lenient one let through.
    with Steps() as again:
        stopped = run_locally({**arguments, "policy": "strict"}, tmp_path / "second", again)
    assert stopped["uri"] == stopped["version"] == ""
    assert set(again.reused) == {
        "prepare ffpp",
        "prepare celebdf",
        "train baseline",
        "train robust",
        "evaluate baseline",
        "evaluate robust",
    }
    assert registry.channels("deepfake") == {"production": outputs["version"]}
    decision = json.loads((Path(stopped["robust_decision"]) / "decision.json").read_text())
    assert not decision["promoted"]
    _audit(arguments, outputs["version"], tmp_path / "audit")


def _audit(arguments: dict[str, object], version: str, out: Path) -> None:
    """Attack what is served again: a required figure is missing, so the run fails; the record stays."""
    policy = out.with_suffix(".yaml")
    policy.write_text(_POLICY.replace("anything", "more") + "required_scenarios: [autoattack_2_255]\n")
    order = {
        "data_root": arguments["data_root"], "registry": arguments["registry"], "cache": arguments["cache"],
        "preprocessing": arguments["preprocessing"], "frames_per_video": 1, "suite": "quick",
        "policy": str(policy),
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines.run", "--pipeline", "audit_robustness", "--out", str(out)]
    done = subprocess.run(
        command, input=json.dumps(order), env=child_environment(out), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"expected {version} to hold its policy" in done.stdout + done.stderr
    (record,) = read_audits(Registry(str(arguments["registry"])), "deepfake", version)
    assert record.regressed
    assert record.audit == f"{record.created:%Y-%m-%d}-seed{record.created:%Y%m%d}"
    assert (record.policy, record.suite, record.channel) == ("more", "quick", "production")


def test_a_folder_that_is_no_data_set_stops_the_run(arguments: dict[str, object], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    roots = {"data_root": str(empty), "cross_root": str(empty)}
    with Steps() as steps, pytest.raises(DataError, match="empty"):
        run_locally({**arguments, **roots}, tmp_path / "run", steps)
    assert not (tmp_path / "run" / "outputs.json").exists()


def test_an_unknown_parameter_is_named(arguments: dict[str, object], tmp_path: Path) -> None:
    with Steps() as steps, pytest.raises(ConfigError, match="did you mean 'policy'"):
        run_locally({**arguments, "polici": "demo"}, tmp_path / "run", steps)
