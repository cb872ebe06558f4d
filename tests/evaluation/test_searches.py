"""Each guard on an attack trips on one that does not search as it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfcore.attacks import FGSM, PGD, NormAttack, RandomNoise, Square
from dfcore.models import Detector
from tests.evaluation.conftest import STEPS


def test_an_attack_that_leaves_the_ball(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FGSM, "project", lambda self, candidates, images: candidates)
    monkeypatch.setattr(
        FGSM, "step", lambda self, candidates, slope, size: candidates + 2 * size * slope.sign()
    )
    assert "perturbation_in_ball" in tripped(detector)[0]


def test_an_iterative_attack_without_projection(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NormAttack, "project", lambda self, candidates, images: candidates)
    assert "perturbation_in_ball" in tripped(detector)[0]


def test_an_attack_that_leaves_the_box(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FGSM, "clamp", lambda self, candidates: candidates + 1 / 255)
    assert "perturbation_in_ball" in tripped(detector)[0]


def test_an_attack_that_makes_nan(tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FGSM, "clamp", lambda self, candidates: candidates * float("nan"))
    assert {"perturbation_in_ball", "finite_scores"} <= tripped(detector)[0]


def _idle(self: Any, model: Any, images: torch.Tensor, *rest: Any) -> torch.Tensor:
    return images.clone()


@pytest.mark.parametrize("family", [FGSM, PGD, RandomNoise, Square])
def test_an_attack_that_does_nothing(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch, family: type[NormAttack]
) -> None:
    monkeypatch.setattr(family, "perturb", _idle)
    assert "searches_do_harm" in tripped(detector)[0]


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
    expected = {
        "iterative_beats_single_step",
        "white_box_beats_noise",
        "white_box_beats_black_box",
        "broken_at_large_epsilon",
    }
    assert expected <= tripped(detector)[0]


def test_an_attack_that_gets_weaker_with_its_budget(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: PGD, model: Any, images: Any, *rest: Any) -> Any:
        return honest(self, model, images, *rest) if self.epsilon < 64 / 255 else images.clone()

    monkeypatch.setattr(PGD, "perturb", perturb)
    assert "robust_accuracy_falls" in tripped(detector)[0]


def test_an_attack_that_more_steps_make_worse(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: PGD, model: Any, images: Any, *rest: Any) -> Any:
        if self.steps < STEPS:
            strong = self.model_copy(update={"epsilon": 8 / 255, "step_size": 2 / 255})
            return honest(strong, model, images, *rest)
        return images.clone()

    monkeypatch.setattr(PGD, "perturb", perturb)
    assert "more_steps_help_attacker" in tripped(detector)[0]


def test_an_attack_that_more_restarts_make_worse(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: PGD, model: Any, images: Any, *rest: Any) -> Any:
        if self.restarts > 1:
            return images.clone()
        strong = self.model_copy(update={"epsilon": 64 / 255, "step_size": 8 / 255})
        return honest(strong, model, images, *rest)

    monkeypatch.setattr(PGD, "perturb", perturb)
    assert "more_restarts_help_attacker" in tripped(detector)[0]


def test_a_search_by_scores_that_finds_more(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PGD.perturb

    def perturb(self: Any, *batch: Any) -> torch.Tensor:
        return honest(PGD(epsilon=64 / 255, step_size=8 / 255), *batch)

    monkeypatch.setattr(PGD, "perturb", _idle)
    monkeypatch.setattr(Square, "perturb", perturb)
    assert "unseen_attack_agrees" in tripped(detector)[0]


def test_a_search_by_scores_that_is_mere_noise(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perturb(self: Any, model: Any, images: Any, labels: Any, threshold: float, generator: Any) -> Any:
        return RandomNoise(epsilon=self.epsilon).perturb(model, images, labels, threshold, generator)

    monkeypatch.setattr(Square, "perturb", perturb)
    assert "black_box_beats_noise" in tripped(detector)[0]


def test_noise_that_does_the_attack_s_work(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perturb(self: Any, model: Any, images: Any, labels: Any, threshold: float, generator: Any) -> Any:
        return FGSM(epsilon=self.epsilon).perturb(model, images, labels, threshold, generator)

    monkeypatch.setattr(RandomNoise, "perturb", perturb)
    assert "noise_hardly_hurts" in tripped(detector)[0]
