"""One thing that a detector is put through, and what the figure then holds against."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dfcore.attacks import (
    AnyAttack,
    AnyChannel,
    Budget,
    Chain,
    Channel,
    LearnedAttack,
    Transfer,
    Universal,
    VideoAttack,
)
from dfcore.config import Config, Epsilon
from dfcore.errors import ConfigError
from dfcore.evaluation.referee import COUNTERPARTS, Referee

__all__ = ["Scenario", "ThreatModel"]


class ThreatModel(Config):
    """What a figure holds against; every figure carries its own.

    Attributes:
        knowledge: "none" (nobody attacks), "noise" (blind), "black-box" (scores), "transfer" (other
            detectors) or "white-box" (weights).
        attack: the attack's kind.
        channel: what happens to the images afterwards, such as "jpeg".
        norm: of the perturbation; None where no norm bounds it.
        epsilon: budget, written "8/255"; for "linf" in pixel units of [0, 1].
        steps, restarts, queries: of the search, where it has them.
        fitted: updates in which a learned attack was fitted.
        seed: of its random starts.
    """

    knowledge: Literal["none", "noise", "black-box", "transfer", "white-box"]
    attack: str | None = None
    channel: str | None = None
    norm: Literal["linf", "l2"] | None = None
    epsilon: Budget | None = None
    steps: int | None = None
    restarts: int | None = None
    queries: int | None = None
    fitted: int | None = None
    seed: int | None = None


class Scenario(Config):
    """One thing that happens to the crops before the detector sees them: an attack, a channel, or both.

    Without either it is the clean scenario.

    Attributes:
        name: unique within a suite; its random numbers derive from it.
        role: "report" for a figure, "guard" for one that only checks the evaluation, on a few crops.
        attack: made against the bare detector; one that knows of the channel is an `EOT`.
        channel: what the images, attacked or not, go through on their way; 8-bit images arrive.
        builds_on: scenarios whose ball lies within this one's: what they reached for a crop counts here too,
            and the worst of all is kept, crop by crop.
        again: which crops are attacked although `builds_on` has something for them: those that could still
            cost a decision or a rank ("unsettled"), or those still judged right ("standing"), which is enough
            for accuracy, but leaves the ranking as the weaker attacks made it.
        lipschitz: of the clean scenario: the ball in which the local Lipschitz constant is estimated.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    role: Literal["report", "guard"] = "report"
    attack: Annotated[AnyAttack | Referee, Field(discriminator="kind")] | None = None
    channel: AnyChannel | None = None
    builds_on: tuple[str, ...] = ()
    again: Literal["unsettled", "standing"] = "unsettled"
    lipschitz: Epsilon | None = None

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        if self.attack is None and (self.role == "guard" or self.builds_on):
            raise ValueError("expected an attack in a scenario that is a guard or builds on others, got none")
        if self.builds_on and (self.channel is not None or self.attack is None or self._norm is None):
            raise ValueError("expected a norm-bounded attack without a channel where builds_on is given")
        if getattr(self.attack, "surrogates", ()) or getattr(self.attack, "weights", None) is not None:
            raise ValueError(
                "expected an attack without addresses and weights, which a record of content could not name; "
                "give surrogates and training crops to the evaluation"
            )
        if self.lipschitz is not None and self.kind != "clean":
            raise ValueError(f"expected lipschitz on the clean scenario only, got it on {self.name!r}")
        return self

    @property
    def _norm(self) -> str | None:
        return None if self.attack is None else self.attack.threat_model.norm

    @property
    def kind(self) -> str:
        """The attack's kind, else the channel's, else "clean"."""
        part = self.attack or self.channel
        return part.kind if part is not None else "clean"

    @property
    def epsilon(self) -> float | None:
        """The attack's budget, where a norm bounds it."""
        return None if self.attack is None else self.attack.threat_model.epsilon

    @property
    def needs_training(self) -> bool:
        """Whether its attack must be fitted on training identities first."""
        return isinstance(self.attack, LearnedAttack | Universal)

    @property
    def needs_surrogates(self) -> bool:
        """Whether its attack is made on other detectors."""
        return isinstance(self.attack, Transfer)

    @property
    def needs_videos(self) -> bool:
        """Whether a video's crops must be treated together."""
        return isinstance(self.attack, VideoAttack) or (self.channel is not None and is_codec(self.channel))

    def threat_model(self, seed: int) -> ThreatModel:
        """Return what a figure of this scenario holds against."""
        channel = None if self.channel is None else _name(self.channel)
        if self.attack is None:
            return ThreatModel(knowledge="none", channel=channel)
        threat: dict[str, Any] = self.attack.threat_model.model_dump()
        threat["knowledge"] = "noise" if threat["knowledge"] == "none" else threat["knowledge"]
        fitted = getattr(self.attack, "fit_steps", None)
        return ThreatModel(**threat, attack=self.attack.kind, channel=channel, fitted=fitted, seed=seed)

    def referees(self, ours: Scenario) -> bool:
        """Whether it is a library's attack that is held against this scenario of ours."""
        return (
            isinstance(self.attack, Referee)
            and (ours.kind, ours.epsilon) == (COUNTERPARTS[self.attack.method], self.epsilon)
            and ours.role == "report"
            and ours.channel is None
        )

    def must_contain(self, weaker: Scenario) -> None:
        """Require that what `weaker` may do, this scenario may do too.

        Raises:
            ConfigError: its ball is not inside this one's.
        """
        inside = (
            weaker.attack is not None
            and weaker.channel is None
            and weaker.role == "report"
            and weaker._norm == self._norm
            and (weaker.epsilon or 0) <= (self.epsilon or 0)
        )
        if not inside:
            raise ConfigError(
                f"expected {self.name!r} to build on attacks in the same norm with no larger epsilon and no "
                f"channel, got {weaker.name!r}"
            )


def is_codec(channel: Channel) -> bool:
    """Whether a channel is, or holds, one that codes a video's crops as a sequence."""
    if isinstance(channel, Chain):
        return any(is_codec(part) for part in channel.channels)
    return channel.kind == "h264"


def _name(channel: Channel) -> str:
    if isinstance(channel, Chain):
        return "+".join(_name(part) for part in channel.channels)
    return channel.kind
