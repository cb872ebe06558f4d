from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from benchmarks.dual_game_peer import NaiveDualGame
from dfcore.attacks import PGD, UNetAttack, margin
from dfcore.defences import DualAttackerGame
from dfcore.errors import ConfigError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.defences.games import (
    Game,
    Losses,
    PlainNet,
    check_autocast,
    check_craft,
    check_loss,
    check_trains,
    counted,
    fresh,
    players_of,
    trained,
)  # fmt: skip
from tests.tolerances import BALL, TOLERANCE

Mode = Literal["alternating", "joint"]
MODES: tuple[Mode, ...] = ("alternating", "joint")
SHORT = DualAttackerGame(steps=3, unet_learning_rate=3e-3)


def short(mode: Mode) -> DualAttackerGame:
    return SHORT.model_copy(update={"mode": mode})


@pytest.mark.parametrize("mode", MODES)
def test_keeps_its_promises(mode: Mode) -> None:
    check_craft(short(mode), *faces(5, 8))
    check_loss(short(mode))
    check_loss(short(mode), smoothing=0.05)
    check_autocast(short(mode))


def test_the_published_settings_are_the_default() -> None:
    game = DualAttackerGame()
    pgd, unet = game.attack_at(0), game.attackers()["unet"]
    assert isinstance(pgd, PGD)
    assert (pgd.epsilon, pgd.step_size, pgd.steps, pgd.random_start) == (8 / 255, 2 / 255, 10, True)
    assert isinstance(unet, UNetAttack)
    assert (unet.epsilon, unet.learning_rate) == (8 / 255, 1e-4)
    assert unet.tv_weight > 1e-3, "the published weight binds nothing"


def test_is_the_formula() -> None:
    images, labels = faces(5, 8)
    defence = SHORT.model_copy(update={"clean_weight": 0.5, "pgd_weight": 2.0, "unet_weight": 0.25})
    game = Game(defence, trained().eval(), smoothing=0.05)
    game.run(2)
    game.detector.eval()
    attacked = defence.craft(images, labels, game.state())
    with counted(game.detector) as sizes:
        value, scalars = defence.loss(game.detector, images, labels, attacked, game.state())
    assert sizes == [24]
    terms = [game.state().bce(game.detector(item), labels).detach() for item in (images, *attacked)]
    expected = 0.5 * terms[0] + 2 * terms[1] + 0.25 * terms[2]
    torch.testing.assert_close(value.detach(), expected, **TOLERANCE[torch.float32])
    assert set(scalars) == {"clean_loss", "pgd_loss", "unet_loss"}
    assert scalars["pgd_loss"] > scalars["clean_loss"]
    for item in attacked:
        assert float((item - images).abs().max()) <= defence.epsilon + BALL


def _curves(detector: Detector, steps: int) -> tuple[list[Losses], list[Losses], Game, NaiveDualGame]:
    """The loss curves of the game and of the naive loop, from the same start on the same batches."""
    quick = SHORT.model_copy(update={"unet_learning_rate": 1e-2})
    game = Game(quick, detector, seed=3)
    twin = copy.deepcopy(detector)
    naive = NaiveDualGame(
        quick, twin, torch.optim.AdamW(twin.parameters(), lr=2e-3), players_of(quick, seed=3)["unet"]
    )
    generator = torch.Generator().manual_seed(3)
    ours, theirs = [], []
    for step in range(steps):
        images, labels = faces(3000 + step, 16)
        ours.append(game.step(images, labels))
        record = naive.step(images, labels, generator)
        theirs.append({name: float(value) for name, value in record.items()})
    return ours, theirs, game, naive


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        pytest.param(lambda: fresh(PlainNet), 1e-5, id="no batch norm"),
        pytest.param(trained, 1e-3, id="batch norm in eval"),
    ],
)
def test_alternating_is_the_naive_loop(build: Callable[[], Detector], tolerance: float) -> None:
    ours, theirs, game, naive = _curves(build().eval(), 8)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=tolerance)
    images, labels = faces(9, 8)
    painted = game.players["unet"].attack(images, labels), naive.player.attack(images, labels)
    torch.testing.assert_close(*painted, rtol=0, atol=tolerance)
    assert float((painted[0] - images).abs().mean()) > 0.5 / 255, "the U-Net has not played"
    # and both end at the same weights
    for value, expected in zip(game.detector.parameters(), naive.detector.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=10 * tolerance)


def test_joint_saves_the_unets_own_pass() -> None:
    images, labels = faces(5, 8)
    passes = {}
    for mode in MODES:
        game = Game(short(mode), trained())
        with counted(game.detector) as training, counted(game.twin) as crafting:
            game.step(images, labels)
        passes[mode] = (training, len(crafting))
    assert passes == {"alternating": ([24], 3 + 1), "joint": ([16, 8], 3)}


