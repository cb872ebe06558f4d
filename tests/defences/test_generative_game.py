from __future__ import annotations

import pytest
import torch

from dfcore.attacks import BlurGenerator, margin
from dfcore.defences import GenerativeGame
from dfcore.errors import ConfigError
from tests.attacks.conftest import faces
from tests.defences.games import Game, check_autocast, check_craft, check_loss, check_trains, counted, trained
from tests.tolerances import TOLERANCE


def test_keeps_its_promises() -> None:
    check_craft(GenerativeGame(), *faces(5, 8))
    check_loss(GenerativeGame())
    check_loss(GenerativeGame(clean_weight=0))
    check_autocast(GenerativeGame())


def test_the_published_settings_are_the_default() -> None:
    (generator,) = GenerativeGame().attackers().values()
    assert isinstance(generator, BlurGenerator)
    assert generator.learning_rate == 2e-3
    assert GenerativeGame().generator_steps == 3


def test_the_generator_takes_its_steps_then_paints_anew() -> None:
    images, labels = faces(5, 8)
    game, other = (Game(GenerativeGame(), trained()) for _ in range(2))
    with counted(game.twin) as sizes:
        (blurred,) = game.defence.craft(images, labels, game.state())
    assert sizes == [8, 8, 8]
    player = other.players["generator"]
    player.step(other.twin, images, labels, updates=3)
    assert torch.equal(blurred, player.attack(images, labels))
    assert torch.equal(blurred, game.players["generator"].attack(images, labels))


def test_is_the_formula() -> None:
    images, labels = faces(5, 8)
    game = Game(GenerativeGame(), trained().eval())
    (blurred,) = game.defence.craft(images, labels, game.state())
    value, scalars = game.defence.loss(game.detector, images, labels, (blurred,), game.state())
    clean, hard = (game.state().bce(game.detector(item), labels).detach() for item in (images, blurred))
    torch.testing.assert_close(value.detach(), (clean + hard) / 2, **TOLERANCE[torch.float32])
    assert set(scalars) == {"clean_loss", "generator_loss"}


def test_the_generator_learns() -> None:
    game = Game(GenerativeGame(), trained().eval())
    images, labels = faces(77, 32)

    def gain() -> float:
        found = game.players["generator"].attack(images, labels)
        with torch.no_grad():
            before, after = (margin(game.detector, item, labels, 0.5) for item in (images, found))
        return float((after - before).mean())

    untrained = gain()
    for step in range(6):
        game.defence.craft(*faces(2000 + step, 12), game.state())
    assert gain() > untrained + 0.5


def test_without_blur_it_is_plain_training() -> None:
    images, labels = faces(5, 8)
    game = Game(GenerativeGame(max_sigma=0), trained())
    (blurred,) = game.defence.craft(images, labels, game.state())
    assert torch.equal(blurred, images)


def test_trains() -> None:
    check_trains(GenerativeGame(max_sigma=1), "generator_loss", steps=15, size=8)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'generator_steps'"):
        GenerativeGame.parse({"generator_step": 1})
