from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dfcore.attacks import (
    APGD,
    ATTACKS,
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
    Flow,
    FreeVideo,
    NormAttack,
    RandomNoise,
    Square,
    TorchAttacks,
    Transfer,
    Universal,
    VideoAttack,
    margin,
)
from dfcore.models import Detector
from tests.attacks.properties import (
    attacked,
    batch,
    check_ball,
    check_box,
    check_harm,
    check_no_harm_undone,
    decided,
    size_of,
    sized,
)

GRADIENT: list[NormAttack] = [
    FGSM(epsilon=4 / 255),
    FGSM(norm="l2", epsilon=0.5),
    BIM(epsilon=4 / 255, step_size=1 / 255, steps=5),
    BIM(epsilon=4 / 255, step_size=1 / 255, steps=5, keep_best=False),
    MIFGSM(epsilon=4 / 255, step_size=1 / 255, steps=5),
    PGD(epsilon=4 / 255, step_size=1 / 255, steps=5),
    PGD(epsilon=4 / 255, step_size=3 / 255, steps=4, restarts=2),
    PGD(epsilon=4 / 255, step_size=1 / 255, steps=5, random_start=False),
    PGD(epsilon=4 / 255, step_size=2 / 255, steps=5, keep_best=False),
    PGD(epsilon=4 / 255, step_size=2 / 255, steps=4, restarts=2, until_fooled=True),
    PGDL2(epsilon=0.5, step_size=0.2, steps=5),
    APGD(epsilon=4 / 255, steps=8),
    APGD(epsilon=0.5, norm="l2", steps=8),
]
BOUNDARY: list[NormAttack] = [
    FAB(epsilon=4 / 255, steps=4, restarts=2, until_fooled=True),
    CWL2(epsilon=0.5, steps=5, searches=2, constant=1),
    AutoAttackBinary(epsilon=4 / 255, steps=4, restarts=2, queries=8),
    AutoAttackBinary(epsilon=4 / 255, steps=4, restarts=1, queries=8, until_fooled=False),
    TorchAttacks(epsilon=4 / 255, name="PGD", settings={"alpha": 1 / 255, "steps": 5}),
]
VIDEO: list[NormAttack] = [
    ConsistentVideo(epsilon=4 / 255, step_size=1 / 255, steps=5),
    ConsistentVideo(epsilon=4 / 255, step_size=1 / 255, steps=5, keyframes=2),
    FreeVideo(epsilon=4 / 255, step_size=1 / 255, steps=5, restarts=2),
]
BLIND: list[NormAttack] = [RandomNoise(epsilon=4 / 255), RandomNoise(norm="l2", epsilon=0.5)]
QUERIES: list[NormAttack] = [
    Square(epsilon=4 / 255, queries=12),
    Square(epsilon=4 / 255, until_fooled=True, queries=12),
]
READY = [*GRADIENT, *BOUNDARY, *QUERIES, *BLIND, *VIDEO]
NEED_OTHERS = [Transfer(), Universal(epsilon=4 / 255, steps=10, batch_size=8)]
ALL: list[Attack] = [*READY, *NEED_OTHERS]


def name(attack: Attack) -> str:
    return repr(attack)[:60]


@pytest.fixture(scope="session")
def ready(detector: Detector) -> dict[str, Attack]:
    """Attacks that need a fit or surrogates, ready to run on 32 pixels."""
    universal, transfer = NEED_OTHERS[1], NEED_OTHERS[0]
    assert isinstance(universal, Universal)
    assert isinstance(transfer, Transfer)
    return {
        "universal": universal.fit(detector, *batch(77, 16), generator=torch.Generator().manual_seed(0)),
        "transfer": transfer.using([detector]),
    }


def test_every_bounded_kind_is_tested() -> None:
    bounded = {kind for kind, family in ATTACKS.items() if issubclass(family, NormAttack | Transfer)}
    assert bounded == {attack.kind for attack in ALL}


