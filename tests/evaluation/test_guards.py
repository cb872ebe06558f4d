"""Each guard on a detector, or on what it was made from, trips on one broken in the way it is there for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dfcore.attacks import EOT, JPEG, PGD
from dfcore.data import Crops
from dfcore.errors import CheckFailed
from dfcore.evaluation import Scenario, check_unseen
from dfcore.models import Detector, DetectorCard, fold_batch_norm
from dfcore.preprocessing import PreprocessingConfig
from tests.evaluation.conftest import ATTACKS, CLEAN, MODULE, Wrapped


def test_nothing_trips_on_an_honest_one(tripped: Any, detector: Detector) -> None:
    assert tripped(detector, folded=True)[0] == set()


def test_a_model_that_gives_no_number(tripped: Any, detector: Detector) -> None:
    broken = copy.deepcopy(detector)
    with torch.no_grad():
        broken.backbone.head.weight.fill_(float("nan"))
    names, evidence = tripped(broken)
    assert {"finite_scores", "decisions_beat_guessing"} <= names
    assert all(not result.metrics for result in evidence.results)


class Random(Wrapped):
    """Never answers twice the same."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return logits + 0.1 * torch.rand_like(logits)


def test_a_stochastic_defence_needs_eot(tripped: Any, detector: Detector) -> None:
    assert "logits_repeat" in tripped(Random(detector))[0]
    averaged = Scenario(name="eot", attack=EOT(attack=PGD(steps=2), channels=(JPEG(),), samples=2))
    assert "logits_repeat" not in tripped(Random(detector), (*CLEAN, averaged))[0]
    assert "logits_repeat" in tripped(Random(detector), CLEAN)[0]


class Detached(Wrapped):
    """Gives no gradient at all."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return logits.detach()


class Steps(Wrapped):
    """Gives a gradient that is zero everywhere."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return logits.detach() + 0.0 * images.sum(dim=(1, 2, 3))


class Saturated(Wrapped):
    """So sure of itself that float32 has no slope left."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return 20 * torch.tanh(1e5 * logits)


class Quantised(Wrapped):
    """Rounds its input to a few levels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images * 64).round() / 64)


class Decoy(Wrapped):
    """Answers honestly, but its gradient is that of something else."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        elsewhere = images[:, :, ::2, ::2].mean(dim=(1, 2, 3))
        return logits.detach() + elsewhere - elsewhere.detach()


@pytest.mark.parametrize("kind", [Steps, Saturated, Quantised])
def test_a_model_that_masks_its_gradient(tripped: Any, detector: Detector, kind: type[Wrapped]) -> None:
    assert {"gradients_reach_pixels", "broken_at_large_epsilon"} <= tripped(kind(detector))[0]


def test_a_model_without_any_gradient(tripped: Any, detector: Detector) -> None:
    assert tripped(Detached(detector), CLEAN)[0] == {"gradients_reach_pixels"}


def test_a_model_whose_gradient_leads_elsewhere(tripped: Any, detector: Detector) -> None:
    names, _ = tripped(Decoy(detector))
    assert "gradients_reach_pixels" not in names
    assert {"white_box_beats_black_box", "broken_at_large_epsilon"} <= names


def _normalised(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    return (images - detector.mean) / detector.std


def test_a_model_that_normalises_twice(tripped: Any, detector: Detector) -> None:
    class Twice(Wrapped):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(_normalised(self, images))

    assert "normalised_once" in tripped(Twice(detector), CLEAN)[0]


def test_a_threshold_that_does_not_belong_to_the_weights(tripped: Any, detector: Detector) -> None:
    moved = copy.deepcopy(detector)
    moved.calibrate(1.0, -1000.0)
    assert tripped(moved, CLEAN)[0] == {"decisions_beat_guessing"}


def test_an_attack_on_a_copy_that_normalises_twice(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold(found: Detector) -> Detector:
        twin = fold_batch_norm(found)
        twin.backbone.register_forward_pre_hook(lambda _module, inputs: _normalised(found, inputs[0]))
        return twin

    monkeypatch.setattr(MODULE, "fold_batch_norm", fold)
    assert tripped(detector, CLEAN, folded=True)[0] == {"attacked_is_what_is_measured"}


def test_training_videos_in_the_evaluation(tripped: Any, detector: Detector, crops: Crops) -> None:
    names, evidence = tripped(detector, CLEAN, [str(crops.group_ids[0]), "another"])
    assert names == {"no_training_overlap", "no_selection_overlap"}
    assert evidence.tripped()[0].value == 4
    # nobody recorded what it was trained and chosen on
    assert tripped(detector, CLEAN, None)[0] == {"no_training_overlap", "no_selection_overlap"}


def _made_from(detector: Detector, training: list[str], validation: list[str]) -> Detector:
    known = copy.deepcopy(detector)
    known.card = DetectorCard(
        architecture=known.config,
        preprocessing=PreprocessingConfig(),
        threshold=0.5,
        provenance={"training_groups": training, "validation_groups": validation},
    )
    return known


def test_what_was_seen_is_on_the_card(tripped: Any, detector: Detector, crops: Crops) -> None:
    tested = [str(crops.group_ids[5])]
    for training, validation, expected in (
        (["train"], ["val"], set()),
        (tested, ["val"], {"no_training_overlap"}),
        (["train"], tested, {"no_selection_overlap"}),
    ):
        assert tripped(_made_from(detector, training, validation), CLEAN, None)[0] == expected


def test_seen_videos_are_refused_before_any_work(detector: Detector, crops: Crops) -> None:
    check_unseen(detector, {"c": crops})
    check_unseen(_made_from(detector, ["train"], ["val"]), {"c": crops})
    everything = sorted(set(crops.group_ids.tolist()))
    with pytest.raises(CheckFailed, match=r"12 of c whose people are in its training_groups.*and 7 more"):
        check_unseen(_made_from(detector, everything, []), {"c": crops})
    with pytest.raises(CheckFailed, match="1 of c whose people are in its validation_groups: test-001"):
        check_unseen(_made_from(detector, [], [str(crops.group_ids[5])]), {"c": crops})


def test_every_guard_is_recorded(tripped: Any, detector: Detector) -> None:
    _, evidence = tripped(detector, ATTACKS, folded=True)
    assert len(evidence.guards) == len({guard.name for guard in evidence.guards}) == 20
    assert all(guard.detail and guard.bound and guard.value is not None for guard in evidence.guards)
