"""Other people's code attacks the same detector, and a weakened attack of ours is found out by it."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfcore.attacks import FGSM, PGD, AutoAttackBinary, NormAttack, TwoLogits
from dfcore.data import Crops
from dfcore.errors import ConfigError
from dfcore.evaluation import SUITES, Referee, Scenario, get_suite
from dfcore.models import Detector
from tests.evaluation.conftest import ATTACKS, STEPS, Wrapped

LEVEL = 4
EPSILON = LEVEL / 255
PAIRS = [
    (library, method)
    for library in ("art", "foolbox", "torchattacks")
    for method in ("fgsm", "pgd", "apgd", "square")
    if library != "foolbox" or method in ("fgsm", "pgd")
]
SETTINGS: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"step_size": 2.5 * EPSILON / STEPS, "steps": STEPS},
    "apgd": {"steps": 10},
    "square": {"queries": 50},
}


def referee(library: str, method: str, **more: Any) -> Referee:
    return Referee.parse(
        {"library": library, "method": method, "epsilon": EPSILON, **SETTINGS[method], **more}
    )


def scenarios(**pgd: Any) -> tuple[Scenario, ...]:
    """Ours and, at the same settings, everybody else's."""
    climb = PGD(**{"epsilon": EPSILON, **SETTINGS["pgd"], **pgd})
    auto = AutoAttackBinary(epsilon=EPSILON, steps=5, restarts=1, queries=30)
    ours = (
        Scenario(name="fgsm", attack=FGSM(epsilon=EPSILON)),
        Scenario(name="pgd", attack=climb),
        Scenario(name="auto", attack=auto, builds_on=("fgsm", "pgd"), again="standing"),
    )
    theirs = (
        Scenario(
            name=f"{library}_{method}", role="guard", attack=referee(library, method),
            builds_on=("auto",) if method in ("apgd", "square") else (),
            again="standing" if method in ("apgd", "square") else "unsettled",
        )
        for library, method in PAIRS
    )  # fmt: skip
    return (ATTACKS[0], *ours, *theirs)


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_two_classes_are_exact(detector: Detector, crops: Crops, threshold: float) -> None:
    images, labels = crops.tensor()[:8], torch.from_numpy(crops.labels[:8])
    with torch.no_grad():
        own = detector(images)
        logits = TwoLogits(detector, threshold)(images)
    assert torch.equal(logits.argmax(1), (torch.sigmoid(own) > threshold).long())
    shifted = own - torch.logit(torch.tensor(threshold))
    binary = F.binary_cross_entropy_with_logits(shifted, labels.float())
    torch.testing.assert_close(F.cross_entropy(logits, labels), binary)


