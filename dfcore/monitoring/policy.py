"""What happens when a sign of an attack is raised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pydantic import Field

from dfcore.config import Config

__all__ = ["Action", "MonitoringPolicy"]

Action = Literal["log", "flag", "abstain", "refuse"]

_SEVERITY = {action: place for place, action in enumerate(get_args(Action))}


class MonitoringPolicy(Config):
    """What a raised sign leads to: the reaction of each kind; the severest of the raised ones counts.

    "log" only counts it; "flag" marks the answer; "abstain" answers without a label; "refuse" does not
    answer.

    Attributes:
        combined: of the combined attack score.
        queries: of the query fingerprints: somebody searches around this image.
        parts: of single attack scores, by name; those not named are logged. Each is calibrated to the stated
            rate alone, so that acting on all of them adds their false positives up.
    """

    combined: Action = "flag"
    queries: Action = "flag"
    parts: Mapping[str, Action] = Field(default_factory=dict)

    def decide(self, raised: Iterable[str]) -> Action:
        """Return the severest reaction to the raised kinds; "log" where there are none.

        >>> MonitoringPolicy(queries="refuse").decide(["combined", "queries", "blur"])
        'refuse'
        """
        known: dict[str, Action] = {**self.parts, "combined": self.combined, "queries": self.queries}
        return max((known.get(kind, "log") for kind in raised), key=_SEVERITY.__getitem__, default="log")
