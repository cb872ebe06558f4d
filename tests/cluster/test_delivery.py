"""The deploy step on a real cluster: the registry's channel follows what is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.delivery import deliver
from components.release import Address
from dfcore.errors import CheckFailed
from dfcore.release import Registry
from rollout.cluster import INFERENCE_SERVICE
from rollout.manifests import version_of
from tests.cluster.test_rollout import Site, site
from tests.release.conftest import built, bundle, parts, public_key, second

__all__ = ["built", "bundle", "parts", "public_key", "second", "site"]  # fixtures


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address(f"file://{tmp_path / 'registry'}", "faces", "production")


@pytest.mark.timeout(600)
def test_a_rollback_moves_the_channel_back(
    site: Site,
    address: Address,
    bundle: Path,
    second: Path,
    public_key: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rollout.Cluster.connect", lambda _: site.cluster)
    registry = Registry(address.registry)
    one = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", one, "production", "ci", "gate passed")
    rollout = site.settings.model_dump(mode="json", by_alias=True)
    deliver(address, one, rollout)
    assert version_of(site.cluster.get(INFERENCE_SERVICE, "faces")) == one

    two = registry.publish("faces", second, public_key=public_key)
    registry.promote("faces", two, "production", "ci", "gate passed")
    site.says[0] = lambda _: []
    with pytest.raises(CheckFailed, match=rf"expected {two} to be no worse than {one}, got: requests"):
        deliver(address, two, rollout)
    assert registry.channels("faces") == {"production": one}
    assert "rolled back: requests" in registry.log("faces")[-1].why
    with pytest.raises(CheckFailed, match="nothing is rolled out"):
        deliver(address, two, rollout)  # as KFP's retry does


@pytest.mark.timeout(600)
def test_a_first_version_that_fails_has_nowhere_to_go_back(
    site: Site, address: Address, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.Cluster.connect", lambda _: site.cluster)
    registry = Registry(address.registry)
    one = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", one, "production", "ci", "gate passed")
    service = site.settings.service.model_dump(mode="json", by_alias=True)
    rollout = site.changed(service={**service, "gpus": 9}, readySeconds=3)
    with pytest.raises(CheckFailed, match="no worse than None"):
        deliver(address, one, rollout.model_dump(mode="json", by_alias=True))
    assert registry.channels("faces") == {"production": one}
