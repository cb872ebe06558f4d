"""The record of an evaluation: every figure with its attack, and whether the evaluation counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dfcore.config import Config, Epsilon
from dfcore.errors import CheckFailed
from dfcore.evaluation.scenarios import Scenario, ThreatModel

__all__ = [
    "SCHEMA_VERSION",
    "Evidence",
    "GuardResult",
    "Interval",
    "ModelIdentity",
    "RefereeResult",
    "ScenarioResult",
    "schema_text",
]

SCHEMA_VERSION: Literal[3] = 3


class Interval(Config):
    """A figure with its 95 % bootstrap interval over videos."""

    value: float
    low: float
    high: float


class ModelIdentity(Config):
    """Which weights were measured: `digest` is over every tensor's name and bytes."""

    name: str
    digest: str
    backbone: str
    threshold: float


class ScenarioResult(Config):
    """The figures of one scenario on one slice of one corpus.

    Attributes:
        scenario: its name in the suite.
        role: "guard" results check the evaluation on a sample and are no figures about the model.
        corpus: its name.
        slice: "all" (crops), "video" (mean score of each video), "video_median", "method=…", "compression=…",
            "face_size=…", "sharpness=…", "blockiness=…".
        threat_model: what the figures hold against.
        n: crops, or videos for the slice "video".
        videos: how many videos were resampled for the intervals.
        attacked: crops that this scenario's own attack was run on; the others carry what a scenario that it
            builds on reached, because no decision and no ranking of theirs could get worse (ece and brier are
            then that scenario's) or, where the scenario's `again` is "standing", because they are wrong.
        metrics: by name; `_8_bit` ones after rounding the attacked pixels to 8 bits.
        spectrum: of what the attack changed, on the slice "all": power in equal bands of radial frequency,
            0 to sqrt(.5) cycles a pixel, white noise being 1; None in a band that holds no frequency.
    """

    scenario: str
    role: Literal["report", "guard"]
    corpus: str
    slice: str
    threat_model: ThreatModel
    n: int
    videos: int
    attacked: int
    metrics: dict[str, Interval]
    spectrum: list[float | None] = Field(default_factory=list)


class GuardResult(Config):
    """One guard on one corpus: the measured value against its bound."""

    name: str
    corpus: str
    passed: bool
    value: float | None
    bound: str
    detail: str


class RefereeResult(Config):
    """What a library's attack left right, against ours, on the same crops of one corpus.

    Attributes:
        corpus: its name.
        scenario: the library's, in the suite.
        library, method, epsilon: whose code, which attack, which budget.
        ours_by: our scenario that it is held against.
        n: crops of both.
        ours, theirs: share of right decisions at the deployed threshold.
        difference: ours minus theirs, paired crop by crop.
        verdict: "stronger" if the library leaves less right beyond the interval, which a guard refuses;
            "weaker" if it leaves more; else "agrees".
    """

    corpus: str
    scenario: str
    library: str
    method: str
    epsilon: Epsilon
    ours_by: str
    n: int
    ours: Interval
    theirs: Interval
    difference: Interval
    verdict: Literal["agrees", "stronger", "weaker"]


class Evidence(Config):
    """Everything that an evaluation found.

    Attributes:
        schema_version: of this document; 1 had no `scenarios`, `fitted_on`, `surrogates` and `identity`, 2 no
            `referees` and no `spectrum` of a result.
        model: what was measured.
        suite: name of the scenarios, "custom" for a list that somebody gave.
        seed: of noise, random starts and resampling.
        resamples: behind each interval.
        corpora: content digest of the crops, by corpus.
        scenarios: everything that each was run with, by name: attack, channel, what it builds on.
        fitted_on: digest of the crops that learned attacks were fitted on, where there were any.
        surrogates: digests of the detectors that transferred attacks were made on.
        identity: digest of all that the figures depend on, the code included; equal ones are one evaluation.
        results: every figure.
        referees: our attacks against those of other people's libraries.
        guards: what must hold for the figures to count.
        valid: all guards passed.
        samples_digest: sha256 of samples.parquet, which holds the score of every crop.
        commit, versions: the code that ran.
        created: when, in UTC; with `seconds` the only fields that differ between two equal runs.
        seconds: how long it took.
    """

    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    model: ModelIdentity
    suite: str
    seed: int
    resamples: int
    corpora: dict[str, str]
    scenarios: dict[str, Scenario] = Field(default_factory=dict)
    fitted_on: str | None = None
    surrogates: list[str] = Field(default_factory=list)
    identity: str | None = None
    results: list[ScenarioResult]
    referees: list[RefereeResult] = Field(default_factory=list)
    guards: list[GuardResult] = Field(min_length=1)
    valid: bool
    samples_digest: str
    commit: str
    versions: dict[str, str]
    created: str
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """Read `evidence.json`, or the one in a folder.

        Raises:
            CheckFailed: it is missing, no evidence, or calls itself valid with a tripped guard.
        """
        file = path / "evidence.json" if path.is_dir() else path
        try:
            found = cls.model_validate_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckFailed(
                f"expected evidence at {file}, got: {error.strerror}; run the evaluation"
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise CheckFailed(f"expected evidence in {file}, got: {error}") from error
        if found.valid != all(guard.passed for guard in found.guards):
            raise CheckFailed(
                f"{file} says valid={found.valid}, its guards say otherwise; run the evaluation again"
            )
        return found

    def find(self, scenario: str, corpus: str, slice_name: str = "all") -> ScenarioResult | None:
        """Return one result, or None where there is none."""
        for result in self.results:
            if (result.scenario, result.corpus, result.slice) == (scenario, corpus, slice_name):
                return result
        return None

    def tripped(self) -> list[GuardResult]:
        """Return the guards that failed."""
        return [guard for guard in self.guards if not guard.passed]


def schema_text() -> str:
    """Return the JSON schema of `evidence.json`, as committed beside this file."""
    return json.dumps(Evidence.model_json_schema(mode="serialization"), indent=2, sort_keys=True) + "\n"
