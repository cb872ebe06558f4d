from __future__ import annotations

import pytest

from dfcore.defences import AFSL, MART, TRADES, FGSMAdversarialTraining, PGDAdversarialTraining
from tests.defences.toys import settled, state_for, toy

FAMILIES = [AFSL, FGSMAdversarialTraining, MART, PGDAdversarialTraining, TRADES]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_budget_grows_to_its_full_size(family: type[PGDAdversarialTraining]) -> None:
    defence = family(epsilon="4/255", warmup_epochs=2)
    assert [defence.attack_at(epoch).epsilon * 255 for epoch in (0, 0.5, 2, 9)] == pytest.approx([0, 1, 4, 4])
    assert family(warmup_epochs=0).attack_at(0).epsilon == 4 / 255


@pytest.mark.parametrize("family", FAMILIES)
def test_before_the_first_step_nothing_is_attacked(family: type[PGDAdversarialTraining]) -> None:
    images, labels = toy(0, 4)
    (attacked,) = family(warmup_epochs=2).craft(images, labels, state_for(settled(), epoch=0.0))
    assert (attacked - images).abs().max() == 0