@pytest.mark.parametrize("attack", ALL, ids=name)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**20), grey=st.floats(0, 32))
def test_stays_in_ball_and_box(
    attack: Attack, ready: dict[str, Attack], detector: Detector, seed: int, grey: float
) -> None:
    attack = sized(
        ready.get(attack.kind, attack), grey / 255 if attack.threat_model.norm == "linf" else grey / 9
    )
    images, labels = batch(seed, 4)
    check_ball(attack, detector, images, labels)
    check_box(attack, detector, images, labels)
    if not isinstance(attack, Universal | RandomNoise | FGSM | VideoAttack) and getattr(
        attack, "keep_best", True
    ):
        check_no_harm_undone(attack, detector, images, labels)


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_epsilon_zero_is_identity(attack: Attack, ready: dict[str, Attack], detector: Detector) -> None:
    images, labels = batch(0)
    found = attacked(sized(ready.get(attack.kind, attack), 0.0), detector, images, labels)
    assert torch.equal(found, images)


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_same_seed_same_result_and_input_untouched(
    attack: Attack, ready: dict[str, Attack], detector: Detector
) -> None:
    attack = ready.get(attack.kind, attack)
    images, labels = batch(1)
    before = images.clone()
    first = attacked(attack, detector, images, labels)
    torch.manual_seed(5)  # the global state is not what decides
    assert torch.equal(first, attacked(attack, detector, images, labels))
    assert torch.equal(images, before)


@pytest.mark.parametrize("attack", [*GRADIENT, *BOUNDARY, Transfer()], ids=name)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_hurts(attack: Attack, ready: dict[str, Attack], detector: Detector, seed: int) -> None:
    images, _ = batch(seed)
    check_harm(ready.get(attack.kind, attack), detector, images, decided(detector, images))


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_leaves_no_trace_on_the_detector(
    attack: Attack, ready: dict[str, Attack], detector: Detector
) -> None:
    attack = ready.get(attack.kind, attack)
    images, labels = batch(2)
    modes = [module.training for module in detector.modules()]
    statistics = detector.backbone.body[1].running_mean.clone()
    try:
        detector.train()
        detector.backbone.body[0].eval()  # a module of its own mode
        with torch.inference_mode():
            found = attacked(attack, detector, images, labels)
        flags = [module.training for module in detector.modules() if module is not detector.backbone.body[0]]
        assert all(flags)
        assert not detector.backbone.body[0].training
        assert all(p.requires_grad and p.grad is None for p in detector.parameters())
    finally:
        for module, flag in zip(detector.modules(), modes, strict=True):
            module.training = flag
    assert torch.equal(found, attacked(attack, detector, images, labels)), "dropout was active"
    assert torch.equal(detector.backbone.body[1].running_mean, statistics)
    assert not found.requires_grad


@pytest.mark.parametrize(
    "attack",
    [attack for attack in (*GRADIENT, *BOUNDARY, *QUERIES) if getattr(attack, "keep_best", True)],
    ids=name,
)
def test_success_is_judged_at_the_deployed_threshold(attack: Attack, detector: Detector) -> None:
    images, labels = batch(6)
    with torch.no_grad():
        before = torch.sigmoid(detector(images))
        found = attack(detector, images, labels, threshold=0.7, generator=torch.Generator().manual_seed(0))
        after = torch.sigmoid(detector(found))
        value = margin(detector, found, labels, 0.7)
    wrong_before, wrong_after = ((scores >= 0.7).long() != labels for scores in (before, after))
    assert torch.equal(value > 0, wrong_after)
    if not isinstance(attack, FGSM):  # one step may be a step too far
        assert bool((wrong_after | ~wrong_before).all()), "an image already wrong was made right"


def test_an_empty_batch_is_no_accident(detector: Detector) -> None:
    images, labels = torch.zeros(0, 3, 32, 32), torch.zeros(0).long()
    for attack in (*GRADIENT, *BOUNDARY[:-1], *QUERIES, *BLIND):
        assert attack(detector, images, labels).shape == images.shape


