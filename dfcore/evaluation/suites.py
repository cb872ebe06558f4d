"""Suites: which scenarios belong together.

quick     the demo's and a pull request's: codecs, noise, FGSM, PGD at four budgets, the guards
standard  a release's: quality sweeps, FGSM, BIM and PGD sweeps, blur and flow, attacks sent through codecs
full      an audit's: all of that, and autoattack-binary, learned, universal, video, adaptive, transfer and
          black-box attacks, and referees: attacks by foolbox, torchattacks and ART; it needs crops of
          training identities, another detector and the extra `referee`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dfcore.attacks import (
    BIM,
    EOT,
    FGSM,
    H264,
    JPEG,
    PGD,
    AutoAttackBinary,
    ConsistentVideo,
    Flow,
    FreeVideo,
    GaussianBlur,
    PixelBlur,
    RandomNoise,
    Resize,
    Square,
    Transfer,
    UNetAttack,
    Universal,
)
from dfcore.config import suggest
from dfcore.errors import ConfigError
from dfcore.evaluation.referee import Library, Referee
from dfcore.evaluation.scenarios import Scenario

__all__ = ["SUITES", "get_suite"]

_LEVELS = (1, 2, 4, 8)
_LARGEST = 8 / 255
_STEPS = 20


def _jpeg(quality: int) -> JPEG:
    return JPEG(quality=(quality, quality), real=True)


def _h264(crf: int, *, real: bool = True) -> H264:
    return H264(crf=(crf, crf), real=real)


def _pgd(level: int) -> PGD:
    # 2.5 balls of way in all: each step can be undone, and the ball crossed
    epsilon = level / 255
    return PGD(epsilon=epsilon, step_size=min(1.0, 2.5 * epsilon / _STEPS), steps=_STEPS, restarts=1)


def _below(prefix: str, level: int) -> tuple[str, ...]:
    """Name the scenario with the next smaller budget of the same attack."""
    place = _LEVELS.index(level)
    return (f"{prefix}_{_LEVELS[place - 1]}_255",) if place else ()


_CLEAN = Scenario(name="clean")
_CODECS = (Scenario(name="jpeg_50", channel=_jpeg(50)), Scenario(name="h264", channel=_h264(23)))
_MORE_CODECS = (
    *(Scenario(name=f"jpeg_{quality}", channel=_jpeg(quality)) for quality in (90, 70, 30)),
    *(Scenario(name=f"h264_crf_{crf}", channel=_h264(crf)) for crf in (30, 37)),
    Scenario(name="h264_like", channel=_h264(28, real=False)),
    Scenario(name="resize_50", channel=Resize(factors=(0.5,))),
    Scenario(name="gaussian_blur_1", channel=GaussianBlur(sigma=(1.0, 1.0))),
)
_NOISE = Scenario(name="noise_8_255", attack=RandomNoise(epsilon=_LARGEST))
_FGSM = {level: Scenario(name=f"fgsm_{level}_255", attack=FGSM(epsilon=level / 255)) for level in _LEVELS}
_BIM = tuple(
    Scenario(
        name=f"bim10_{level}_255",
        attack=BIM(epsilon=level / 255, step_size=level / 255 / 5, steps=10),
        builds_on=(*_below("bim10", level), f"fgsm_{level}_255"),
    )
    for level in _LEVELS
)
_PGD = tuple(
    Scenario(name=f"pgd20_{level}_255", attack=_pgd(level), builds_on=_below("pgd20", level))
    for level in _LEVELS
)
_GUARDS = (
    Scenario(name="pgd20_64_255", role="guard", attack=_pgd(64)),
    Scenario(name="square100_8_255", role="guard", attack=Square(epsilon=_LARGEST, queries=100)),
)


def _refereed(library: Library) -> Scenario:
    attack = Referee(library=library, method="pgd", epsilon=2 / 255, step_size=0.25 / 255, steps=_STEPS)
    return Scenario(name=f"{library}_pgd20_2_255", role="guard", attack=attack)


_REFEREE = _refereed("torchattacks")
_LIBRARIES: tuple[Library, ...] = ("torchattacks", "foolbox", "art")
_REFEREES = (
    _refereed("foolbox"),
    _refereed("art"),
    *(
        Scenario(
            name=f"{library}_fgsm_2_255", role="guard",
            attack=Referee(library=library, method="fgsm", epsilon=2 / 255),
        )
        for library in _LIBRARIES
    ),
    # on what ours leaves standing: these are long, and elsewhere they could find nothing against us
    *(
        Scenario(
            name=f"{library}_{name}_2_255", role="guard",
            attack=Referee.model_validate({"library": library, "epsilon": 2 / 255, **settings}),
            builds_on=("autoattack_2_255",), again="standing",
        )
        for library in _LIBRARIES if library != "foolbox"  # which has neither
        for name, settings in (
            ("apgd100", {"method": "apgd", "steps": 100}),
            ("square1000", {"method": "square", "queries": 1000}),
        )
    ),
)  # fmt: skip
_ON_THE_WAY = (
    Scenario(name="pgd20_8_255_jpeg_50", attack=_pgd(8), channel=_jpeg(50)),
    Scenario(name="pgd20_8_255_h264", attack=_pgd(8), channel=_h264(23)),
)
_SMOOTH = (
    Scenario(name="blur_2px", attack=PixelBlur(max_sigma=2.0)),
    Scenario(name="flow_1px", attack=Flow(max_flow=1.0)),
)
_AUTO = tuple(
    Scenario(
        name=f"autoattack_{level}_255",
        attack=AutoAttackBinary(epsilon=level / 255),
        builds_on=(
            *_below("autoattack", level), f"fgsm_{level}_255", f"bim10_{level}_255", f"pgd20_{level}_255"
        ),
        again="standing",
    )
    for level in _LEVELS
)  # fmt: skip
_UNET = UNetAttack(epsilon=_LARGEST)
_LEARNED = (
    Scenario(name="unet_8_255", attack=_UNET),
    Scenario(name="unet_jpeg_50", attack=_UNET, channel=_jpeg(50)),
    Scenario(name="unet_h264", attack=_UNET, channel=_h264(23)),
    Scenario(name="universal_8_255", attack=Universal(epsilon=_LARGEST)),
)
_ADAPTIVE = (
    Scenario(name="eot_jpeg_50", attack=EOT(attack=_pgd(8), channels=(JPEG(quality=(40, 60)),)),
             channel=_jpeg(50)),
    Scenario(name="eot_h264", attack=EOT(attack=_pgd(8), channels=(H264(crf=(20, 26)),)),
             channel=_h264(23)),
)  # fmt: skip
_VIDEO = (
    Scenario(name="video_consistent_8_255", attack=ConsistentVideo(epsilon=_LARGEST, step_size=1 / 255)),
    Scenario(name="video_aggregate_8_255", attack=FreeVideo(epsilon=_LARGEST, step_size=1 / 255)),
)
_OUTSIDE = (
    Scenario(name="transfer_8_255", attack=Transfer()),
    Scenario(name="square5000_8_255", attack=Square(epsilon=_LARGEST, until_fooled=True)),
)

_STANDARD = (
    _CLEAN.model_copy(update={"lipschitz": _LARGEST}),
    *_CODECS, *_MORE_CODECS, _NOISE, *_FGSM.values(), *_BIM, *_PGD, *_SMOOTH, *_ON_THE_WAY, *_GUARDS, _REFEREE
)  # fmt: skip

SUITES: dict[str, tuple[Scenario, ...]] = {
    "quick": (_CLEAN, *_CODECS, _NOISE, _FGSM[2], *_PGD, *_GUARDS),
    "standard": _STANDARD,
    "full": (*_STANDARD, *_AUTO, *_LEARNED, *_ADAPTIVE, *_VIDEO, *_OUTSIDE, *_REFEREES),
}
"""Suites by name; a scenario of one name is the same in each, so that its figures compare."""


def get_suite(suite: str | Sequence[Scenario], only: Iterable[str] = ()) -> tuple[Scenario, ...]:
    """Return a suite by name, or check one that is given.

    Args:
        suite: a name, or scenarios.
        only: scenarios to keep, by name; none keeps all. The clean one, the guards' and those that a kept
            one builds on stay as well, so that every figure is the whole suite's.

    Raises:
        ConfigError: an unknown name, a name used twice, a suite that does not start with the clean scenario,
            or a scenario that builds on what is not there before it.
    """
    if isinstance(suite, str):
        if suite not in SUITES:
            raise ConfigError(f"unknown suite {suite!r}{suggest(suite, SUITES)}")
        found = SUITES[suite]
    else:
        found = tuple(suite)
        _check(found)
    wanted = tuple(only)
    return _keep(found, wanted) if wanted else found


def _check(suite: tuple[Scenario, ...]) -> None:
    names = [scenario.name for scenario in suite]
    if len(set(names)) != len(names) or not suite or suite[0].kind != "clean":
        raise ConfigError(f"expected scenarios with unique names, the clean one first, got {names}")
    before: dict[str, Scenario] = {}
    for scenario in suite:
        for name in scenario.builds_on:
            if name not in before:
                raise ConfigError(
                    f"expected {name!r} before {scenario.name!r}, which builds on it, got {names}; add it"
                )
            scenario.must_contain(before[name])
        before[scenario.name] = scenario


def _keep(suite: tuple[Scenario, ...], wanted: tuple[str, ...]) -> tuple[Scenario, ...]:
    known = {scenario.name: scenario for scenario in suite}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown scenario {name!r}{suggest(name, known)}")
    kept, open_names = {suite[0].name}, list(wanted)
    while open_names:
        name = open_names.pop()
        kept.add(name)
        open_names += known[name].builds_on
    return tuple(item for item in suite if item.name in kept or _judges(item, [known[n] for n in kept]))


def _judges(guard: Scenario, kept: list[Scenario]) -> bool:
    """Whether a scenario checks what is kept: a referee does so only where its counterpart is."""
    if isinstance(guard.attack, Referee):
        return any(guard.referees(ours) for ours in kept)
    return guard.role == "guard"
