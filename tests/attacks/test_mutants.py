"""Take one part out of an attack: a property or strength check must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dfcore.attacks import (
    APGD,
    BIM,
    CWL2,
    FAB,
    FGSM,
    MIFGSM,
    PGD,
    PGDL2,
    Attack,
    AutoAttackBinary,
    ConsistentVideo,
    FreeVideo,
    NormAttack,
    Square,
    Transfer,
    Universal,
    margin,
)
from dfcore.attacks.template import Found
from dfcore.models import Detector
from tests.attacks.conftest import faces
from tests.attacks.properties import (
    attacked,
    batch,
    check_ball,
    check_box,
    check_harm,
    check_harm_at_any_scale,
    decided,
)
from tests.attacks.test_apgd import Ridge, Waves, as_published, tiny_batch
from tests.attacks.test_fab import Linear, exact, points
from tests.attacks.test_gradient import as_published as momentum_as_published

Check = Callable[[Any, Any, torch.Tensor, torch.Tensor], None]


def _no_projection(self: Attack, candidates: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return candidates


def _no_clamp(self: Attack, candidates: torch.Tensor) -> torch.Tensor:
    return candidates


def _no_step(self: Attack, candidates: torch.Tensor, gradient: torch.Tensor, size: Any) -> torch.Tensor:
    return candidates


def _downhill(self: NormAttack, candidates: torch.Tensor, gradient: torch.Tensor, size: Any) -> torch.Tensor:
    return candidates - size * self.distance.normalise(gradient)


def _no_sign(self: Attack, candidates: torch.Tensor, gradient: torch.Tensor, size: Any) -> torch.Tensor:
    return candidates + size * gradient


def _projection_around_the_last_point(
    self: NormAttack, candidates: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    return images + self.distance.project(candidates - images, 2 * self.epsilon)


def _keep_the_last(self: Attack, found: Found, candidates: torch.Tensor, value: torch.Tensor) -> Found:
    return candidates, value


def _keep_the_mildest(self: Attack, found: Found, candidates: torch.Tensor, value: torch.Tensor) -> Found:
    milder = value < found[1]
    return torch.where(milder.view(-1, 1, 1, 1), candidates, found[0]), torch.where(milder, value, found[1])


def _keep_nothing(self: Attack, found: Found, candidates: torch.Tensor, value: torch.Tensor) -> Found:
    return found


def _uphill_is_downhill(self: Attack, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    value, slope = Attack.gradient(self, *arguments)
    return value, -slope


def _never(self: Attack, climbs: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.zeros_like(climbs, dtype=torch.bool)


def _always(self: Attack, climbs: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.ones_like(climbs, dtype=torch.bool)


def check_restarts(attack: Any, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Three starts are at least as bad for the detector as the first of them, image by image."""
    images, labels = faces(140, 12)
    several = attack.model_copy(update={"restarts": 3})
    first, worst = (
        margin(detector, attacked(each, detector, images, labels), labels, 0.5).detach()
        for each in (attack, several)
    )
    assert bool((worst >= first - 1e-6).all())
    assert worst.mean() > first.mean()


