"""A rollout's values in a chart's values file."""

from __future__ import annotations

from typing import Any

import pytest

from dfcore.errors import ConfigError
from rollout import RolloutSettings, rollout_values
from tests.rollout.test_settings import BASE

_DIGEST = f"sha256:{'1' * 64}"
_CHART: dict[str, Any] = {
    "image": {"digest": _DIGEST, "pullPolicy": "Always"},
    "store": {"uri": "s3://models/registry", "endpoint": "http://minio:9000", "existingSecret": "reader"},
    "trust": {"existingConfigMap": "signer"},
    "serving": {"mode": "kserve", "gpus": 2, "settings": {"max_instances": 3}, "tokensSecret": "tokens"},
    "kserve": {"deploymentMode": "Knative"},
    "podSecurity": {"runAsUser": None},
    "pipelines": {
        "image": "another",
        "rollout": {
            "namespace": "serving",
            "service": {"release": "rampart", "gpus": 1, "store": {"existingSecret": "other"}},
            "analysis": {"prometheus": "http://prometheus:9090"},
        },
    },
}


def test_the_charts_keys_hold_and_the_rollout_changes_single_ones() -> None:
    settings = RolloutSettings.parse(rollout_values(_CHART))
    service = settings.service
    assert service.image == f"ghcr.io/rampart/rampart-serve@{_DIGEST}"
    assert (service.image_pull_policy, settings.mode, service.gpus) == ("Always", "knative", 1)
    assert (service.store.endpoint, service.store.existing_secret) == ("http://minio:9000", "other")
    assert (service.trust.existing_config_map, service.tokens_secret) == ("signer", "tokens")
    assert service.pod_security.run_as_user is None
    assert service.pod_security.fs_group == 65532


def test_what_the_rollout_says_comes_first() -> None:
    rollout = {**_CHART["pipelines"]["rollout"], "mode": "standard"}
    rollout["service"] = {"release": "", "image": "registry.example/serve:3", "tokensSecret": ""}
    settings = RolloutSettings.parse(rollout_values({**_CHART, "pipelines": {"rollout": rollout}}))
    assert (settings.mode, settings.service.image) == ("standard", "registry.example/serve:3")


def test_a_tag_and_a_repository() -> None:
    image = {"repository": "registry.example/serve", "tag": "9"}
    found = rollout_values({**_CHART, "image": image})
    assert found["service"]["image"] == "registry.example/serve:9"


def test_a_chart_without_an_image_of_its_own_leaves_it_to_the_rollout() -> None:
    with pytest.raises(ConfigError, match=r"service\.image"):
        RolloutSettings.parse(rollout_values({**_CHART, "image": {}}))


def test_a_chart_must_name_its_release() -> None:
    with pytest.raises(ConfigError, match=r"expected pipelines\.rollout\.service\.release, the chart's name"):
        rollout_values({"pipelines": {"rollout": BASE}})


@pytest.mark.parametrize("document", [BASE, {"rollout": BASE}, {"rollout": BASE, "pipelines": None}])
def test_without_a_chart_nothing_is_added(document: dict[str, Any]) -> None:
    assert rollout_values(document) == BASE


def test_what_is_no_mapping_is_left_to_the_settings() -> None:
    with pytest.raises(ConfigError, match="rollout"):
        RolloutSettings.parse(rollout_values(["steps"]), "rollout")