class Sure(Wrapped):
    """Calls everything a fake, beyond what float32 can round."""

    def spoil(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        del images
        return 30 + 0 * logits.detach() + 1e-3 * logits


@pytest.mark.parametrize("label", [0, 1])
def test_a_confident_detector_still_shows_its_gradient(detector: Detector, crops: Crops, label: int) -> None:
    pixels = crops.tensor()[:4].requires_grad_()
    loss = F.cross_entropy(TwoLogits(Sure(detector), 0.5)(pixels), torch.full((4,), label))
    (slope,) = torch.autograd.grad(loss, pixels)
    assert bool((slope.abs().amax((1, 2, 3)) > 0).all())


@pytest.mark.parametrize(("library", "method"), PAIRS)
def test_each_library_attacks_within_bounds_and_leaves_no_trace(
    detector: Detector, crops: Crops, library: str, method: str
) -> None:
    images, labels = crops.tensor()[::3], torch.from_numpy(crops.labels[::3])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    modes = [module.training for module in detector.modules()]
    attack = referee(library, method)
    first, again = (
        attack(detector, images, labels, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert float((first - images).abs().max()) <= EPSILON + 1e-6
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    with torch.no_grad():
        harm = (1 - 2 * labels) * (detector(first) - detector(images))
    # torchattacks' Square gives back the clean image unless it turned the decision
    assert float(harm.mean()) > 0 or (library, method) == ("torchattacks", "square")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert modes == [module.training for module in detector.modules()]
    known = attack.threat_model
    assert known.knowledge == ("black-box" if method == "square" else "white-box")
    assert (known.steps, known.queries) == (SETTINGS[method].get("steps"), SETTINGS[method].get("queries"))


def test_everybody_agrees_on_an_honest_evaluation(tripped: Any, detector: Detector) -> None:
    names, evidence = tripped(detector, scenarios(), folded=True)
    assert names == set()
    assert [one.scenario for one in evidence.referees] == [f"{a}_{b}" for a, b in PAIRS]
    for one in evidence.referees:
        assert one.n == 48
        assert one.ours_by == {"fgsm": "fgsm", "pgd": "pgd"}.get(one.method, "auto")
        assert one.difference.value == pytest.approx(one.ours.value - one.theirs.value)
        assert one.ours.low <= one.ours.value <= one.ours.high
        assert one.verdict != "stronger"
        if one.method == "fgsm":  # nothing is random in it
            assert one.ours == one.theirs
    (guard,) = (guard for guard in evidence.guards if guard.name == "others_code_agrees")
    assert "10 compared" in guard.detail
    results = {result.scenario: result for result in evidence.results if result.slice == "all"}
    assert results["art_apgd"].role == "guard"
    assert results["art_apgd"].attacked < results["art_apgd"].n == 48


def test_a_step_size_of_zero_is_found_out(tripped: Any, detector: Detector) -> None:
    names, evidence = tripped(detector, scenarios(step_size=0.0, random_start=False), folded=True)
    assert "others_code_agrees" in names
    assert not evidence.valid
    stronger = {one.scenario for one in evidence.referees if one.verdict == "stronger"}
    assert {"art_pgd", "foolbox_pgd", "torchattacks_pgd"} <= stronger


def test_a_projection_into_too_small_a_ball_is_found_out(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def project(self: NormAttack, candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return images + (candidates - images).clamp(-self.epsilon / 10, self.epsilon / 10)

    monkeypatch.setattr(NormAttack, "project", project)
    names, evidence = tripped(detector, scenarios(), folded=True)
    assert "others_code_agrees" in names
    assert {"fgsm", "pgd", "apgd"} <= {one.method for one in evidence.referees if one.verdict == "stronger"}


def test_a_weak_library_is_told_and_passes(
    tripped: Any, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Referee, "perturb", lambda self, model, images, *rest: images.clone())
    names, evidence = tripped(detector, scenarios(), folded=True)
    assert "others_code_agrees" not in names
    assert {one.verdict for one in evidence.referees if one.method == "pgd"} == {"weaker"}
    (guard,) = (guard for guard in evidence.guards if guard.name == "others_code_agrees")
    assert "weaker than ours: art_fgsm, art_pgd" in guard.detail


def test_the_suite_asks_every_library_for_the_same_attack() -> None:
    by_name = {scenario.name: scenario for scenario in SUITES["full"]}
    found = [scenario for scenario in SUITES["full"] if isinstance(scenario.attack, Referee)]
    methods: dict[str, set[str]] = {}
    for scenario in found:
        attack = scenario.attack
        assert isinstance(attack, Referee)
        methods.setdefault(attack.library, set()).add(attack.method)
        (ours,) = (other for other in by_name.values() if scenario.referees(other))
        theirs, own = (one.threat_model(0).model_dump() for one in (scenario, ours))
        assert (theirs["norm"], theirs["epsilon"]) == (own["norm"], own["epsilon"])
        if attack.method == "pgd":
            assert (attack.steps, attack.step_size) == (own["steps"], getattr(ours.attack, "step_size", None))
    assert methods == {
        "art": {"fgsm", "pgd", "apgd", "square"}, "foolbox": {"fgsm", "pgd"},
        "torchattacks": {"fgsm", "pgd", "apgd", "square"},
    }  # fmt: skip
    assert Scenario.model_validate_json(found[0].model_dump_json()) == found[0]
    kept = {scenario.name for scenario in get_suite("full", ["fgsm_2_255"])}
    assert kept == {
        "clean", "fgsm_2_255", "pgd20_64_255", "square100_8_255", "art_fgsm_2_255", "foolbox_fgsm_2_255",
        "torchattacks_fgsm_2_255",
    }  # fmt: skip


def test_what_a_library_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an attack of foolbox, got 'square'; known: \['fgsm', 'pgd'\]"):
        Referee.parse({"library": "foolbox", "method": "square", "epsilon": "2/255", "queries": 5})
    with pytest.raises(ConfigError, match=r"expected \['step_size', 'steps'\] for pgd, got \['steps'\]"):
        Referee.parse({"library": "art", "method": "pgd", "epsilon": "2/255", "steps": 5})


def test_a_missing_library_is_named(
    tripped: Any, detector: Detector, crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before any work, never passed over."""
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "art" else known(name))
    message = r"packages adversarial-robustness-toolbox, .*run: pip install 'rampart\[referee\]'"
    with pytest.raises(ConfigError, match=message):
        tripped(detector, scenarios())
    with pytest.raises(ConfigError, match=message):
        referee("art", "fgsm")(detector, crops.tensor()[:2], torch.zeros(2))