def check_momentum(attack: Any, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    images, labels = faces(46, 12)
    expected = momentum_as_published(detector, images, labels, attack.decay)
    agreed = (attacked(attack, detector, images, labels) - expected).abs() < 1e-6
    assert float(agreed.float().mean()) > 0.999


def check_published(attack: Any, detector: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Its best value is that of the published algorithm, written out for one image."""
    clean = tiny_batch()
    start = attack.start(clean, torch.Generator().manual_seed(0))
    for landscape in (Ridge(clean + 0.013), Waves()):
        found = attacked(attack, landscape, clean, torch.zeros(6, dtype=torch.long))
        with torch.no_grad():
            values = landscape(found)
        for row in range(6):
            single = Ridge(landscape.summit[row : row + 1]) if isinstance(landscape, Ridge) else landscape
            expected = as_published(single, start[row], clean[row], attack)
            assert abs(float(values[row]) - expected) < 1e-3 * max(1, abs(expected))


def check_distance(attack: Any, detector: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    """The distances to a linear detector's boundary are the exact ones, box and all."""
    linear, images = Linear(0), points(4)
    labels = decided(linear, images)
    with torch.no_grad():
        logits = linear(images)
    found, distance = attack.nearest(linear, images, labels)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    expected = exact(images, linear.weight.expand(len(images), -1), -logits)
    torch.testing.assert_close(distance.double(), expected, rtol=0.01, atol=1e-5)


def check_euclidean_distance(attack: Any, detector: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    linear = Linear(2)
    images = 0.5 + 0.1 * torch.rand((6, 3, 5, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = linear(images).abs() / linear.weight.norm()
    _, distance = attack.nearest(linear, images, decided(linear, images))
    torch.testing.assert_close(distance, expected, rtol=0.05, atol=1e-4)


def check_parts(attack: Any, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    """The ensemble is at least as bad for the detector as its first part, image by image."""
    first, worst = (
        margin(detector, attacked(each, detector, images, labels), labels, 0.5).detach()
        for each in (attack.parts[0], attack)
    )
    assert bool((worst >= first - 1e-6).all())


def check_search(attack: Any, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Random search gets far beyond what its first guess reaches."""
    images, labels = faces(141, 8)
    clean, first, last = (
        margin(detector, attacked(each, detector, images, labels), labels, 0.5).detach().mean()
        for each in (
            attack.model_copy(update={"epsilon": 0.0}),
            attack.model_copy(update={"queries": 1}),
            attack,
        )
    )
    assert last - clean > 1.3 * (first - clean)


def check_videos(attack: Any, detector: Detector, images: torch.Tensor, labels: torch.Tensor) -> None:
    """No video is handed back better for the detector than it came, and all together are hurt."""
    images, labels = faces(142, 8)
    found = attacked(attack, detector, images, labels)
    ids = labels + 2 * (torch.arange(8) >= 4)
    with torch.no_grad():
        gain = margin(detector, found, labels, 0.5) - margin(detector, images, labels, 0.5)
    by_video = torch.stack([gain[ids == video].mean() for video in range(4)])
    assert bool((by_video > 0.5).all())


BUDGET = {"epsilon": 4 / 255}
STEPS = {**BUDGET, "step_size": 2 / 255, "steps": 6}
SOUND: dict[str, Any] = {
    "fgsm": FGSM(**BUDGET),
    "bim": BIM(**STEPS),
    "mi-fgsm": MIFGSM(**STEPS),
    "mi-fgsm_last": MIFGSM(epsilon=4 / 255, step_size=2 / 255, steps=3, decay=0.9, keep_best=False),
    "pgd": PGD(**STEPS),
    "pgd_last": PGD(**STEPS, keep_best=False),
    "pgd_far": PGD(epsilon=5 / 255, step_size=5 / 255, steps=3),
    "pgd-l2": PGDL2(epsilon=0.5, step_size=0.25, steps=6),
    "apgd": APGD(**BUDGET, steps=6),
    "apgd_long": APGD(epsilon=8 / 255, steps=50),
    "apgd_far": APGD(epsilon=5 / 255, steps=3),
    "fab": FAB(**BUDGET, steps=5),
    "fab_long": FAB(steps=10),
    "fab_once": FAB(steps=1),
    "square": Square(**BUDGET, queries=10),
    "square_long": Square(epsilon=20 / 255, queries=100),
    "cw-l2": CWL2(epsilon=0.5, steps=5, searches=2, constant=1),
    "cw_long": CWL2(steps=100, searches=7),
    "autoattack-binary": AutoAttackBinary(**BUDGET, steps=5, restarts=1, queries=5),
    "autoattack_all": AutoAttackBinary(**BUDGET, steps=5, restarts=1, queries=5, until_fooled=False),
    "video-consistent": ConsistentVideo(**STEPS),
    "video-aggregate": FreeVideo(**STEPS),
}
ITERATIVE = ("bim", "mi-fgsm", "pgd", "pgd_last", "pgd-l2", "apgd")
MUTANTS: list[tuple[str, str, Any, Check]] = [
    *((kind, "project", _no_projection, check_ball) for kind in (*ITERATIVE, "fab", "cw-l2")),
    *((kind, "project", _projection_around_the_last_point, check_ball) for kind in ITERATIVE),
    *((kind, "clamp", _no_clamp, check_box) for kind in (*ITERATIVE, "fgsm", "square")),
    *((kind, "step", broken, check_harm)
      for kind in ("fgsm", *ITERATIVE) for broken in (_no_step, _downhill)),
    # momentum adds gradients of mean size one, so that a lost sign shows as a step far too large only
    *((kind, "step", _no_sign, check_harm_at_any_scale)
      for kind in ("fgsm", *ITERATIVE) if kind != "mi-fgsm"),
    ("mi-fgsm_last", "accumulate", lambda self, velocity, slope: slope, check_momentum),
    ("mi-fgsm_last", "accumulate",
     lambda self, velocity, slope: slope if velocity is None else self.decay * velocity + slope,
     check_momentum),
    *((kind, "gradient", _uphill_is_downhill, check_harm) for kind in ("fgsm", *ITERATIVE, "fab", "cw-l2")),
    # which start, which step, which part counts
    *((kind, "keep", broken, check_harm) for kind in ("pgd", "apgd", "fab", "cw-l2", "autoattack-binary")
      for broken in (_keep_nothing, _keep_the_mildest)),
    *((kind, "keep", _keep_the_last, check_restarts) for kind in ("pgd_far", "apgd_far")),
    ("autoattack_all", "keep", _keep_the_last, check_parts),
    # APGD: step sizes, the best point, momentum
    ("apgd_long", "stalls", _never, check_published),
    ("apgd_long", "stalls", _always, check_published),
    ("apgd_long", "turn_back", lambda self, halved, current, best: current, check_published),
    ("apgd_long", "advance",
     lambda self, before, current, slope, size, images, first:
         self.clamp(self.project(self.step(current, slope, size), images)), check_published),
    # FAB: the projection, its box, the way back
    ("fab_long", "hyperplane", lambda self, *a: -FAB.hyperplane(self, *a), check_distance),
    ("fab_long", "hyperplane", lambda self, *a: 0.5 * FAB.hyperplane(self, *a), check_distance),
    ("fab_long", "hyperplane",
     lambda self, points, slope, gap: slope.sign() * (gap / slope.abs().flatten(1).sum(1)).view(-1, 1, 1, 1),
     check_distance),
    ("fab_long", "clamp", _no_clamp, check_distance),
    ("fab_once", "shorten", lambda self, detector, images, labels, threshold, best: best, check_distance),
    # C&W: which way, and how near
    ("cw_long", "gradient", _uphill_is_downhill, check_euclidean_distance),
    ("cw_long", "shorten",
     lambda self, detector, images, labels, threshold, best: (images, torch.zeros_like(best[1])),
     check_euclidean_distance),
    # Square: accept if better, squares at all
    *(("square_long", "keep", broken, check_search)
      for broken in (_keep_the_last, _keep_the_mildest, _keep_nothing)),
    ("square_long", "propose", lambda self, images, best, query, generator: best, check_search),
    # videos
    *((kind, "step", broken, check_videos) for kind in ("video-consistent", "video-aggregate")
      for broken in (_downhill,)),
    *((kind, "project", _no_projection, check_ball) for kind in ("video-consistent", "video-aggregate")),
    *((kind, "clamp", _no_clamp, check_box) for kind in ("video-consistent", "video-aggregate")),
]  # fmt: skip
TRAINED = (check_momentum, check_restarts, check_search, check_videos)


def mutate(sound: Any, hook: str, broken: Any) -> Any:
    return type("Mutant", (type(sound),), {hook: broken})(**sound.model_dump())


@pytest.mark.parametrize(
    ("kind", "hook", "broken", "check"),
    MUTANTS,
    ids=[f"{m[0]}-{m[1]}-{number}" for number, m in enumerate(MUTANTS)],
)
def test_mutant_dies(
    kind: str, hook: str, broken: Any, check: Check, detector: Detector, trained: Detector
) -> None:
    sound = SOUND[kind]
    images, labels = batch(0)
    labels = decided(detector, images) if check in (check_harm, check_harm_at_any_scale) else labels
    victim = trained if check in TRAINED else detector
    check(sound, victim, images, labels)
    with pytest.raises(AssertionError):
        check(mutate(sound, hook, broken), victim, images, labels)


@pytest.mark.parametrize(
    ("hook", "broken", "check"),
    [
        ("project", _no_projection, check_ball),
        ("clamp", _no_clamp, check_box),
        ("step", _downhill, check_harm),
        ("step", _no_step, check_harm),
    ],
)
def test_mutants_of_the_universal_attack_die(hook: str, broken: Any, check: Check, trained: Detector) -> None:
    sound = Universal(epsilon=8 / 255, step_size=2 / 255, steps=20)
    images, labels = faces(143, 8)
    images[0] = (images[0] > 0.5).float()  # touches the box

    def fitted(attack: Any) -> Any:
        return attack.fit(trained, *faces(144, 24), generator=torch.Generator().manual_seed(0))

    mine = check if check is not check_harm else _check_mean_harm
    mine(fitted(sound), trained, images, labels)
    with pytest.raises(AssertionError):
        mine(fitted(mutate(sound, hook, broken)), trained, images, labels)


def _check_mean_harm(attack: Any, detector: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    found = attacked(attack, detector, images, labels)
    with torch.no_grad():
        gain = margin(detector, found, labels, 0.5) - margin(detector, images, labels, 0.5)
    assert float(gain.mean()) > 0.5


def test_a_transfer_that_asks_the_detector_dies(trained: Detector, sibling: Detector) -> None:
    sound = Transfer(attack=MIFGSM(**STEPS)).using([sibling])
    images, labels = faces(145, 4)

    def check(attack: Any) -> None:
        assert torch.equal(attack(trained, images, labels), attack(sibling, images, labels)), (
            "depends on the victim"
        )

    check(sound)
    broken = type("Mutant", (Transfer,), {"perturb": lambda self, *a: self.attack.perturb(*a)})(
        **sound.model_dump()
    )
    with pytest.raises(AssertionError):
        check(broken)
