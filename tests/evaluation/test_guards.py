"""Each guard trips on an evaluation broken in the way it is there for."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dfcore.attacks import FGSM, PGD, RandomNoise
from dfcore.data import Crops
from dfcore.evaluation import SUITES, Evidence, Scenario, evaluate
from dfcore.models import Detector, DetectorCard
from dfcore.preprocessing import PreprocessingConfig

ATTACKS = tuple(
    scenario for scenario in SUITES["quick"] if scenario.kind in ("clean", "noise", "fgsm", "pgd")
)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards do not look at intervals."""
    # by module name: the package's `evaluate` is the function
    monkeypatch.setattr(sys.modules["dfcore.evaluation.evaluate"], "_RESAMPLES", 10)


@pytest.fixture
def tripped(crops: Crops, tmp_path: Path) -> Any:
    def run(
        detector: Detector, suite: Sequence[Scenario] = ATTACKS, groups: list[str] | None = ()
    ) -> tuple[set[str], Evidence]:
        evidence = evaluate(
            detector, {"c": crops}, suite=suite, name="broken", out=tmp_path,
            training_groups=None if groups is None else list(groups),
        )  # fmt: skip
        assert evidence.valid == (not evidence.tripped())
        return {guard.name for guard in evidence.tripped()}, evidence

    return run


class Wrapped(Detector):
    """A detector with something wrong behind it."""

    def __init__(self, inner: Detector) -> None:
        super().__init__(inner.config, copy.deepcopy(inner.backbone))
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.spoil(super().forward(images), images)

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def test_nothing_trips_on_an_honest_one(tripped: Any, detector: Detector) -> None:
    assert tripped(detector)[0] == set()


def test_a_model_that_gives_no_number(tripped: Any, detector: Detector) -> None:
    broken = copy.deepcopy(detector)
    with torch.no_grad():
        broken.backbone.head.weight.fill_(float("nan"))
    names, evidence = tripped(broken)
    assert "finite_scores" in names
    assert all(not result.metrics for result in evidence.results)


def test_a_model_that_never_answers_twice_the_same(tripped: Any, detector: Detector) -> None:
    class Random(Wrapped):
        def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return logits + 0.1 * torch.rand_like(logits)

    assert "logits_repeat" in tripped(Random(detector))[0]


def test_a_model_that_hides_its_gradient(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steps(Wrapped):
        def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return logits.detach() + 0.0 * images.sum(dim=(1, 2, 3))

    hidden = Steps(detector)
    monkeypatch.setattr("dfcore.evaluation.outcomes.fold_batch_norm", lambda found: found)
    names, _ = tripped(hidden)
    assert {"gradients_reach_pixels", "broken_at_large_epsilon"} <= names


def test_a_model_without_any_gradient(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Detached(Wrapped):
        def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return logits.detach()

    names, _ = tripped(Detached(detector), ATTACKS[:1])
    assert names == {"gradients_reach_pixels"}


def test_an_attack_that_leaves_the_ball(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FGSM, "project", lambda self, candidates, images: candidates)
    monkeypatch.setattr(
        FGSM, "step", lambda self, candidates, slope, size: candidates + 2 * size * slope.sign()
    )
    assert "perturbation_in_ball" in tripped(detector)[0]


def test_an_attack_that_leaves_the_box(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FGSM, "clamp", lambda self, candidates: candidates + 1 / 255)
    assert "perturbation_in_ball" in tripped(detector)[0]


def test_an_attack_that_makes_nan(tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FGSM, "clamp", lambda self, candidates: candidates * float("nan"))
    assert {"perturbation_in_ball", "finite_scores"} <= tripped(detector)[0]


@pytest.mark.parametrize("kind", ["nothing", "noise", "downhill"])
def test_an_iterative_attack_that_does_not_search(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def perturb(self: PGD, model: Any, images: Any, labels: Any, threshold: float, generator: Any) -> Any:
        if kind == "noise":
            return RandomNoise(epsilon=self.epsilon).perturb(model, images, labels, threshold, generator)
        if kind == "downhill":
            _, slope = self.gradient(model, images, labels, threshold)
            return (images - self.epsilon * slope.sign()).clamp(0, 1)
        return images.clone()

    monkeypatch.setattr(PGD, "perturb", perturb)
    expected = {"iterative_beats_single_step", "white_box_beats_noise", "broken_at_large_epsilon"}
    assert expected <= tripped(detector)[0]


def test_an_attack_that_gets_weaker_with_its_budget(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: PGD, model: Any, images: Any, *rest: Any) -> Any:
        return honest(self, model, images, *rest) if self.epsilon < 8 / 255 else images.clone()

    monkeypatch.setattr(PGD, "perturb", perturb)
    assert "robust_accuracy_falls" in tripped(detector)[0]


def test_an_attack_that_more_steps_make_worse(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: PGD, model: Any, images: Any, *rest: Any) -> Any:
        if self.steps < 20:
            strong = self.model_copy(update={"epsilon": 8 / 255, "step_size": 2 / 255})
            return honest(strong, model, images, *rest)
        return images.clone()

    monkeypatch.setattr(PGD, "perturb", perturb)
    assert "more_steps_help_attacker" in tripped(detector)[0]


def test_noise_that_does_the_attack_s_work(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perturb(self: Any, model: Any, images: Any, labels: Any, threshold: float, generator: Any) -> Any:
        return FGSM(epsilon=self.epsilon).perturb(model, images, labels, threshold, generator)

    monkeypatch.setattr(RandomNoise, "perturb", perturb)
    assert "noise_hardly_hurts" in tripped(detector)[0]


def test_training_videos_in_the_evaluation(tripped: Any, detector: Detector, crops: Crops) -> None:
    clean = ATTACKS[:1]
    names, evidence = tripped(detector, clean, [str(crops.group_ids[0]), "another"])
    assert names == {"no_training_overlap"}
    assert evidence.tripped()[0].value == 4
    assert tripped(detector, clean, None)[0] == {
        "no_training_overlap"
    }  # nobody recorded what it was trained on


def test_training_groups_come_from_the_card(tripped: Any, detector: Detector, crops: Crops) -> None:
    known = copy.deepcopy(detector)
    for groups, expected in ((["train"], set()), ([str(crops.group_ids[5])], {"no_training_overlap"})):
        known.card = DetectorCard(
            architecture=known.config,
            preprocessing=PreprocessingConfig(),
            threshold=0.5,
            provenance={"training_groups": groups},
        )
        assert tripped(known, ATTACKS[:1], None)[0] == expected
