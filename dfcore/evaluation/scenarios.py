"""What a detector is put through: named scenarios, and suites of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from dfcore.attacks import FGSM, PGD, NormAttack, RandomNoise
from dfcore.config import Config, Epsilon, suggest
from dfcore.errors import ConfigError

__all__ = ["SUITES", "Scenario", "ThreatModel", "get_suite"]


class ThreatModel(Config):
    """What a figure holds against; every figure carries its own.

    Attributes:
        knowledge: "none" (nobody attacks), "noise" (blind) or "white-box".
        norm: of the perturbation.
        epsilon: budget in pixel units of [0, 1], written "8/255".
        steps, restarts: of the search.
        seed: of its random starts.
    """

    knowledge: Literal["none", "noise", "white-box"]
    norm: Literal["linf"] | None = None
    epsilon: Epsilon | None = None
    steps: int | None = None
    restarts: int | None = None
    seed: int | None = None


class Scenario(Config):
    """One thing that happens to the crops before the detector sees them.

    Attributes:
        name: unique within a suite.
        kind: what happens.
        role: "report" for a figure, "guard" for one that only checks the evaluation, on a few crops.
        quality: of JPEG.
        crf: of H.264.
        epsilon: of noise and attacks.
        steps, restarts: of PGD; its step size is 2.5 epsilon / steps, so that it can cross the ball.
    """

    name: str
    kind: Literal["clean", "jpeg", "h264", "noise", "fgsm", "pgd"]
    role: Literal["report", "guard"] = "report"
    quality: int | None = Field(default=None, ge=1, le=100)
    crf: int | None = Field(default=None, ge=0, le=51)
    epsilon: Epsilon | None = None
    steps: int | None = Field(default=None, ge=1)
    restarts: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> Scenario:
        needs = {"jpeg": ["quality"], "h264": ["crf"], "noise": ["epsilon"], "fgsm": ["epsilon"]}
        needs["pgd"] = ["epsilon", "steps", "restarts"]
        wanted = needs.get(self.kind, [])
        for field in ("quality", "crf", "epsilon", "steps", "restarts"):
            if (getattr(self, field) is not None) != (field in wanted):
                raise ValueError(f"expected a {self.kind} scenario with exactly {wanted}, check {field!r}")
        return self

    @property
    def is_attack(self) -> bool:
        """Whether an attack changes the pixels, blind noise included."""
        return self.kind in ("noise", "fgsm", "pgd")

    def attack(self) -> NormAttack:
        """Build the attack.

        Raises:
            ConfigError: the scenario is none.
        """
        if self.epsilon is None:
            raise ConfigError(f"expected an attack scenario, got {self.name!r} of kind {self.kind}")
        if self.kind == "noise":
            return RandomNoise(epsilon=self.epsilon)
        if self.kind == "fgsm":
            return FGSM(epsilon=self.epsilon)
        assert self.steps is not None
        assert self.restarts is not None
        step_size = min(1.0, 2.5 * self.epsilon / self.steps)
        return PGD(epsilon=self.epsilon, step_size=step_size, steps=self.steps, restarts=self.restarts)

    def threat_model(self, seed: int) -> ThreatModel:
        """Return what a figure of this scenario holds against."""
        if not self.is_attack:
            return ThreatModel(knowledge="none")
        single = self.kind != "pgd"
        return ThreatModel(
            knowledge="noise" if self.kind == "noise" else "white-box",
            norm="linf",
            epsilon=self.epsilon,
            steps=1 if single else self.steps,
            restarts=1 if single else self.restarts,
            seed=seed,
        )


def _pgd20(levels: int, role: Literal["report", "guard"] = "report") -> Scenario:
    return Scenario(
        name=f"pgd20_{levels}_255", kind="pgd", role=role, epsilon=levels / 255, steps=20, restarts=1
    )


SUITES: dict[str, tuple[Scenario, ...]] = {
    "quick": (
        Scenario(name="clean", kind="clean"),
        Scenario(name="jpeg_50", kind="jpeg", quality=50),
        Scenario(name="h264", kind="h264", crf=23),
        Scenario(name="noise_8_255", kind="noise", epsilon=8 / 255),
        Scenario(name="fgsm_2_255", kind="fgsm", epsilon=2 / 255),
        *(_pgd20(levels) for levels in (1, 2, 4, 8)),
        _pgd20(64, "guard"),
    )
}
"""Suites by name; PGD scenarios stand in the order of their epsilon."""


def get_suite(suite: str | Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Return a suite by name, or check one that is given.

    Raises:
        ConfigError: an unknown name, a name used twice, or a suite that does not start with "clean".
    """
    if isinstance(suite, str):
        if suite not in SUITES:
            raise ConfigError(f"unknown suite {suite!r}{suggest(suite, SUITES)}")
        return SUITES[suite]
    names = [scenario.name for scenario in suite]
    if len(set(names)) != len(names) or not suite or suite[0].kind != "clean":
        raise ConfigError(f"expected scenarios with unique names, the clean one first, got {names}")
    rest = [scenario for scenario in suite if scenario.kind == "pgd"]
    if [s.name for s in sorted(rest, key=lambda s: s.epsilon or 0)] != [s.name for s in rest]:
        raise ConfigError(f"expected PGD scenarios in the order of their epsilon, got {names}")
    return tuple(suite)
