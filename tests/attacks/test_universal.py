from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfcore.attacks import RandomNoise, Universal, build_attack, margin
from dfcore.errors import ConfigError, DataError, ShapeError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.test_transfer import Secret

ATTACK = Universal(epsilon=8 / 255, step_size=1 / 255, steps=40, batch_size=16)


@pytest.fixture(scope="module")
def fitted(trained: Detector) -> Universal:
    return ATTACK.fit(trained, *faces(110, 48), generator=torch.Generator().manual_seed(0))


def test_one_change_for_each_class_hurts_images_that_it_never_saw(
    fitted: Universal, trained: Detector
) -> None:
    images, labels = faces(111, 32)
    found = fitted(Secret(), images, labels)  # the detector is not asked any more
    delta = found - images
    inside = (images > 0.05) & (images < 0.95)
    for label in (0, 1):
        own = delta[labels == label]
        known = inside[labels == label]
        spread = torch.where(known, own - fitted.delta[label], 0.0).abs().max()
        assert spread < 1e-6, "not one change for all"
    noise = RandomNoise(epsilon=8 / 255)(trained, images, labels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean, blind, moved = (margin(trained, each, labels, 0.5) for each in (images, noise, found))
    for label in (0, 1):
        gain = (moved - clean)[labels == label].mean()
        assert gain > 2 * (blind - clean)[labels == label].mean().abs()


def test_fitting_reports_and_leaves_the_detector_alone(trained: Detector) -> None:
    seen: list[tuple[int, int]] = []
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    attack = ATTACK.model_copy(update={"steps": 3})
    fitted = attack.fit(
        trained, *faces(112, 8), generator=torch.Generator().manual_seed(0),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    again = attack.fit(trained, *faces(112, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(fitted.delta, again.delta)
    with pytest.raises(ConfigError, match="fit"):
        _ = attack.delta


def test_is_saved_and_read_back(fitted: Universal, tmp_path: Path) -> None:
    saved = fitted.save(tmp_path / "universal.safetensors")
    images, labels = faces(113, 4)
    read = build_attack(saved.describe())
    assert torch.equal(read(Secret(), images, labels), fitted(Secret(), images, labels))


def test_bad_input_is_refused(fitted: Universal, trained: Detector, tmp_path: Path) -> None:
    images, labels = faces(0, 4)
    with pytest.raises(ConfigError, match="call fit"):
        ATTACK(trained, images, labels)
    with pytest.raises(ConfigError, match="no fake one"):
        ATTACK.fit(trained, images, torch.zeros(4).long())
    with pytest.raises(ShapeError, match="labels"):
        ATTACK.fit(trained, images, labels[:1])
    with pytest.raises(ShapeError, match="of this size"):
        fitted(trained, *faces(0, 2, side=32))
    with pytest.raises(DataError, match="safetensors file"):
        ATTACK.model_copy(update={"weights": tmp_path / "none"})(trained, images, labels)
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(DataError, match="expected a tensor 'delta'"):
        ATTACK.model_copy(update={"weights": tmp_path / "other"})(trained, images, labels)
