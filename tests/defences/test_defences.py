from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dfcore.defences import AnyDefence, PGDAdversarialTraining, PlainTraining, TrainingState, weighted_bce
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm


@pytest.fixture
def detector() -> Detector:
    return build_detector(DetectorConfig(backbone="resnet10t", image_size=32)).train()


def state(detector: Detector, epoch: float = 10.0) -> TrainingState:
    return TrainingState(
        epoch, torch.ones(2), fold_batch_norm(detector), torch.Generator().manual_seed(0)
    )  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand((8, 3, 32, 32), generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2


def test_weighted_bce_is_the_formula() -> None:
    logits, labels = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([0, 1, 1])
    p = torch.sigmoid(logits)
    expected = -(2.0 * torch.log(1 - p[0]) + 0.5 * torch.log(p[1]) + 0.5 * torch.log(p[2])) / 3
    torch.testing.assert_close(weighted_bce(logits, labels, torch.tensor([2.0, 0.5])), expected)


def test_smoothing_moves_labels_towards_one_half() -> None:
    logits, labels = torch.tensor([0.3, -2.0]), torch.tensor([0, 1])
    p = torch.sigmoid(logits)
    expected = -(0.1 * torch.log(p[0]) + 0.9 * torch.log(1 - p[0])) / 2
    expected -= (0.9 * torch.log(p[1]) + 0.1 * torch.log(1 - p[1])) / 2
    torch.testing.assert_close(weighted_bce(logits, labels, torch.ones(2), 0.2), expected)


def test_plain_loss(detector: Detector) -> None:
    images, labels = batch()
    loss, scalars = PlainTraining().loss(detector, images, labels, (), state(detector))
    assert loss.requires_grad
    assert not scalars["clean_loss"].requires_grad


def test_adversarial_loss_weighs_both_terms_and_is_harder(detector: Detector) -> None:
    images, labels = batch()
    # so that crafting and training see the same network
    detector.eval()
    defence = PGDAdversarialTraining(epsilon=8 / 255, step_size=4 / 255, steps=4, clean_weight=0.25)
    now = state(detector)
    loss, parts = defence.loss(detector, images, labels, defence.craft(images, labels, now), now)
    torch.testing.assert_close(loss.detach(), 0.25 * parts["clean_loss"] + 0.75 * parts["robust_loss"])
    assert parts["robust_loss"] > parts["clean_loss"]
    alone = defence.model_copy(update={"clean_weight": 0.0})
    only, parts = alone.loss(detector, images, labels, defence.craft(images, labels, state(detector)), now)
    torch.testing.assert_close(only.detach(), parts["robust_loss"])
    assert set(parts) == {"robust_loss"}
    assert all(parameter.grad is None for parameter in detector.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_budget_grows_to_its_full_size() -> None:
    defence = PGDAdversarialTraining(epsilon=4 / 255, step_size=2 / 255, warmup_epochs=2)
    sizes = [defence.attack_at(epoch).epsilon * 255 for epoch in (0, 0.5, 2, 9)]
    assert sizes == pytest.approx([0, 1, 4, 4])
    assert defence.attack_at(1).step_size * 255 == pytest.approx(1)
    assert defence.model_copy(update={"warmup_epochs": 0.0}).attack_at(0).epsilon == defence.epsilon


def test_kind_chooses_the_defence() -> None:
    adapter: TypeAdapter[AnyDefence] = TypeAdapter(AnyDefence)
    found = adapter.validate_python({"kind": "pgd_at", "epsilon": "2/255"})
    assert found == PGDAdversarialTraining(epsilon=2 / 255)
    with pytest.raises(ValidationError, match="plain"):
        adapter.validate_python({"kind": "none"})
