"""The bound of docs/sizing.md for the memory of a server's pod, from the chart's own values."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rollout import ServiceSettings
from serving.settings import ServerSettings
from tests.charts.tools import CHART, ROOT

_MIB = 2**20
_SIZING = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
_FORMULA = """\
memory of a pod <= 1 GiB + 2 x model + 3 x max_pending_bytes
                         + (concurrency + 1) x (1.75 x media.max_memory_bytes + 40 x media.max_pixels)"""


def _bound(settings: ServerSettings) -> int:
    """Return what a pod may take, without models, in bytes."""
    media = settings.media
    request = media.max_memory_bytes * 7 // 4 + 40 * media.max_pixels
    return 1024 * _MIB + 3 * settings.max_pending_bytes + (settings.concurrency + 1) * request


@pytest.fixture(scope="module")
def serving() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["serving"]
    return found


def test_the_bound_fits_into_the_limit(serving: dict[str, Any]) -> None:
    assert "\n".join(f"    {line}" for line in _FORMULA.splitlines()) in _SIZING
    limit = int(serving["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024 * _MIB
    left = (limit - _bound(ServerSettings.parse(serving["settings"]))) // _MIB
    assert left >= 2 * 150, "two versions lie in memory while one replaces the other"
    assert f"leaves {left} MiB" in _SIZING


def test_a_rollouts_pods_have_the_same_limit(serving: dict[str, Any]) -> None:
    assert ServiceSettings(image="x").resources.manifest() == serving["resources"]


def test_a_limit_of_media_that_is_not_given_stays() -> None:
    given, own = ServerSettings.parse({"media": {"max_pixels": 7}}).media, ServerSettings().media
    assert given == own.model_copy(update={"max_pixels": 7})
