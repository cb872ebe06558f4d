from __future__ import annotations

import pytest
import torch

from dfcore.attacks import APGD, FAB, PGD, AutoAttackBinary, Square, margin
from dfcore.errors import ConfigError, ShapeError
from dfcore.models import Detector
from tests.attacks.conftest import faces

SMALL = AutoAttackBinary(epsilon=4.5 / 255, steps=12, restarts=2, queries=20)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_at_least_as_strong_as_every_part_and_pgd(trained: Detector) -> None:
    images, labels = faces(80, 16)
    result = SMALL.run(trained, images, labels, generator=generator())
    with torch.no_grad():
        wrong = margin(trained, result.images, labels, 0.5) > 0
    others = [*SMALL.parts, PGD(epsilon=SMALL.epsilon, step_size=1 / 255, steps=12, restarts=2)]
    for other in others:
        found = other(trained, images, labels, generator=generator())
        assert int((margin(trained, found, labels, 0.5) > 0).sum()) <= int(wrong.sum())
    assert 0 < int(wrong.sum()) < 16
    assert sum(result.fooled.values()) == int(wrong.sum())
    assert result.standing == 16 - int(wrong.sum())


def test_says_what_is_in_it(trained: Detector) -> None:
    attack = AutoAttackBinary()
    apgd, fab, square = attack.parts
    assert apgd == APGD(steps=100, restarts=5, until_fooled=True)
    assert fab == FAB(steps=100, restarts=5, until_fooled=True)
    assert square == Square(queries=5000, until_fooled=True)
    assert attack.threat_model.queries == 5000
    images, labels = faces(81, 8)
    labels[:2] = 1 - labels[:2]
    result = SMALL.run(trained, images, labels, generator=generator())
    assert list(result.fooled) == ["clean", "apgd", "fab", "square"]
    assert result.fooled["clean"] == 2
    assert torch.equal(result.images[:2], images[:2])


def test_everything_on_everything_pushes_further(trained: Detector) -> None:
    images, labels = faces(82, 12)
    full = SMALL.model_copy(update={"until_fooled": False, "epsilon": 6 / 255})
    lazy = SMALL.model_copy(update={"epsilon": 6 / 255})
    margins = [
        margin(trained, each(trained, images, labels, generator=generator()), labels, 0.5)
        for each in (full, lazy)
    ]
    assert margins[0].mean() > margins[1].mean()
    assert (margins[0] > 0).sum() >= (margins[1] > 0).sum() - 1


def test_decides_at_the_deployed_threshold(trained: Detector) -> None:
    images, labels = faces(83, 8)
    with torch.no_grad():
        threshold = float(torch.sigmoid(trained(images[1:2]) - 0.05))  # the second image is close to it
    result = SMALL.model_copy(update={"epsilon": 0.5 / 255}).run(
        trained, images, labels, threshold=threshold, generator=generator()
    )
    scores = torch.sigmoid(trained(result.images))
    assert int(((scores >= threshold).long() != labels).sum()) == 8 - result.standing
    assert scores[1] < threshold


def test_bad_input_is_refused(trained: Detector) -> None:
    images, labels = faces(0, 2)
    with pytest.raises(ShapeError, match="labels"):
        SMALL.run(trained, images, labels[:1])
    with pytest.raises(ConfigError, match="threshold"):
        SMALL.run(trained, images, labels, threshold=0.0)
