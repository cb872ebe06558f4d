"""Attack a detector on every corpus, measure, judge the evaluation itself, write the evidence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dfcore.allocator import keep_freed_memory
from dfcore.data import Crops
from dfcore.errors import CheckFailed, DataError
from dfcore.evaluation.agreement import judge_referees
from dfcore.evaluation.arms import Arms, affordable, check_arms, detector_digest, fit_passes
from dfcore.evaluation.cache import Cache, code_digest
from dfcore.evaluation.corpus import Corpus, check_corpus, crops_digest
from dfcore.evaluation.evidence import Evidence, GuardResult, ModelIdentity, ScenarioResult
from dfcore.evaluation.guards import check_guards, check_overlap, decisions_beat_guessing, shared_groups
from dfcore.evaluation.lipschitz import LIPSCHITZ_PASSES
from dfcore.evaluation.measuring import measure_outcome, samples_table
from dfcore.evaluation.outcomes import CorpusRun, choose_probe
from dfcore.evaluation.runner import Runner, passes
from dfcore.evaluation.scenarios import Scenario
from dfcore.evaluation.suites import get_suite
from dfcore.models import Detector, fold_batch_norm
from dfcore.provenance import digest_json, sha256_file, source_commit, versions
from dfcore.storage.writing import staged, write_atomic

__all__ = ["check_unseen", "detector_digest", "evaluate"]

logger = logging.getLogger(__name__)

_RESAMPLES = 500
_USES = {"no_training_overlap": "training_groups", "no_selection_overlap": "validation_groups"}
_NAMED = 5

Progress = Callable[[int, int], None]


def evaluate(  # noqa: PLR0913  # all but two are by keyword, and each is independent
    detector: Detector,
    corpora: Mapping[str, Crops | Corpus],
    *,
    suite: str | Sequence[Scenario] = "quick",
    name: str,
    out: Path,
    seed: int = 0,
    training_groups: Iterable[str] | None = None,
    training: Crops | None = None,
    surrogates: Sequence[Detector] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
    device: str | None = None,
) -> Evidence:
    """Evaluate a detector under attack and write `out/samples.parquet`, then `out/evidence.json`.

    Args:
        detector: judged at its own `threshold`; left in the modes it came in.
        corpora: test crops by corpus name.
        suite: a suite's name, or scenarios.
        name: of the model, for the evidence.
        out: folder to write to.
        seed: of noise, random starts and resampling.
        training_groups: groups that training, selection, calibration or threshold used. None takes them from
            the detector's card; where that has none either, the evidence is invalid. An empty list: none.
        training: crops of training identities, which learned attacks are fitted on.
        surrogates: other detectors, which transferred attacks are made on.
        cache: folder that keeps what is done, so that a run that was killed goes on and an equal one does no
            work; None keeps nothing.
        progress: called with (done, total) while it runs.
        device: where to run; None leaves the detector where it is, "auto" takes a GPU if there is one.

    Returns:
        The evidence as written. A tripped guard makes it invalid; it does not raise.

    Raises:
        ConfigError: an unknown suite, or a scenario without what its attack needs.
        DataError: no corpus, an empty one, one with a single class, or training crops that are tested on.
        WorkFailed: the evidence can't be written.
    """
    started = time.monotonic()
    keep_freed_memory()
    scenarios = get_suite(suite)
    tested = {key: part if isinstance(part, Corpus) else Corpus(part) for key, part in corpora.items()}
    _check_corpora(tested)
    check_arms(detector, scenarios, tested, training, surrogates)
    if device is not None:
        detector.to(torch.device(_choose(device)))
    scenarios = affordable(scenarios, training, detector.mean.device)
    groups = {guard: _groups(detector, key, training_groups) for guard, key in _USES.items()}
    shared = {
        **_describe(detector), "seed": seed, "code": code_digest(), "device": detector.mean.device.type
    }  # fmt: skip
    fields: dict[str, Any] = {
        "model": _identify(detector, name),
        "suite": suite if isinstance(suite, str) else "custom",
        "seed": seed,
        "resamples": _RESAMPLES,
        "corpora": {key: crops_digest(corpus.crops) for key, corpus in tested.items()},
        "scenarios": {scenario.name: scenario for scenario in scenarios},
        "fitted_on": _fitted_on(scenarios, training),
        "surrogates": _made_on(scenarios, surrogates),
    }
    fields["identity"] = _identity(shared, fields, tested, groups)
    if cache is not None and (done := _finished(out, fields["identity"])) is not None:
        logger.info("%s holds this very evaluation already", out)
        return done
    meter = _Meter(_total_work(tested, scenarios), progress)
    work, twin = Cache(cache, shared), fold_batch_norm(detector)
    arms = Arms(twin, training, surrogates, seed, work, meter.advance)
    runner = Runner(detector, twin, arms, seed=seed, cache=work, advance=meter.advance)
    runs = [runner.run(corpus, part, scenarios) for corpus, part in tested.items()]
    fields["guards"] = _judge(runs, groups)
    evidence = _write(out, runs, fields, started)
    meter.finish()
    return evidence


def _write(out: Path, runs: Sequence[CorpusRun], fields: Mapping[str, Any], started: float) -> Evidence:
    """Measure, then write the samples, then the evidence."""
    evidence = Evidence(
        **fields,
        valid=all(guard.passed for guard in fields["guards"]),
        results=_measure(runs, fields["seed"]),
        referees=[result for run in runs for result in judge_referees(run)],
        samples_digest=_write_samples(out, runs),
        commit=source_commit(),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
    )
    text = evidence.model_dump_json(indent=2) + "\n"
    write_atomic(out / "evidence.json", text.encode())
    return evidence


def check_unseen(detector: Detector, corpora: Mapping[str, Crops | Corpus]) -> None:
    """Refuse corpora that share groups with what made the detector, before any work.

    Raises:
        CheckFailed: naming the groups.
    """
    for key in _USES.values():
        used = _groups(detector, key, None)
        for name, part in corpora.items():
            crops = part.crops if isinstance(part, Corpus) else part
            if shared := shared_groups(crops.group_ids.tolist(), used or ()):
                videos = sorted(set(crops.video_ids[[g in set(shared) for g in crops.group_ids]].tolist()))
                more = f" and {len(videos) - _NAMED} more" if len(videos) > _NAMED else ""
                raise CheckFailed(
                    f"expected videos that the detector has never seen, got {len(videos)} of {name} whose "
                    f"people are in its {key}: {', '.join(videos[:_NAMED])}{more}; evaluate on a test split"
                )


def _measure(runs: Sequence[CorpusRun], seed: int) -> list[ScenarioResult]:
    return [
        result
        for run in runs
        for outcome in run.outcomes.values()
        for result in measure_outcome(run, outcome, resamples=_RESAMPLES, seed=seed)
    ]


def _judge(runs: Sequence[CorpusRun], groups: Mapping[str, list[str] | None]) -> list[GuardResult]:
    found = []
    for run in runs:
        found += check_guards(run)
        found += [check_overlap(run, guard, used) for guard, used in groups.items()]
    return [*found, decisions_beat_guessing(runs)]


def _write_samples(out: Path, runs: Sequence[CorpusRun]) -> str:
    """Write the scores of every crop; returns the file's digest."""
    tables = [samples_table(run, outcome) for run in runs for outcome in run.outcomes.values()]
    out.mkdir(parents=True, exist_ok=True)
    # an earlier evaluation's evidence must not stand beside this one's samples
    (out / "evidence.json").unlink(missing_ok=True)
    samples = out / "samples.parquet"
    with staged(samples) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary.stream)
        temporary.replace(samples)
    return sha256_file(samples)


