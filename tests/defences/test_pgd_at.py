from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from dfcore.attacks import APGD, PGD
from dfcore.defences import AnyDefence, Lipschitz, PGDAdversarialTraining, weighted_bce
from tests.defences.toys import LinearNet, fresh, settled, state_for, toy


@pytest.mark.parametrize("clean_weight", [0.0, 0.3])
def test_without_a_penalty_the_numbers_are_those_of_two_weighed_losses(clean_weight: float) -> None:
    images, labels = toy(0, 8)
    defence = PGDAdversarialTraining(clean_weight=clean_weight)
    detector, twin = fresh(), fresh()
    weights = (1.5, 0.5)
    state = state_for(detector, weights=weights, smoothing=0.1)
    attacked = defence.craft(images, labels, state)
    inner = PGD(epsilon=4 / 255, step_size=2 / 255, steps=3, keep_best=False)
    generator = torch.Generator().manual_seed(0)
    by_hand = inner.craft(state_for(twin).crafting, images, labels, generator=generator)
    assert torch.equal(attacked[0], by_hand)
    value, scalars = defence.loss(detector, images, labels, attacked, state)
    if clean_weight == 0:
        expected = weighted_bce(twin(by_hand), labels, torch.tensor(weights), 0.1)
    else:
        logits = twin(torch.cat([images, by_hand]))
        clean, robust = (weighted_bce(part, labels, torch.tensor(weights), 0.1) for part in logits.split(8))
        expected = clean_weight * clean + (1 - clean_weight) * robust
    assert torch.equal(value, expected)
    assert list(scalars) == (["robust_loss"] if clean_weight == 0 else ["clean_loss", "robust_loss"])
    gradients = (
        torch.autograd.grad(loss, net.parameters()) for loss, net in ((value, detector), (expected, twin))
    )
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_the_penalty_is_added_at_the_attacked_images(mode: str, clean_weight: float) -> None:
    images, labels = toy(0, 8)
    setting = Lipschitz(mode=mode, weight=50.0, step="0.5/255")
    defence = PGDAdversarialTraining(clean_weight=clean_weight, lipschitz=setting)
    detector = settled()
    state = state_for(detector)
    attacked = defence.craft(images, labels, state)
    value, scalars = defence.loss(detector, images, labels, attacked, state)
    plain, _ = defence.model_copy(update={"lipschitz": None}).loss(
        detector, images, labels, attacked[:1], state
    )
    watched = attacked[0].clone().requires_grad_()
    slope = torch.autograd.grad(detector(watched).sum(), watched)[0]
    expected = 50 * slope.square().mean()
    torch.testing.assert_close(
        scalars["lipschitz"], expected, rtol=0.05 if len(attacked) > 1 else 1e-4, atol=0
    )
    torch.testing.assert_close(value, plain + scalars["lipschitz"])
    value.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_the_penalty_flattens_a_detector() -> None:
    images, labels = toy(0, 16)
    slopes = []
    for setting in (None, Lipschitz(weight=1000.0), Lipschitz(weight=1000.0, mode="finite_difference")):
        defence = PGDAdversarialTraining(clean_weight=0.0, lipschitz=setting)
        detector = fresh(LinearNet)
        optimiser = torch.optim.Adam(detector.parameters(), lr=3e-3)
        for _ in range(20):
            state = state_for(detector)
            loss, _ = defence.loss(detector, images, labels, defence.craft(images, labels, state), state)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        slopes.append(detector.backbone.head.weight.norm().item())
    assert max(slopes[1:]) < 0.7 * slopes[0]
    assert slopes[1] == pytest.approx(slopes[2], rel=0.02)


def test_apgd_inside_grows_and_keeps_to_the_ball() -> None:
    images, labels = toy(0, 8)
    defence = PGDAdversarialTraining(attack="apgd", steps=2, epsilon="8/255", warmup_epochs=4)
    assert defence.attack_at(1.0) == APGD(epsilon=2 / 255, steps=2)
    state = state_for(settled(), epoch=2.0)
    (attacked,) = defence.craft(images, labels, state)
    assert 3.9 / 255 < (attacked - images).abs().max() <= 4 / 255 + 1e-6


def test_the_published_lipschitz_setting_can_be_written_down() -> None:
    adapter: TypeAdapter[AnyDefence] = TypeAdapter(AnyDefence)
    found = adapter.validate_python(
        {"kind": "pgd_at", "clean_weight": 0, "lipschitz": {"mode": "exact", "weight": 1000, "power": 2}}
    )
    assert found == PGDAdversarialTraining(clean_weight=0, lipschitz=Lipschitz())
    assert adapter.validate_python(found.model_dump(mode="json")) == found
