"""What holds for every defence that trains against a norm-bounded attack, and for gradient regularisation."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from dfcore.attacks import PGD, margin
from dfcore.defences import (
    AFSL,
    MART,
    TRADES,
    Defence,
    FGSMAdversarialTraining,
    GradientRegularisation,
    Lipschitz,
    PGDAdversarialTraining,
    PlainTraining,
)
from dfcore.models import Detector, fold_batch_norm
from tests.defences.toys import fresh, state_for, toy

DEFENCES: dict[str, Defence] = {
    "regularisation": GradientRegularisation(),
    "regularisation random": GradientRegularisation(mode="random"),
    "fgsm": FGSMAdversarialTraining(noise="none"),
    "fgsm-rs alone": FGSMAdversarialTraining(noise="uniform", attacked_weight=None),
    "n-fgsm": FGSMAdversarialTraining(),
    "trades": TRADES(),
    "mart": MART(),
    "afsl": AFSL(),
    "apgd": PGDAdversarialTraining(attack="apgd", steps=2),
    "lipschitz": PGDAdversarialTraining(clean_weight=0, lipschitz=Lipschitz()),
    "difference": PGDAdversarialTraining(lipschitz=Lipschitz(mode="finite_difference")),
}
each = pytest.mark.parametrize("defence", DEFENCES.values(), ids=DEFENCES.keys())


@each
def test_the_loss_reaches_every_parameter_and_crafting_none(defence: Defence) -> None:
    images, labels = toy(0, 8)
    detector = fresh()
    detector.backbone.blocks[0].eval()  # frozen by somebody
    state = state_for(detector)
    flags = [module.training for net in (detector, state.crafting) for module in net.modules()]
    kept = images.clone()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    attacked = defence.craft(images, labels, state)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    loss, scalars = defence.loss(detector, images, labels, attacked, state)
    assert loss.shape == ()
    assert torch.equal(images, kept)
    assert not any(item.requires_grad for item in (*attacked, *scalars.values(), images))
    assert [module.training for net in (detector, state.crafting) for module in net.modules()] == flags
    parameters = list(detector.parameters())
    assert all(item.grad is None for item in (*parameters, *state.crafting.parameters()))
    loss.backward()
    assert all(bool(item.grad.isfinite().all()) for item in parameters)
    assert all(bool(item.grad.ne(0).any()) for item in parameters if item.ndim > 1)


@each
def test_the_same_seed_gives_the_same_loss_twice(defence: Defence) -> None:
    """Also on the same attacked images, as weight perturbation asks."""
    images, labels = toy(0, 8)
    losses = []
    for _ in range(2):
        detector = fresh().eval()
        state = state_for(detector)
        attacked = defence.craft(images, labels, state)
        losses.append(defence.loss(detector, images, labels, attacked, state)[0])
        if attacked:
            losses.append(defence.loss(detector, images, labels, attacked, state)[0])
    assert all(torch.equal(value, losses[0]) for value in losses)


@each
def test_autocast_keeps_everything_finite_and_pixels_whole(defence: Defence) -> None:
    images, labels = toy(0, 8)
    detector = fresh()
    state = state_for(detector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attacked = defence.craft(images, labels, state)
        loss, scalars = defence.loss(detector, images, labels, attacked, state)
    loss.backward()
    assert all(item.dtype == torch.float32 for item in (loss, *attacked, *scalars.values()))
    assert all(bool(item.isfinite().all()) for item in (loss, *attacked, *scalars.values()))
    assert all(bool(item.grad.isfinite().all()) for item in detector.parameters())
    if attacked:
        full, _ = defence.loss(detector, images, labels, attacked, state)
        torch.testing.assert_close(loss, full, rtol=0.1, atol=0.1)


EPSILON = 4 / 255
SETTINGS = {"epsilon": EPSILON, "warmup_epochs": 1}


def trained(defence: Defence, steps: int = 60) -> Detector:
    detector = fresh()
    twin = fold_batch_norm(detector)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(detector.parameters(), lr=1e-2)
    for step in range(steps):
        images, labels = toy(step, 32)
        twin.refresh(detector)
        state = state_for(detector, epoch=4 * step / steps)
        state = type(state)(state.epoch, state.class_weights, twin, generator)
        loss, _ = defence.loss(detector, images, labels, defence.craft(images, labels, state), state)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return detector.eval()


@cache
def plain() -> tuple[float, float, float]:
    return figures(trained(PlainTraining()))


def figures(detector: Detector) -> tuple[float, float, float]:
    """Margin under PGD, robust accuracy and clean accuracy on fresh images."""
    images, labels = toy(10_000, 128)
    generator = torch.Generator().manual_seed(0)
    attacked = PGD(epsilon=EPSILON, step_size=1 / 255, steps=10)(
        detector, images, labels, generator=generator
    )
    with torch.no_grad():
        robust, clean = (margin(detector, item, labels, 0.5) for item in (attacked, images))
    return robust.mean().item(), (robust < 0).float().mean().item(), (clean < 0).float().mean().item()


@pytest.mark.parametrize(
    "defence",
    [
        FGSMAdversarialTraining(**SETTINGS), TRADES(steps=2, **SETTINGS), MART(steps=2, **SETTINGS),
        AFSL(steps=2, **SETTINGS), PGDAdversarialTraining(steps=2, attack="apgd", **SETTINGS),
    ],
    ids=lambda defence: defence.kind,
)  # fmt: skip
def test_it_trains_what_pgd_moves_less(defence: Defence) -> None:
    found = figures(trained(defence))
    assert found[0] < plain()[0] - 1
    assert found[1] > plain()[1] + 0.3
    assert found[2] > 0.9
