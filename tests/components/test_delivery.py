"""The deploy step: what it writes, what it refuses before it touches a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.delivery import deliver, manifest_of
from components.release import Address
from dfcore.errors import CheckFailed, ConfigError

_ROLLOUT: dict[str, Any] = {
    "namespace": "serving",
    # what KFP hands over: every number is a float
    "service": {"image": "registry.example/serve@sha256:0", "gpus": 1.0, "replicas": 2.0},
    "analysis": {"prometheus": "http://prometheus:9090", "minimumRequests": 50.0},
    "steps": [5.0, 50.0],
}


def test_the_manifest_is_that_of_the_rollout() -> None:
    address = Address("s3://models/rampart", "faces", "production")
    document = yaml.safe_load(manifest_of(address, "v0001-aaaaaaaa", "unused", _ROLLOUT))
    assert document["metadata"]["namespace"] == "serving"
    assert document["spec"]["predictor"]["minReplicas"] == 2
    assert document["spec"]["predictor"]["containers"][0]["image"] == "registry.example/serve@sha256:0"
    with pytest.raises(ConfigError, match="did you mean 'service'"):
        manifest_of(address, "v0001-aaaaaaaa", "unused", {**_ROLLOUT, "servic": {}})


def test_a_version_that_was_rolled_back_is_not_rolled_out_again(tmp_path: Path) -> None:
    # a retry of the step comes here after the rollback
    address = Address(f"file://{tmp_path}", "faces", "production")
    with pytest.raises(CheckFailed, match="got None: it was rolled back, or somebody promoted another"):
        deliver(address, "v0002-bbbbbbbb", _ROLLOUT)