def _finished(out: Path, identity: str) -> Evidence | None:
    """Return the evidence that is there, if it is this evaluation's and whole."""
    try:
        found = Evidence.read(out)
        same = found.identity == identity and sha256_file(out / "samples.parquet") == found.samples_digest
    except (CheckFailed, OSError):
        return None
    return found if same else None


def _identity(
    shared: Mapping[str, Any],
    fields: Mapping[str, Any],
    tested: Mapping[str, Corpus],
    groups: Mapping[str, list[str] | None],
) -> str:
    """Return the digest of all that an evaluation's figures and verdicts depend on."""
    plain = {
        **fields,
        "model": fields["model"].model_dump(mode="json"),
        # a list: the order is part of it
        "scenarios": [scenario.model_dump(mode="json") for scenario in fields["scenarios"].values()],
    }
    crops = {key: corpus.digest() for key, corpus in tested.items()}
    return digest_json({**shared, **plain, "tested": crops, "groups": dict(groups)})


def _describe(detector: Detector) -> dict[str, Any]:
    """Return what the detector's answers depend on."""
    kind = type(detector)
    return {
        "detector": detector_digest(detector),
        "threshold": detector.threshold,
        "architecture": detector.config.model_dump(mode="json", exclude={"weights", "pretrained"}),
        "class": f"{kind.__module__}.{kind.__qualname__}",
    }


def _fitted_on(scenarios: Iterable[Scenario], training: Crops | None) -> str | None:
    learned = any(scenario.needs_training for scenario in scenarios)
    return crops_digest(training) if learned and training is not None else None


def _made_on(scenarios: Iterable[Scenario], surrogates: Iterable[Detector]) -> list[str]:
    moved = any(scenario.needs_surrogates for scenario in scenarios)
    return [detector_digest(other) for other in surrogates] if moved else []


class _Meter:
    """Counts forward passes over crops, which is what takes the time."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def advance(self, count: int) -> None:
        before, self._done = self._done, min(self._total, self._done + count)
        if self._progress is not None and self._done > before:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        # crops that needed no attack leave the count behind
        self.advance(self._total)


def _total_work(corpora: Mapping[str, Corpus], scenarios: Sequence[Scenario]) -> int:
    each = 3 + sum(passes(scenario) for scenario in scenarios[1:] if scenario.role == "report")
    each += LIPSCHITZ_PASSES if scenarios[0].lipschitz is not None else 0
    probed = sum(passes(scenario) for scenario in scenarios if scenario.role == "guard")
    return fit_passes(scenarios) + sum(
        each * len(corpus.crops) + probed * len(choose_probe(corpus.crops.labels))
        for corpus in corpora.values()
    )


def _choose(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_corpora(corpora: Mapping[str, Corpus]) -> None:
    if not corpora:
        raise DataError("expected at least one corpus to evaluate on, got none")
    for name, corpus in corpora.items():
        check_corpus(name, corpus)


def _groups(detector: Detector, key: str, given: Iterable[str] | None) -> list[str] | None:
    if given is not None:
        return sorted(given)
    recorded = detector.card.provenance.get(key) if detector.card is not None else None
    return sorted(str(group) for group in recorded) if isinstance(recorded, list | tuple) else None


def _identify(detector: Detector, name: str) -> ModelIdentity:
    return ModelIdentity(
        name=name,
        digest=detector_digest(detector),
        backbone=detector.config.backbone,
        threshold=detector.threshold,
    )
