from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfcore.attacks import BlurGenerator, Player
from dfcore.attacks.blur import blur_rings, pixelwise_blur
from dfcore.errors import ConfigError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.traits import check_box, check_sound, check_success, gains, mutant

QUICK = BlurGenerator(fit_steps=12, batch_size=12, learning_rate=3e-3)


@pytest.fixture(scope="module")
def fitted(trained: Detector) -> BlurGenerator:
    images, labels = faces(500, 48)
    return QUICK.fit(trained, images, labels, generator=torch.Generator().manual_seed(0))


def test_takes_any_image_and_one_network_for_each_class() -> None:
    network = QUICK.build()
    images = torch.rand(2, 3, 37, 29)
    painted = network(images, torch.tensor([0, 1]))
    assert painted.shape == (2, 1, 37, 29)
    torch.testing.assert_close(painted[:1], network.real(images[:1]))  # type: ignore[operator]
    torch.testing.assert_close(painted[1:], network.fake(images[1:]))  # type: ignore[operator]


def test_width_is_that_of_the_networks(fitted: BlurGenerator, trained: Detector, tmp_path: Path) -> None:
    """64 filters at full size and three residual blocks of 256, as published; 16 unless asked."""

    def shapes(attack: BlurGenerator) -> set[tuple[int, ...]]:
        network = attack.build()
        return {tuple(value.shape) for value in network.parameters() if value.ndim == 4}

    assert {(64, 3, 3, 3), (256, 256, 3, 3), (1, 64, 3, 3)} <= shapes(BlurGenerator(width=64))
    assert {(16, 3, 3, 3), (64, 64, 3, 3), (1, 16, 3, 3)} <= shapes(BlurGenerator())
    assert sum(value.numel() for value in BlurGenerator(width=64).build().parameters()) == 2 * 5_242_625
    images, labels = faces(1, 2)
    saved = fitted.save(tmp_path / "generator.safetensors")
    assert torch.equal(saved(trained, images, labels), fitted(trained, images, labels))
    with pytest.raises(ConfigError, match="expected the weights of a blur_generator attack"):
        BlurGenerator(width=64, weights=saved.weights)(trained, images, labels)
    with pytest.raises(ConfigError, match="multiple of 8"):
        BlurGenerator.parse({"width": 20})


def test_blurs_the_trace_of_fakes_away(fitted: BlurGenerator, trained: Detector) -> None:
    reals, fakes = gains(fitted, trained, 32)
    assert float(fakes.mean()) > 3
    assert float(reals.mean() + fakes.mean()) > 0
    check_success(fitted, trained)


def test_sound_and_zero_budget_is_the_identity(fitted: BlurGenerator, detector: Detector) -> None:
    check_sound(fitted, detector)
    images, labels = faces(1, 4)
    assert torch.equal(fitted.model_copy(update={"max_sigma": 0.0})(detector, images, labels), images)


def test_standard_deviations_stay_within_the_budget() -> None:
    raw = torch.tensor([-1e6, 0.0, 1e6])
    for largest in (0.0, 0.1, 2.0):
        sigma = BlurGenerator(max_sigma=largest).gate(raw)
        assert float(sigma.min()) >= 0
        assert float(sigma.max()) == pytest.approx(largest)


def test_plays_a_game(trained: Detector) -> None:
    images, labels = faces(3, 12)
    player = Player(QUICK, torch.device("cpu"), seed=0)
    before = player.attack(images, labels)
    player.step(trained, images, labels, updates=3)
    assert not torch.equal(player.attack(images, labels), before)
    move = player.joint(images, labels)
    torch.nn.functional.binary_cross_entropy_with_logits(trained(move.images), labels.float()).backward()
    trained.zero_grad()
    assert all(value.grad is not None for value in player.network.parameters())
    player.update()


def test_unfitted_is_refused(trained: Detector) -> None:
    images, labels = faces(1, 4)
    with pytest.raises(ConfigError, match="expected a fitted blur_generator attack"):
        QUICK(trained, images, labels)
    with pytest.raises(ConfigError, match="odd window"):
        BlurGenerator.parse({"window": 6})


def test_mutants_die(fitted: BlurGenerator, trained: Detector, detector: Detector) -> None:
    images, labels = faces(4, 4)
    most = pixelwise_blur(blur_rings(images, 5), torch.full((4, 1, 24, 24), 0.5), 5)
    small = fitted.model_copy(update={"max_sigma": 0.5})
    limit = float((most - images).abs().max()) + 1e-6
    assert float((small(detector, images, labels) - images).abs().max()) <= limit
    unbound = mutant(small, gate=lambda self, raw: 5 + raw.abs())
    unbound._network = fitted._network  # type: ignore[attr-defined]
    assert float((unbound(detector, images, labels) - images).abs().max()) > limit
    white = torch.ones(2, 3, 24, 24)
    check_box(fitted(detector, white, torch.tensor([0, 1])))
    wrong = mutant(QUICK, pull=lambda self, slope: -BlurGenerator.pull(self, slope))
    train_images, train_labels = faces(500, 48)
    turned = wrong.fit(  # type: ignore[attr-defined]
        trained, train_images, train_labels, generator=torch.Generator().manual_seed(0)
    )
    assert float(gains(turned, trained)[1].mean()) < float(gains(fitted, trained)[1].mean()) / 2