def test_joint_trains_the_unet_like_its_own_step() -> None:
    """The detector is in training mode, but for batch norm where the U-Net's images pass."""
    images, labels = faces(5, 8)
    game, other = (Game(short("joint"), trained(), smoothing=smoothing) for smoothing in (0.0, 0.05))
    alternating = Game(short("alternating"), trained())
    for each in (game, other):
        for norm in (each.detector.backbone.body[1], each.detector.backbone.body[4]):
            norm.momentum = 0.0  # the clean pass would move what the U-Net's sees
        each.step(images, labels)
    alternating.players["unet"].step(alternating.detector, images, labels)
    probe = faces(6, 8)
    expected = alternating.players["unet"].attack(*probe)
    assert not torch.equal(expected, probe[0])
    for each in (game, other):
        torch.testing.assert_close(each.players["unet"].attack(*probe), expected, rtol=0, atol=1e-4)


def test_joint_leaves_the_detectors_gradient_alone() -> None:
    images, labels = faces(5, 8)
    game = Game(short("joint"), trained().eval(), smoothing=0.05)
    player = game.players["unet"]
    for _ in range(3):
        player.step(game.detector, images, labels)
    state = game.state()
    (ascended,) = game.defence.craft(images, labels, state)
    loss, _ = game.defence.loss(game.detector, images, labels, (ascended,), state)
    loss.backward()
    joint = [value.grad.clone() for value in game.detector.parameters() if value.grad is not None]
    game.optimiser.zero_grad()
    game.defence.finish(state)
    again = Game(short("joint"), trained().eval(), smoothing=0.05).players["unet"]
    for _ in range(3):
        again.step(game.detector, images, labels)
    total = sum(
        state.bce(game.detector(item), labels) for item in (images, ascended, again.attack(images, labels))
    )
    assert isinstance(total, torch.Tensor)
    total.backward()
    for value, expected in zip(game.detector.parameters(), joint, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("mode", MODES)
def test_the_unet_learns_and_the_detector_too(mode: Mode) -> None:
    images, labels = faces(77, 32)
    frozen = trained().eval()
    game = check_trains(short(mode), "pgd_loss", steps=15)
    attack = game.players["unet"].attack(images, labels)
    with torch.no_grad():
        gain = margin(frozen, attack, labels, 0.5) - margin(frozen, images, labels, 0.5)
    assert float(gain.mean()) > 0.5, "what it learned in the game hurts the detector that it started against"
    assert float((attack - images).abs().max()) <= SHORT.epsilon + BALL


@pytest.mark.parametrize("mode", MODES)
def test_no_budget_is_plain_training_three_times(mode: Mode) -> None:
    images, labels = faces(5, 8)
    defence = short(mode).model_copy(update={"epsilon": 0.0})
    game = Game(defence, trained().eval())
    attacked = defence.craft(images, labels, game.state())
    assert all(torch.equal(item, images) for item in attacked)
    value, _ = defence.loss(game.detector, images, labels, attacked, game.state())
    plain = game.state().bce(game.detector(images), labels)
    torch.testing.assert_close(value, 3 * plain, **TOLERANCE[torch.float32])
    value.backward()
    defence.finish(game.state())
    assert torch.equal(game.players["unet"].attack(images, labels), images)


def test_the_budget_of_pgd_grows() -> None:
    defence = DualAttackerGame(warmup_epochs=2)
    assert [defence.attack_at(epoch).epsilon * 255 for epoch in (0, 0.5, 2, 9)] == pytest.approx([0, 2, 8, 8])
    assert defence.attack_at(1).step_size * 255 == pytest.approx(1)


def test_loss_twice_before_one_backward_pass() -> None:
    """As where the engine perturbs the weights: the players' gradients are those of the last loss."""
    images, labels = faces(5, 8)
    once, twice = (Game(short("joint"), trained().eval()) for _ in range(2))
    once.step(images, labels)
    state = twice.state()
    attacked = twice.defence.craft(images, labels, state)
    loss, _ = twice.defence.loss(twice.detector, images, labels, attacked, state)
    loss.backward()
    twice.optimiser.zero_grad()
    loss, _ = twice.defence.loss(twice.detector, images, labels, attacked, state)
    loss.backward()
    twice.defence.finish(state)
    first, second = (game.players["unet"].attack(images, labels) for game in (once, twice))
    assert torch.equal(first, second)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="write 8/255 if you mean 8 grey levels"):
        DualAttackerGame.parse({"epsilon": 8})
    with pytest.raises(ConfigError, match="alternating"):
        DualAttackerGame.parse({"mode": "both"})


def test_joint_keeps_the_unets_images_out_of_batch_statistics() -> None:
    """Through them its gradient would be its influence on the others' losses, and it would paint nothing."""
    images, labels = faces(5, 8)
    game, reference = (Game(short("joint"), trained()) for _ in range(2))
    state = game.state()
    attacked = game.defence.craft(images, labels, state)
    game.defence.loss(game.detector, images, labels, attacked, state)
    reference.detector(torch.cat([images, attacked[0]]))
    norm, expected = (each.detector.backbone.body[1] for each in (game, reference))
    assert torch.equal(norm.running_mean, expected.running_mean)
    assert all(module.training for module in game.detector.modules())
