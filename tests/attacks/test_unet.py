from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn import functional as F

from dfcore.attacks import EOTDetector, GaussianBlur, Player, UNetAttack, build_attack, margin
from dfcore.attacks.realism import low_frequency_energy, total_variation
from dfcore.errors import ConfigError, DataError, ShapeError, WorkFailed
from dfcore.models import Detector, DetectorConfig
from tests.attacks.conftest import SmallNet, faces
from tests.attacks.properties import batch, check_ball
from tests.attacks.traits import check_box, check_sound, check_success, gains, mutant
from tests.tolerances import TOLERANCE

QUICK = UNetAttack(fit_steps=16, batch_size=12, learning_rate=3e-3, tv_weight=0, frequency_weight=0)


@pytest.fixture(scope="module")
def fitted(trained: Detector) -> UNetAttack:
    return _fit(QUICK, trained)


def _fit(attack: UNetAttack, trained: Detector) -> UNetAttack:
    images, labels = faces(500, 48)
    return attack.fit(trained, images, labels, generator=torch.Generator().manual_seed(0))


def test_has_the_published_size_and_takes_any_image() -> None:
    network = UNetAttack().build()
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(0.48e6, rel=0.1)
    assert network(torch.rand(1, 3, 37, 29)).shape == (1, 6, 37, 29)


def test_starts_from_the_clean_image(trained: Detector) -> None:
    images, labels = faces(0, 4)
    assert torch.equal(Player(UNetAttack(), torch.device("cpu")).attack(images, labels), images)


def test_raises_the_margin_of_images_that_it_never_saw(fitted: UNetAttack, trained: Detector) -> None:
    reals, fakes = gains(fitted, trained, 32)
    assert float(reals.mean()) > 0.5
    assert float(fakes.mean()) > 0.5
    check_success(fitted, trained)


def test_sound(fitted: UNetAttack, detector: Detector) -> None:
    check_sound(fitted, detector)
    images, labels = batch(0, 4)
    check_ball(fitted, detector, images, labels)
    for epsilon in (0.0, 64 / 255):
        sized = fitted.model_copy(update={"epsilon": epsilon})
        check_ball(sized, detector, images, labels)
        check_box(sized(detector, images, labels))
    assert torch.equal(fitted.model_copy(update={"epsilon": 0.0})(detector, images, labels), images)
    # group norm: an image is treated alike in every batch
    alone, together = fitted(detector, images[:1], labels[:1]), fitted(detector, images, labels)
    torch.testing.assert_close(together[:1], alone, **TOLERANCE[torch.float32])


def test_fitting_leaves_the_detector_alone_and_repeats(trained: Detector, fitted: UNetAttack) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    slopes = [None if value.grad is None else value.grad.clone() for value in trained.parameters()]
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    images, labels = faces(500, 48)
    generator = torch.Generator().manual_seed(0)
    again = QUICK.fit(trained, images, labels, generator=generator, progress=lambda *at: seen.append(at))
    assert seen == [(step + 1, 16) for step in range(16)]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter, slope in zip(trained.parameters(), slopes, strict=True):
        assert parameter.requires_grad
        assert parameter.grad is slope or torch.equal(parameter.grad, slope)
    images, labels = faces(1, 4)
    assert torch.equal(again(trained, images, labels), fitted(trained, images, labels))
    with pytest.raises(ConfigError, match="fit"):
        QUICK(trained, images, labels)  # the configuration itself stays unfitted


def test_fits_at_zero_budget_and_behind_channels(trained: Detector) -> None:
    images, labels = faces(500, 16)
    short = QUICK.model_copy(update={"fit_steps": 2})
    none = short.model_copy(update={"epsilon": 0.0}).fit(trained, images, labels)
    assert torch.equal(none(trained, images, labels), images)
    behind = EOTDetector(trained, [GaussianBlur()], 1, torch.Generator().manual_seed(0))
    assert not torch.equal(short.fit(behind, images, labels)(trained, images, labels), images)


