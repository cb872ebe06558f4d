from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dfcore.attacks import APGD, MIFGSM, PGD, Ensemble, RandomNoise, Transfer, build_attack, margin
from dfcore.errors import ConfigError, DataError
from dfcore.models import DetectorCard, DetectorConfig, build_detector, save_detector
from dfcore.models.detector import Detector
from tests.attacks.conftest import faces


class Secret(nn.Module):
    """A detector that must not be asked."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a transfer attack does not have this detector")


def test_hurts_a_detector_that_it_never_asks(trained: Detector, sibling: Detector) -> None:
    images, labels = faces(100, 24)
    attack = Transfer(attack=MIFGSM(epsilon=8 / 255, step_size=1 / 255, steps=16)).using([sibling])
    found = attack(Secret(), images, labels)
    noise = RandomNoise(epsilon=8 / 255)(trained, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean, blind, moved = (margin(trained, each, labels, 0.5).mean() for each in (images, noise, found))
    assert moved - clean > 3 * (blind - clean).abs()
    white = attack.attack(trained, images, labels)
    assert margin(trained, white, labels, 0.5).mean() > moved


def test_two_surrogates_share_the_gradient(trained: Detector, sibling: Detector) -> None:
    """With the detector itself among them the attack comes closer to the white-box one."""
    images, labels = faces(101, 12)
    inner = PGD(epsilon=8 / 255, step_size=2 / 255, steps=8)
    reached = [
        margin(trained, Transfer(attack=inner).using(chosen)(Secret(), images, labels), labels, 0.5).mean()
        for chosen in ([sibling], [sibling, trained], [trained])
    ]
    assert reached[0] < reached[1] < reached[2]


def test_an_ensemble_decides_at_each_detectors_own_threshold_and_size(sibling: Detector) -> None:
    other = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=3).eval()
    sibling.threshold = 0.8
    try:
        images, _ = faces(102, 4)
        ensemble = Ensemble([sibling, other]).eval()
        bigger = nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        expected = (sibling(images) - torch.logit(torch.tensor(0.8)) + other(bigger)) / 2
        torch.testing.assert_close(ensemble(images), expected)
    finally:
        sibling.threshold = 0.5


def test_surrogates_are_loaded_from_their_addresses(tmp_path: Path) -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=1)
    card = DetectorCard(architecture=detector.config, preprocessing={"image_size": 32}, threshold=0.4)
    save_detector(tmp_path / "surrogate", detector, card)
    images, labels = faces(103, 4, side=32)
    attack = build_attack(
        {
            "kind": "transfer",
            "surrogates": [str(tmp_path / "surrogate")],
            "attack": {"kind": "apgd", "epsilon": "4/255", "steps": 3},
        }
    )
    assert isinstance(attack, Transfer)
    found = attack(Secret(), images, labels, generator=torch.Generator().manual_seed(0))
    expected = APGD(epsilon=4 / 255, steps=3)(
        detector, images, labels, threshold=0.4, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
    assert float(((found - expected).abs() < 1e-5).float().mean()) > 0.9
    assert attack.describe()["surrogates"] == [str(tmp_path / "surrogate")]
    with pytest.raises(DataError, match="no folder"):
        Transfer(surrogates=(str(tmp_path / "none"),))(Secret(), images, labels)


def test_no_surrogate_is_refused(trained: Detector) -> None:
    images, labels = faces(0, 2)
    with pytest.raises(ConfigError, match="at least one surrogate"):
        Transfer()(trained, images, labels)
    with pytest.raises(ConfigError, match="at least one surrogate"):
        Transfer().using([])


def test_says_that_it_is_transferred() -> None:
    threat = Transfer(attack=PGD(epsilon=4 / 255, steps=7)).threat_model
    assert threat.model_dump(mode="json", exclude_none=True) == {
        "knowledge": "transfer", "norm": "linf", "epsilon": "4/255", "steps": 7, "restarts": 1,
    }  # fmt: skip
