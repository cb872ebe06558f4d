from __future__ import annotations

import pytest
import torch

from dfcore.attacks import PixelBlur, margin
from dfcore.defences import BlurAdversarialTraining
from dfcore.errors import ConfigError
from tests.attacks.conftest import faces
from tests.defences.games import Game, check_autocast, check_craft, check_loss, check_trains, counted, trained
from tests.tolerances import TOLERANCE


def test_keeps_its_promises() -> None:
    check_craft(BlurAdversarialTraining(), *faces(5, 8))
    check_loss(BlurAdversarialTraining())
    check_loss(BlurAdversarialTraining(clean_weight=0))
    check_autocast(BlurAdversarialTraining())


def test_is_the_formula_with_the_attack_of_the_paper() -> None:
    images, labels = faces(5, 8)
    game = Game(BlurAdversarialTraining(), trained().eval())
    (blurred,) = game.defence.craft(images, labels, game.state())
    attack = PixelBlur(max_sigma=2, window=3, steps=1, step_size=1, keep_best=False)
    expected = attack(game.detector, images, labels, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blurred, expected, **TOLERANCE[torch.float32])
    assert not torch.equal(blurred, images)
    value, scalars = game.defence.loss(game.detector, images, labels, (blurred,), game.state())
    clean, hard = (game.state().bce(game.detector(item), labels).detach() for item in (images, blurred))
    torch.testing.assert_close(value.detach(), (clean + hard) / 2, **TOLERANCE[torch.float32])
    assert set(scalars) == {"clean_loss", "blur_loss"}


def test_attacked_images_alone() -> None:
    images, labels = faces(5, 8)
    defence = BlurAdversarialTraining(clean_weight=0)
    game = Game(defence, trained())
    with counted(game.detector) as sizes:
        _, scalars = defence.loss(game.detector, images, labels, (images,), game.state())
    assert sizes == [8]
    assert set(scalars) == {"blur_loss"}


def test_without_blur_it_is_plain_training() -> None:
    images, labels = faces(5, 8)
    defence = BlurAdversarialTraining(max_sigma=0)
    game = Game(defence, trained().eval())
    (blurred,) = defence.craft(images, labels, game.state())
    assert torch.equal(blurred, images)
    value, _ = defence.loss(game.detector, images, labels, (blurred,), game.state())
    plain = game.state().bce(game.detector(images), labels)
    torch.testing.assert_close(value, plain, **TOLERANCE[torch.float32])


def test_learns_to_see_blurred_fakes() -> None:
    # twice as much would leave nothing of these fakes' trace
    game = check_trains(BlurAdversarialTraining(max_sigma=0.6), "blur_loss")
    images, labels = faces(77, 64)
    attack = PixelBlur(max_sigma=0.6, window=3)
    wrong = []
    for detector in (trained().eval(), game.detector.eval()):
        found = attack(detector, images, labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wrong.append(float((margin(detector, found, labels, 0.5) > 0).float().mean()))
    assert wrong[1] < wrong[0] / 2


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected an odd window, got 4"):
        BlurAdversarialTraining.parse({"window": 4})
    with pytest.raises(ConfigError, match="did you mean 'max_sigma'"):
        BlurAdversarialTraining.parse({"max_sigmas": 1})
