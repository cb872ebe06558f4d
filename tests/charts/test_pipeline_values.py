"""One file for chart and pipelines: every variant's `pipelines:`, read by the pipelines' own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
from dfcore.errors import ConfigError
from pipelines.compile import PIPELINES, build
from pipelines.platform import Platform, load_platform
from tests.charts.tools import CHART, VARIANTS

_IMAGE = f"registry.example/rampart-python@sha256:{'0' * 64}"
_NEEDED = {"image": _IMAGE, "signing": {"secret": "rampart-signing"}}


def _values(variant: str) -> dict[str, Any]:
    """Return what Helm sees: the variant over the defaults."""
    own = yaml.safe_load((CHART / "ci" / f"{variant}-values.yaml").read_text(encoding="utf-8"))
    merged: dict[str, Any] = _over(
        yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")), own or {}
    )
    return merged


def _over(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}


def _load(tmp_path: Path, values: dict[str, Any]) -> Platform:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_platform(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_places_every_pipeline(variant: str, tmp_path: Path) -> None:
    values = _values(variant)
    if "image" not in values["pipelines"]:  # a chart without pipelines
        with pytest.raises(ConfigError, match="image by digest"):
            _load(tmp_path, values)
        values["pipelines"] |= _NEEDED  # all that a run of one asks for
    platform = _load(tmp_path, values)
    for name in PIPELINES:
        assert len(build(name, platform)) == 2


def test_the_audit_gets_what_its_pipeline_needs(tmp_path: Path) -> None:
    audited = [values for variant in VARIANTS if (values := _values(variant))["audit"]["enabled"]]
    assert audited
    for values in audited:
        platform = _load(tmp_path, values)
        given = {*values["audit"]["parameters"], *platform.parameters, "registry", "model_name", "channel"}
        inputs = pipelines.audit_robustness.component_spec.inputs
        assert values["audit"]["parameters"].keys() <= inputs.keys()
        assert {name for name, item in inputs.items() if not item.optional} <= given
        # a pod sees the corpus only where a volume brings it
        root = Path(values["audit"]["parameters"]["data_root"])
        assert any(root.is_relative_to(folder) for folder in platform.volumes.values())


def test_every_step_sees_the_volumes(tmp_path: Path) -> None:
    section: dict[str, Any] = {**_NEEDED, "volumes": {"datasets": "/data", "work": "/cache"}}
    for name in PIPELINES:
        _, placed = build(name, _load(tmp_path, {"pipelines": section}))
        for pod in placed["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            mounts = {
                mount["pvcNameParameter"]["runtimeValue"]["constant"]: mount["mountPath"]
                for mount in pod["pvcMount"]
            }
            assert mounts == section["volumes"]


def test_the_pipelines_rollout_has_the_charts_pods(tmp_path: Path) -> None:
    values = _values("rollout")
    rollout = _load(tmp_path, values).rollout
    assert rollout is not None
    assert rollout.service.trust.existing_config_map == "rampart-trust"
    assert rollout.service.tokens_secret == values["serving"]["tokensSecret"] == "rampart-tokens"
    assert rollout.service.store.existing_secret == values["store"]["existingSecret"] == "rampart-reader"
    del values["pipelines"]["rollout"]["service"]["release"]
    with pytest.raises(ConfigError, match=r"expected pipelines\.rollout\.service\.release"):
        _load(tmp_path, values)


def test_one_file_holds_the_parameters_of_both(tmp_path: Path) -> None:
    section = {**_NEEDED, "parameters": {"num_shards": 16, "checkpoints": "s3://scratch/checkpoints"}}
    platform = _load(tmp_path, {"pipelines": section})
    train, audit = (
        build(name, platform)[0]["root"]["inputDefinitions"]["parameters"]
        for name in ("train_and_release", "audit_robustness")
    )
    assert train["num_shards"]["defaultValue"] == audit["num_shards"]["defaultValue"] == 16
    assert train["checkpoints"]["defaultValue"] == "s3://scratch/checkpoints"
    assert "checkpoints" not in audit


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ({"datasets": "data"}, "absolute folder such as /data for 'datasets'"),
        ({"datasets": "/"}, "absolute folder"),
        ({"datasets": "/data", "work": "/data"}, "folder of its own for each claim"),
    ],
)
def test_a_volume_without_a_place_is_named(tmp_path: Path, volumes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, {"pipelines": {"image": _IMAGE, "volumes": volumes}})