def _spectrum(attack: UNetAttack, trained: Detector) -> tuple[float, float, float]:
    images, labels = faces(600, 16)
    share = (attack(trained, images, labels) - images) / attack.epsilon
    return (
        float(total_variation(share).mean() / share.abs().mean()),
        float(low_frequency_energy(share).mean() / share.square().mean()),
        float(share.abs().mean()),
    )


def test_realism_terms_bind_at_the_default_weights(trained: Detector, fitted: UNetAttack) -> None:
    defaults = UNetAttack()
    smooth = _fit(QUICK.model_copy(update={"tv_weight": defaults.tv_weight}), trained)
    high = _fit(QUICK.model_copy(update={"frequency_weight": defaults.frequency_weight}), trained)
    free_rough, free_low, _ = _spectrum(fitted, trained)
    rough, _, smooth_size = _spectrum(smooth, trained)
    _, low, high_size = _spectrum(high, trained)
    assert rough < 0.9 * free_rough
    assert low < 0.5 * free_low
    assert min(smooth_size, high_size) > 0.05, "the attack was given up"
    published = _fit(QUICK.model_copy(update={"tv_weight": 1e-4, "frequency_weight": 1e-4}), trained)
    assert _spectrum(published, trained)[1] == pytest.approx(free_low, rel=0.2), "1e-4 does nothing"


def test_saves_and_loads(fitted: UNetAttack, trained: Detector, tmp_path: Path) -> None:
    images, labels = faces(2, 4)
    path = tmp_path / "deep" / "unet.safetensors"
    saved = fitted.save(path)
    loaded = build_attack(saved.describe())
    assert torch.equal(loaded(trained, images, labels), fitted(trained, images, labels))
    with pytest.raises(ConfigError, match="expected a fitted unet attack"):
        QUICK.save(path)
    path.write_bytes(b"no safetensors")
    for broken in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(ConfigError, match="expected the weights of a unet attack"):
            UNetAttack(weights=broken)(trained, images, labels)


def test_bad_input_is_refused(trained: Detector) -> None:
    images, labels = faces(500, 8)
    with pytest.raises(DataError, match="both classes"):
        QUICK.fit(trained, images, torch.zeros_like(labels))
    with pytest.raises(ShapeError, match="divide by 255"):
        QUICK.fit(trained, images * 255, labels)
    with pytest.raises(WorkFailed, match="lower learning_rate"):
        QUICK.model_copy(update={"learning_rate": 1e30, "fit_steps": 4}).fit(trained, images, labels)


def _gradients(player: Player) -> torch.Tensor:
    return torch.cat(
        [value.grad.flatten() for value in player.network.parameters() if value.grad is not None]
    )


def _joint(player: Player, trained: Detector, smoothing: float, watch: bool) -> torch.Tensor:
    """One pass that trains both sides, as a game takes it; returns the attacker's gradient."""
    images, labels = faces(3, 8)
    move = player.joint(images, labels)
    logits = trained(move.images)
    if watch:
        logits = move.watch(logits)
    target = labels * (1 - smoothing) + smoothing / 2
    F.binary_cross_entropy_with_logits(logits, target).backward()
    return _gradients(player)


def _fresh_detector() -> Detector:
    twin = Detector(DetectorConfig(backbone="small", image_size=24), SmallNet())
    with torch.no_grad():
        twin.backbone.head.weight *= 30
    return twin.eval()


def test_the_joint_pass_gives_both_sides_their_gradient(trained: Detector) -> None:
    images, labels = faces(3, 8)
    attack = UNetAttack(learning_rate=1e-3)
    player, alternating = (Player(attack, torch.device("cpu"), seed=1) for _ in range(2))
    trained.zero_grad()
    try:
        joint = _joint(player, trained, smoothing=0, watch=False)
        own = trained.backbone.head.weight.grad.clone()
        assert float(own.abs().sum()) > 0
        # the detector's side is what plain training on these images gives
        trained.zero_grad()
        F.binary_cross_entropy_with_logits(trained(player.attack(images, labels)), labels.float()).backward()
        torch.testing.assert_close(trained.backbone.head.weight.grad, own)
    finally:
        trained.zero_grad()
    alternating.step(trained, images, labels)
    stepped = _gradients(alternating)
    if float(joint.norm()) > 1:  # `step` has clipped
        joint = joint / joint.norm()
    torch.testing.assert_close(joint, stepped, rtol=1e-3, atol=1e-5)


