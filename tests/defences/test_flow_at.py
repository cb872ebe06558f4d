from __future__ import annotations

import pytest
import torch

from dfcore.attacks import Flow
from dfcore.defences import FlowAdversarialTraining
from dfcore.errors import ConfigError
from tests.attacks.conftest import faces
from tests.defences.games import Game, check_autocast, check_craft, check_loss, check_trains, trained
from tests.tolerances import TOLERANCE


def test_keeps_its_promises() -> None:
    check_craft(FlowAdversarialTraining(), *faces(5, 8))
    check_loss(FlowAdversarialTraining())
    check_loss(FlowAdversarialTraining(clean_weight=0))
    check_autocast(FlowAdversarialTraining())


def test_is_the_formula() -> None:
    images, labels = faces(5, 8)
    defence = FlowAdversarialTraining(max_flow=1.5, clean_weight=0.25)
    game = Game(defence, trained().eval())
    (warped,) = defence.craft(images, labels, game.state())
    expected = Flow(max_flow=1.5, steps=2, step_size=0.5, keep_best=False)(game.detector, images, labels)
    torch.testing.assert_close(warped, expected, **TOLERANCE[torch.float32])
    value, scalars = defence.loss(game.detector, images, labels, (warped,), game.state())
    clean, hard = (game.state().bce(game.detector(item), labels).detach() for item in (images, warped))
    torch.testing.assert_close(value.detach(), 0.25 * clean + 0.75 * hard, **TOLERANCE[torch.float32])
    assert set(scalars) == {"clean_loss", "flow_loss"}
    assert float(hard) > float(clean)


def test_without_flow_it_is_plain_training() -> None:
    images, labels = faces(5, 8)
    defence = FlowAdversarialTraining(max_flow=0)
    game = Game(defence, trained().eval())
    (warped,) = defence.craft(images, labels, game.state())
    assert torch.equal(warped, images)


def test_trains() -> None:
    check_trains(FlowAdversarialTraining(), "flow_loss")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_flow'"):
        FlowAdversarialTraining.parse({"max_flows": 1})
