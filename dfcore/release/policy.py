"""Gate policies: what a detector must show before it may be published."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from dfcore.config import Config, suggest
from dfcore.errors import ConfigError

__all__ = ["EACH", "Comparison", "Floor", "GatePolicy", "SliceFloor", "load_policy"]

EACH = "*"  # every corpus of the evidence

Metric = Literal["auc", "accuracy", "macro_f1", "average_precision", "tpr_at_1_fpr", "tpr_at_0_1_fpr"]
# Comparisons use metrics that need no threshold, so that two models with their own thresholds compare fairly.
RankingMetric = Literal["auc", "average_precision", "tpr_at_1_fpr", "tpr_at_0_1_fpr"]


class Floor(Config):
    """A metric of one scenario must reach a bound on one corpus, or on each of the evidence ("*")."""

    scenario: str
    corpus: str = EACH
    metric: Metric = "auc"
    at_least: float = Field(ge=0, le=1, allow_inf_nan=False)
    bound: Literal["value", "low"] = "value"


class SliceFloor(Config):
    """The worst slice (manipulation method, compression) of one scenario on a corpus must reach a bound."""

    scenario: str
    corpus: str = EACH
    metric: Metric = "auc"
    at_least: float = Field(ge=0, le=1, allow_inf_nan=False)


class Comparison(Config):
    """The lower end of the paired 95 % interval of (candidate - reference) must reach a bound.

    Attributes:
        at_least: 0.2 asks for a clear improvement, -0.02 allows a small regression.
        if_comparable: does not apply where the reference was measured on other crops or under another attack;
            else that is a no.
    """

    scenario: str
    corpus: str = EACH
    metric: RankingMetric = "auc"
    at_least: float = Field(ge=-1, le=1, allow_inf_nan=False)
    if_comparable: bool = False


class GatePolicy(Config):
    """What the gate asks for; everything listed must hold.

    Attributes:
        floors: absolute bounds.
        worst_slice: bounds for the worst slice.
        improvements: candidate against the baseline, where one is given.
        regressions: candidate against what the channel serves now, where something is served.
        required_scenarios: must be measured on every corpus of the evidence.
        required_corpora: must be in the evidence.
        max_age_days: older evidence is refused.
        require_valid_guards: evidence without passing guards is refused.
        require_baseline: without a baseline the answer is no.
    """

    name: str
    floors: tuple[Floor, ...] = ()
    worst_slice: tuple[SliceFloor, ...] = ()
    improvements: tuple[Comparison, ...] = ()
    regressions: tuple[Comparison, ...] = ()
    required_scenarios: tuple[str, ...] = ()
    required_corpora: tuple[str, ...] = ()
    max_age_days: float | None = Field(default=None, gt=0)
    require_valid_guards: bool = True
    require_baseline: bool = False

    @model_validator(mode="after")
    def _asks_for_something(self) -> GatePolicy:
        if not self.floors:
            raise ValueError("expected at least one floor; a policy without one lets everything through")
        return self


def load_policy(name_or_path: str | Path) -> GatePolicy:
    """Load one of the policies that ship with Rampart ("audit", "demo", "standard", "strict") or a YAML file.

    Raises:
        ConfigError: no such policy, or it does not fit.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml", ".json"} or path.is_file():
        return GatePolicy.from_yaml(path)
    folder = resources.files("dfcore.release") / "policies"
    known = {entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    if str(name_or_path) not in known:
        raise ConfigError(f"unknown policy {str(name_or_path)!r}{suggest(str(name_or_path), known)}")
    text = (folder / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return GatePolicy.parse(yaml.safe_load(text), source=f"policy {name_or_path}")
