"""What the gate reads of an evaluation: the evidence, and the scores behind it for paired comparisons."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfcore.errors import DataError, ShapeError
from dfcore.evaluation.metrics import Estimate, paired_difference
from dfcore.provenance import sha256_file

__all__ = ["EVIDENCE", "SAMPLES", "Measured", "Result", "read_measured"]

EVIDENCE = "evidence.json"
SAMPLES = "samples.parquet"
_OVERALL = "all"


class _View(BaseModel):
    """The gate needs a part of the evidence; what a later version adds does not disturb it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(_View):
    """A figure with its interval; None where it could not be computed."""

    value: float | None
    low: float | None
    high: float | None


class Result(_View):
    """One scenario on one slice of one corpus."""

    scenario: str
    corpus: str
    slice: str | None = None
    role: str = "report"
    threat_model: dict[str, Any] | None = None
    n: int
    metrics: dict[str, Interval]

    @property
    def overall(self) -> bool:
        """Whether this is the whole corpus."""
        return self.slice in {None, _OVERALL}


class Model(_View):
    """Which weights were measured."""

    name: str
    digest: str


class Guard(_View):
    """One check that the evaluation made of itself."""

    name: str
    passed: bool
    detail: str | None = ""


class Measured(_View):
    """An evaluation, read from its folder."""

    folder: Path
    digest: str
    model: Model
    results: tuple[Result, ...]
    guards: tuple[Guard, ...]
    valid: bool
    created: datetime
    corpora: dict[str, str]
    samples_digest: str | None = None
    versions: dict[str, Any] = Field(default_factory=dict)

    @property
    def corpus_names(self) -> list[str]:
        """The corpora in order of appearance."""
        return list(dict.fromkeys(result.corpus for result in self.results if result.role != "guard"))

    def find(self, scenario: str, corpus: str) -> Result:
        """Return the one overall result.

        Raises:
            DataError: there is none, or more than one.
        """
        found = [
            item
            for item in self.results
            if item.overall and (item.scenario, item.corpus) == (scenario, corpus)
        ]
        if len(found) != 1:
            raise DataError(f"expected one result of {scenario} on {corpus}, got {len(found)}")
        return found[0]

    def slices(self, scenario: str, corpus: str) -> list[Result]:
        """Return the results of the parts of a corpus."""
        chosen = (item for item in self.results if (item.scenario, item.corpus) == (scenario, corpus))
        return [item for item in chosen if "=" in (item.slice or "")]  # "method=…", "compression=…"

    def scores(self, scenario: str, corpus: str) -> pa.Table:
        """Return the scores behind a result, sorted by crop: crop, video_id, label, score.

        Raises:
            DataError: no such scores, a crop twice, or a file that is no such table.
        """
        path = self.folder / SAMPLES
        self._check_samples(path)
        wanted = [("scenario", "==", scenario), ("corpus", "==", corpus)]
        try:
            table = pq.read_table(path, filters=wanted)
            table = table.select(["crop", "video_id", "label", "score"]).sort_by("crop")
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(
                f"expected the scores of {scenario} on {corpus} in {path}, got: {error!r}"
            ) from error
        if not len(table) or len(table["crop"].unique()) != len(table):
            raise DataError(
                f"expected each crop of {scenario} on {corpus} once in {path}, got {len(table)} rows"
            )
        return table

    def _check_samples(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"expected the scores behind the evidence at {path}, found none; copy them along")
        if self.samples_digest is not None and sha256_file(path) != self.samples_digest:
            raise DataError(
                f"{path} does not hold the scores that the evidence was made from; evaluate again"
            )

    def obstacle(self, reference: Measured, scenario: str, corpus: str) -> str | None:
        """Say why a reference tells nothing about a result of ours: not measured there, or otherwise.

        None where it does, and where we have no such result ourselves.
        """
        try:
            ours = self.find(scenario, corpus).threat_model
        except DataError:
            return None
        try:
            theirs = reference.find(scenario, corpus).threat_model
        except DataError as error:
            return str(error)
        if _comparable(ours) != _comparable(theirs):
            return f"expected the same threat model in both evaluations, got {ours} and {theirs}"
        if self.corpora.get(corpus) is None or self.corpora.get(corpus) != reference.corpora.get(corpus):
            return f"expected the same crops of {corpus} in both evaluations; evaluate both on one store"
        return None

    def difference(self, reference: Measured, scenario: str, corpus: str, metric: str) -> Estimate:
        """Compare with another evaluation on the same crops under the same attack: this one minus the other.

        Raises:
            DataError: other crops, another threat model, or scores that can't be compared.
        """
        self.find(scenario, corpus)
        if (why := self.obstacle(reference, scenario, corpus)) is not None:
            raise DataError(why)
        left, right = self.scores(scenario, corpus), reference.scores(scenario, corpus)
        if any(not left[name].equals(right[name]) for name in ("crop", "video_id", "label")):
            raise DataError(
                f"expected the same crops of {corpus} in both evaluations; evaluate both on one store"
            )
        labels = np.asarray(left["label"], dtype=np.int64)
        try:
            # Ranking metrics only, so the threshold does not matter.
            found = paired_difference(
                (_floats(left), 0.5),
                (_floats(right), 0.5),
                labels,
                np.asarray(left["video_id"], dtype=np.str_),
            )
            return found[metric]
        except (ShapeError, KeyError) as error:
            raise DataError(f"{metric} of {scenario} on {corpus} can't be compared: {error}") from error


def _floats(table: pa.Table) -> NDArray[np.float64]:
    return np.asarray(table["score"], dtype=np.float64)


def _comparable(threat_model: dict[str, Any] | None) -> dict[str, Any]:
    """Drop the seeds: fresh random starts are the same attack."""
    return {key: value for key, value in (threat_model or {}).items() if key not in {"seed", "seeds"}}


def read_measured(path: Path) -> Measured:
    """Read an evaluation's folder (or its evidence.json).

    Raises:
        DataError: missing, no JSON, NaN where a number must be, or a field that does not fit.
    """
    file = path / EVIDENCE if path.is_dir() else path
    try:
        document = json.loads(file.read_bytes(), parse_constant=_reject)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        return Measured.model_validate({**document, "folder": file.parent, "digest": sha256_file(file)})
    except OSError as error:
        raise DataError(
            f"expected evidence at {file}, got: {error.strerror}; run the evaluation first"
        ) from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
        )
        raise DataError(f"{file} is no evidence: {problems}") from error
    except ValueError as error:
        raise DataError(f"{file} is no evidence: {error}") from error


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {constant}")
