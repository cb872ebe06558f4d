"""The platform's values: what they give each step, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dfcore.errors import ConfigError
from pipelines.compile import build
from pipelines.platform import STEPS, Platform, load_platform

VALUES = Path(__file__).with_name("values.yaml")


def _load(tmp_path: Path, **changes: Any) -> Platform:
    document = yaml.safe_load(VALUES.read_text(encoding="utf-8")) | changes
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_platform(path)


def test_a_step_has_the_defaults_and_what_is_its_own() -> None:
    platform = load_platform(VALUES)
    train, scan = platform.step("train_detector"), platform.step("scan_data")
    assert (train.gpus, train.node_selector, train.shared_memory) == (4, {"pool": "gpu"}, "8Gi")
    assert train.limits == {"cpu": "16", "memory": "64Gi"}
    assert train.tolerations[0].manifest() == {
        "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule",
    }  # fmt: skip
    assert (scan.gpus, scan.node_selector, scan.retries, scan.backoff) == (0, {"pool": "cpu"}, 2, "60s")


def test_a_charts_values_hold_them_too(tmp_path: Path) -> None:
    path = tmp_path / "chart.yaml"
    own = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    own["rollout"]["service"]["release"] = ""
    path.write_text(yaml.safe_dump({"inferenceService": {}, "pipelines": own}), encoding="utf-8")
    assert load_platform(path) == load_platform(VALUES)


def test_every_component_is_a_step() -> None:
    import components

    assert sorted(components.__all__) == sorted(STEPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "ghcr.io/rampart/rampart:1.0"}, "by digest"),
        ({"imagePulPolicy": "Never"}, "did you mean 'imagePullPolicy'"),
        ({"steps": {"train_detectr": {}}}, "unknown step 'train_detectr'; did you mean 'train_detector'"),
        ({"defaults": {"backoff": "soon"}}, "duration such as 60s"),
        ({"defaults": {"sharedMemory": "much"}}, "size such as 8Gi"),
        ({"defaults": {"gpus": 9}}, "less than or equal to 8"),
        ({"user": 0}, "greater than or equal to 1"),
        ({"rollout": {"namespace": "x"}}, "rollout.service"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, **changes)


def test_files_that_are_no_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected values at"):
        load_platform(tmp_path / "none.yaml")
    path = tmp_path / "values.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_platform(path)
    path.write_text("- a", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping of values"):
        load_platform(path)


def test_a_pipeline_that_signs_needs_a_key_that_stays(tmp_path: Path) -> None:
    """Without one each run makes its own, and the registry refuses the second signer."""
    platform = _load(tmp_path, signing={})
    with pytest.raises(ConfigError, match=r"expected signing\.secret .* --from-file=rampart\.key"):
        build("train_and_release", platform)
    assert len(build("audit_robustness", platform)) == 2, "an audit signs nothing"


def test_an_unknown_parameter_or_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'registry'"):
        build("train_and_release", _load(tmp_path, parameters={"registri": "s3://x"}))
    with pytest.raises(ConfigError, match="did you mean 'train_and_release'"):
        build("train_and_releas")
