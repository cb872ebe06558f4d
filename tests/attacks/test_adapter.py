from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dfcore.attacks import PGD, TorchAttacks, TwoLogits, margin
from dfcore.errors import ConfigError
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.properties import check_ball, check_box, check_no_harm_undone
from tests.tolerances import TOLERANCE

BREADTH = [
    TorchAttacks(name=name, epsilon=6 / 255, settings=settings)
    for name, settings in {
        "FGSM": {}, "BIM": {"steps": 4}, "MIFGSM": {"steps": 4}, "NIFGSM": {"steps": 4},
        "VMIFGSM": {"steps": 3, "N": 2}, "EOTPGD": {"steps": 3}, "FFGSM": {}, "TIFGSM": {"steps": 3},
        "DIFGSM": {"steps": 3}, "UPGD": {"steps": 3}, "APGD": {"steps": 4}, "Jitter": {"steps": 3},
        "VANILA": {}, "GN": {},
    }.items()
] + [
    TorchAttacks(name="PGDL2", norm="l2", epsilon=0.4, settings={"steps": 4}),
    TorchAttacks(name="DeepFool", norm="l2", epsilon=0.4, settings={"steps": 5}),
    TorchAttacks(name="CW", norm="l2", epsilon=0.4, settings={"steps": 4, "c": 10}),
]  # fmt: skip


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_two_logits_are_exact(threshold: float, trained: Detector) -> None:
    images, labels = faces(130, 32)
    wrapped = TwoLogits(trained, threshold)
    with torch.no_grad():
        logits, own = wrapped(images), trained(images)
    assert torch.equal(logits.argmax(1), (torch.sigmoid(own) > threshold).long())
    shifted = own - torch.logit(torch.tensor(threshold))
    torch.testing.assert_close(
        F.cross_entropy(logits, labels),
        F.binary_cross_entropy_with_logits(shifted, labels.float()),
        **TOLERANCE[torch.float32],
    )
    with pytest.raises(ConfigError, match="threshold"):
        TwoLogits(trained, 1.0)


@pytest.mark.parametrize("attack", BREADTH, ids=lambda attack: attack.name)
def test_whatever_it_does_stays_in_our_bounds(attack: TorchAttacks, trained: Detector) -> None:
    images, labels = faces(131, 4)
    check_ball(attack, trained, images, labels)
    check_box(attack, trained, images, labels)
    check_no_harm_undone(attack, trained, images, labels)


def test_agrees_with_our_pgd(trained: Detector) -> None:
    images, labels = faces(132, 8)
    theirs = TorchAttacks(epsilon=5 / 255, settings={"alpha": 1 / 255, "steps": 10, "random_start": False})
    ours = PGD(epsilon=5 / 255, step_size=1 / 255, steps=10, random_start=False)
    found = [each(trained, images, labels) for each in (theirs, ours)]
    with torch.no_grad():
        values = [margin(trained, each, labels, 0.5) for each in found]
    # cross-entropy underflows where the margin does not; elsewhere they take the same steps
    assert float((values[0] - values[1]).abs().median()) < 0.05
    assert bool((values[1] >= values[0] - 0.05).all())


def test_every_module_keeps_its_mode_and_the_random_states_are_ours(trained: Detector) -> None:
    images, labels = faces(133, 2)
    trained.train()
    trained.backbone.body[1].eval()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    try:
        attack = TorchAttacks(name="Square", epsilon=8 / 255, settings={"n_queries": 5})
        draws = [
            attack(trained, images, labels, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert trained.training
        assert not trained.backbone.body[1].training
        assert trained.backbone.body[4].training
    finally:
        trained.eval()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(draws[0], draws[1])


def test_what_cannot_do_two_classes_is_refused(trained: Detector) -> None:
    images, labels = faces(0, 2)

    def attempt(name: str, **settings: bool | int | float | str) -> None:
        TorchAttacks.parse({"name": name, "settings": settings})(trained, images, labels)

    for name, hint in (
        ("AutoAttack", "autoattack-binary"),
        ("APGDT", "four classes"),
        ("JSMA", "ten classes"),
    ):
        with pytest.raises(ConfigError, match=hint):
            attempt(name)
    with pytest.raises(ConfigError, match="three classes"):
        attempt("APGD", loss="dlr")
    with pytest.raises(ConfigError, match="four classes"):
        attempt("FAB", multi_targeted=True)
    with pytest.raises(ConfigError, match=r"settings\.eps"):
        attempt("PGD", eps=0.1)
    with pytest.raises(ConfigError, match="did you mean 'PGD'"):
        attempt("PGDD")
    with pytest.raises(ConfigError, match="does not take"):
        attempt("PGD", stepz=1)

    class Constant(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((1, 2, 3))

    with pytest.raises(ConfigError, match="with parameters"):
        TorchAttacks()(Constant(), images, labels)


def test_says_how_to_install_it(trained: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # what Python does for a package that is not there
    with pytest.raises(ConfigError, match=r"pip install 'rampart\[referee\]'"):
        TorchAttacks()(trained, *faces(0, 2))
