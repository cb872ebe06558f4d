"""Explanations as a whole: what they hold, and what they cost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dfcore.errors import ConfigError, ShapeError
from dfcore.explain import REGIONS, FrequencyConfig, explain, grad_cam
from dfcore.models import Detector, DetectorConfig, build_detector

FACE = np.array([[[19.2, 25.8], [36.8, 25.8], [28.0, 35.9], [20.8, 46.2], [35.4, 46.1]]])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector(DetectorConfig(backbone="resnet10t", image_size=64)).eval()


def _images(n: int = 3) -> torch.Tensor:
    return torch.rand((n, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def _landmarks(n: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.repeat(FACE, n, axis=0)


def test_holds_what_the_parts_give(detector: Detector) -> None:
    found = explain(detector, _images(), _landmarks())
    np.testing.assert_array_equal(found.cams, grad_cam(detector, _images()))
    with torch.no_grad():
        np.testing.assert_allclose(found.logits, detector(_images()).numpy(), atol=1e-5)
    assert found.logits.dtype == np.float32
    assert list(found.energies) == list(found.areas) == list(REGIONS)
    seen = found.cams.any(axis=(1, 2))
    assert seen.any()
    np.testing.assert_allclose(sum(found.energies.values())[seen], 1)  # type: ignore[index]
    np.testing.assert_allclose(sum(found.areas.values()), 1)
    assert found.frequency is None
    assert found.target == "fake"


def test_costs_one_forward_and_one_backward_pass(detector: Detector) -> None:
    seen: list[int] = []
    with detector.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0]))):
        explain(detector, _images(5), _landmarks(5), batch_size=2)
    assert seen == [2, 2, 1]


def test_a_frequency_curve_is_on_demand(detector: Detector) -> None:
    found = explain(detector, _images(2), frequency=FrequencyConfig(bands=3, draws=1))
    assert found.frequency is not None
    assert found.frequency.response.shape == (2, 3)


def test_without_landmarks_no_part_is_known(detector: Detector) -> None:
    found = explain(detector, _images(2), target="decision")
    assert (found.regions == -1).all()
    assert all(np.isnan(values).all() for values in found.energies.values())
    assert found.target == "decision"


def test_no_images(detector: Detector) -> None:
    found = explain(detector, _images(0), _landmarks(0))
    assert found.cams.shape == (0, 64, 64)
    assert found.logits.shape == found.energies["eyes"].shape == (0,)


def test_wrong_input_is_refused(detector: Detector) -> None:
    with pytest.raises(ShapeError, match="landmarks of 3 images, got 2"):
        explain(detector, _images(), _landmarks(2))
    with pytest.raises(ShapeError, match=r"landmarks \(N, 5, 2\)"):
        explain(detector, _images(), np.zeros((3, 10)))
    with pytest.raises(ShapeError, match=r"expected images \(N, 3, H, W\)"):
        explain(detector, _images()[0])
    with pytest.raises(ConfigError, match="CAM target"):
        explain(detector, _images(), target="real")  # type: ignore[arg-type]


def test_the_example_of_the_guide_runs() -> None:
    guide = Path(__file__).parents[2] / "docs" / "explanations.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(guide), "exec"), {})  # noqa: S102  # our own text
