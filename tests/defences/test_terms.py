from __future__ import annotations

import torch

from dfcore.defences import PlainTraining
from dfcore.defences.terms import Term, weighted_terms
from tests.attacks.conftest import faces
from tests.defences.games import Game, counted, trained
from tests.tolerances import TOLERANCE


def test_is_the_weighted_sum_in_one_pass() -> None:
    images, labels = faces(0, 6)
    game = Game(PlainTraining(), trained().eval(), smoothing=0.1)
    state = game.state()
    versions = {"clean": images, "dark": images / 2, "unused": images}
    terms = {
        name: Term(weight, versions[name])
        for name, weight in {"clean": 0.3, "dark": 2.0, "unused": 0.0}.items()
    }
    with counted(game.detector) as sizes:
        value, scalars = weighted_terms(game.detector, labels, terms, state)
    assert sizes == [12], "one pass, without the term that weighs nothing"
    own = {name: state.bce(game.detector(versions[name]), labels).detach() for name in ("clean", "dark")}
    torch.testing.assert_close(
        value.detach(), 0.3 * own["clean"] + 2 * own["dark"], **TOLERANCE[torch.float32]
    )
    assert set(scalars) == {"clean_loss", "dark_loss"}
    for name, loss in own.items():
        torch.testing.assert_close(scalars[f"{name}_loss"], loss, **TOLERANCE[torch.float32])


def test_batch_norm_sees_the_mixture() -> None:
    images, labels = faces(0, 8)
    detector = trained()
    norm = detector.backbone.body[1]
    game = Game(PlainTraining(), detector)
    norm.momentum = 1.0  # the running mean is then that of the last pass
    terms = {"clean": Term(1.0, images), "white": Term(1.0, torch.ones_like(images))}
    weighted_terms(detector, labels, terms, game.state())
    mixed = norm.running_mean.clone()
    detector(images)
    clean = norm.running_mean.clone()
    detector(torch.ones_like(images))
    torch.testing.assert_close(mixed, (clean + norm.running_mean) / 2, **TOLERANCE[torch.float32])