def test_a_smoothed_label_does_not_turn_the_attacker_round() -> None:
    detector = _fresh_detector()
    images, labels = faces(3, 8)
    confident = images[labels == 1], labels[labels == 1]
    with torch.no_grad():
        detector.bias.fill_(60.0)  # far beyond what a smoothed label asks of fakes

    def direction(watch: bool, smoothing: float) -> torch.Tensor:
        player = Player(QUICK, torch.device("cpu"), seed=1)
        move = player.joint(*confident)
        logits = move.watch(detector(move.images)) if watch else detector(move.images)
        target = confident[1] * (1 - smoothing) + smoothing / 2
        F.binary_cross_entropy_with_logits(logits, target).backward()
        return _gradients(player)

    truth = Player(QUICK, torch.device("cpu"), seed=1)
    truth.step(detector, *confident)
    assert float(F.cosine_similarity(direction(True, 0.1), _gradients(truth), dim=0)) > 0.99
    assert float(F.cosine_similarity(direction(False, 0.1), _gradients(truth), dim=0)) < -0.99


def test_a_game_is_played_updated_and_resumed(trained: Detector) -> None:
    images, labels = faces(3, 12)
    player = Player(QUICK, torch.device("cpu"), seed=2)
    first = player.step(trained, images, labels, updates=4)
    assert not first.requires_grad
    assert not torch.equal(player.attack(images, labels), images)
    other = Player(QUICK, torch.device("cpu"), seed=3)
    other.load_state_dict(player.state_dict())
    for one in (player, other):
        one.joint(images, labels)
        _joint(one, trained, smoothing=0, watch=True)
        one.update()
    trained.zero_grad()
    assert torch.equal(player.attack(images, labels), other.attack(images, labels))
    frozen = player.fitted()
    before = frozen(trained, images, labels)
    player.step(trained, images, labels)
    assert torch.equal(frozen(trained, images, labels), before), "a fitted attack is a copy"


def test_processes_share_their_gradients(trained: Detector, tmp_path: Path) -> None:
    images, labels = faces(3, 8)
    alone, together = (Player(QUICK, torch.device("cpu"), seed=2) for _ in range(2))
    alone.step(trained, images, labels)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        together.step(trained, images, labels)
    finally:
        distributed.destroy_process_group()
    assert torch.equal(alone.attack(images, labels), together.attack(images, labels))


def _with_network(attack: UNetAttack, fitted: UNetAttack) -> UNetAttack:
    attack._network = fitted._network
    return attack


def test_mutants_die(fitted: UNetAttack, trained: Detector, detector: Detector) -> None:
    images, labels = batch(0, 4)
    ungated = _with_network(mutant(fitted, gate=lambda self, raw: 10 * raw), fitted)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="outside the ball"):
        check_ball(ungated, detector, images, labels)
    unclamped = _with_network(mutant(fitted, clamp=lambda self, x: x), fitted)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"the box"):
        check_box(unclamped(detector, images, labels))
    wrong = mutant(QUICK, pull=lambda self, slope: -UNetAttack.pull(self, slope))
    reals, fakes = gains(_fit(wrong, trained), trained)  # type: ignore[arg-type]
    assert float(reals.mean() + fakes.mean()) < 0


def test_weights_compare_whatever_the_logits_scale(trained: Detector) -> None:
    images, labels = faces(3, 8)
    moves = []
    for scale in (1.0, 1e-6):
        trained.calibrate(scale, 0.0)
        try:
            player = Player(UNetAttack(), torch.device("cpu"), seed=2)
            player.step(trained, images, labels, updates=3)
        finally:
            trained.calibrate(1.0, 0.0)
        moves.append(player.attack(images, labels))
    torch.testing.assert_close(*moves, rtol=0, atol=2e-4)
    with torch.no_grad():
        assert margin(trained, moves[0], labels, 0.5).shape == (8,)