class Distracted(nn.Module):
    """A detector behind something else, as a wrapper for random transformations is."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.inner = detector

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images.flip(-1))


@pytest.mark.parametrize("attack", [*GRADIENT, *BOUNDARY], ids=name)
def test_any_module_will_do(attack: Attack, detector: Detector) -> None:
    images, _ = batch(3)
    wrapped = Distracted(detector)
    check_harm(attack, wrapped, images, decided(wrapped, images))


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_says_what_it_is(attack: Attack) -> None:
    threat = attack.threat_model
    assert threat.epsilon is not None
    described = threat.model_dump(mode="json")
    assert described["epsilon"].endswith("/255")
    expected = {RandomNoise: "none", Square: "black-box", Transfer: "transfer"}
    assert threat.knowledge == expected.get(type(attack), "white-box")
    assert type(attack).parse(attack.describe()).kind == attack.kind


def test_size_is_the_norms(detector: Detector) -> None:
    images, labels = batch(4)
    for attack in (FGSM(epsilon=4 / 255), PGDL2(epsilon=0.5)):
        delta = attacked(attack, detector, images, labels) - images
        limit = attack.epsilon
        assert 0.5 * limit < size_of(attack, delta) <= limit * (1 + 1e-4)
        assert margin(detector, images + delta, labels, 0.5).mean() > 0


class Waits(TorchDispatchMode):
    """Counts the operations at which a program would wait for its accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        masked = name.startswith("aten.index") and any(
            index is not None and index.dtype == torch.bool
            for indices in args if isinstance(indices, list | tuple) for index in indices
        )  # fmt: skip
        waits = (
            "aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten._unique",
            "aten.bincount",
        )  # fmt: skip
        self.count += masked or name.startswith(waits)
        return function(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits() -> None:
    values = torch.arange(3.0)
    for wait in (
        lambda: values.max().item(), lambda: bool(values[0] > 0), lambda: values[values > 1],
        lambda: values.nonzero(), lambda: torch.equal(values, values),
        lambda: torch.bincount(values.long()),
    ):  # fmt: skip
        with Waits() as waits:
            wait()
        assert waits.count > 0
    with Waits() as waits:
        torch.where(values > 1, values, values + 1)
    assert waits.count == 0


@pytest.mark.parametrize(
    ("attack", "allowed"),
    [
        *((attack, 0) for attack in GRADIENT if not getattr(attack, "until_fooled", False)),
        (FAB(steps=3, restarts=2), 0),
        (CWL2(steps=3, searches=2), 0),
        (Square(queries=30), 0),
        (RandomNoise(), 0),
        (Flow(steps=3), 0),
        (PGD(steps=4, restarts=3, until_fooled=True), 3),  # one for each restart
        (APGD(steps=4, restarts=3, until_fooled=True), 3),
        (FAB(steps=4, restarts=3, until_fooled=True), 3),
        (Square(queries=130, until_fooled=True), 3),  # the stripes, then every hundred queries
    ],
    ids=lambda value: name(value) if isinstance(value, Attack) else "",
)
def test_never_waits_for_the_device_within_a_search(attack: Attack, allowed: int, detector: Detector) -> None:
    images, labels = batch(5, 4)
    with Waits() as waits:
        attack.craft(detector, images, labels, generator=torch.Generator().manual_seed(0))
    assert waits.count <= allowed


@pytest.mark.parametrize("attack", [FreeVideo(restarts=2), ConsistentVideo(keyframes=2)], ids=name)
def test_more_steps_on_videos_wait_no_more(attack: VideoAttack, detector: Detector) -> None:
    images, _ = batch(5, 4)
    counts = []
    for steps in (1, 4):
        with Waits() as waits:
            attack.model_copy(update={"steps": steps})(
                detector, images, torch.tensor([0, 0, 1, 1]), video_ids=["a", "a", "b", "b"],
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_the_example_of_the_guide_runs() -> None:
    guide = Path(__file__).parents[2] / "docs" / "adding-an-attack.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(guide), "exec"), {})  # noqa: S102  # our own text
