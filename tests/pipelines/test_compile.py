"""The pipeline compiles where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pipelines
from dfcore.evaluation import SUITES
from dfcore.release import load_policy
from pipelines.compile import PIPELINES
from rampart.demo import SETTINGS

_WITHOUT_TORCH = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "kserve", "av", "cv2"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["pipelines.compile", "--out", sys.argv[1]]
runpy.run_module("pipelines.compile", run_name="__main__")
"""


def test_compiles_without_torch(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.yaml"
    subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, str(out)], check=True, timeout=120)
    document, *_ = yaml.safe_load_all(out.read_text(encoding="utf-8"))
    executors = document["deploymentSpec"]["executors"]
    assert document["pipelineInfo"]["name"] == "train-and-release"
    assert {name.removeprefix("exec-").rstrip("-2") for name in executors} >= {
        "prepare-faces", "train-detector", "evaluate-robustness", "check-release-gate", "publish-bundle",
        "reject-model", "deploy", "write-report",
    }  # fmt: skip
    for executor in executors.values():
        assert "pip install" not in " ".join(executor["container"]["command"])
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", [*PIPELINES, "demo"])
def test_what_the_default_suite_measures_can_pass_the_default_policy(name: str) -> None:
    inputs = {} if name == "demo" else getattr(pipelines, name).component_spec.inputs
    default = SETTINGS if name == "demo" else {key: inputs[key].default for key in ("policy", "suite")}
    required = load_policy(str(default["policy"])).required_scenarios
    measured = {one.name for one in SUITES[str(default["suite"])] if one.role == "report"}
    assert required
    assert set(required) <= measured
