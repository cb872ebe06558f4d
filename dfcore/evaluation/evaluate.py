"""Attack a detector on every corpus, measure, judge the evaluation itself, write the evidence."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dfcore.data import Crops
from dfcore.errors import DataError
from dfcore.evaluation.evidence import Evidence, GuardResult, Interval, ModelIdentity, ScenarioResult
from dfcore.evaluation.guards import check_guards, check_overlap
from dfcore.evaluation.metrics import Estimate, measure, scores_from_logits, video_scores
from dfcore.evaluation.outcomes import CorpusRun, Outcome, Runner
from dfcore.evaluation.scenarios import Scenario, get_suite
from dfcore.models import Detector
from dfcore.provenance import sha256_file, source_commit, versions

__all__ = ["crops_digest", "detector_digest", "evaluate"]

logger = logging.getLogger(__name__)

_RESAMPLES = 500


def evaluate(  # noqa: PLR0913  # all but two are by keyword, and each is independent
    detector: Detector,
    corpora: Mapping[str, Crops],
    *,
    suite: str | Sequence[Scenario] = "quick",
    name: str,
    out: Path,
    seed: int = 0,
    training_groups: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        progress: called with (done, total) while it runs.
        device: where to run; None leaves the detector where it is, "auto" takes a GPU if there is one.

    Returns:
        The evidence as written. A tripped guard makes it invalid; it does not raise.

    Raises:
        ConfigError: an unknown suite.
        DataError: no corpus, an empty one, or one with a single class.
    """
    started = time.monotonic()
    scenarios = get_suite(suite)
    _check_corpora(corpora)
    if device is not None:
        detector.to(torch.device(_choose(device)))
    runner = Runner(detector, seed, _Meter(_total_work(corpora, scenarios), progress).advance)
    groups = _training_groups(detector, training_groups)
    results: list[ScenarioResult] = []
    guards: list[GuardResult] = []
    tables: list[pa.Table] = []
    for corpus, crops in corpora.items():
        run = runner.run(corpus, crops, scenarios)
        for outcome in run.outcomes.values():
            results.extend(_measure(run, outcome, seed))
            tables.append(_samples(run, outcome))
        guards.extend([*check_guards(run), check_overlap(run, groups)])
        logger.info("evaluated %s on %s: %d crops, %d scenarios", name, corpus, len(crops), len(run.outcomes))
    out.mkdir(parents=True, exist_ok=True)
    samples = out / "samples.parquet"
    _write_atomically(samples, lambda path: pq.write_table(pa.concat_tables(tables), path))
    evidence = Evidence(
        model=_identify(detector, name),
        suite=suite if isinstance(suite, str) else "custom",
        seed=seed,
        resamples=_RESAMPLES,
        corpora={corpus: crops_digest(crops) for corpus, crops in corpora.items()},
        results=results,
        guards=guards,
        valid=all(guard.passed for guard in guards),
        samples_digest=sha256_file(samples),
        commit=source_commit(),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
    )
    text = evidence.model_dump_json(indent=2) + "\n"
    _write_atomically(out / "evidence.json", lambda path: path.write_text(text, encoding="utf-8"))
    return evidence


def crops_digest(crops: Crops) -> str:
    """Return the SHA-256 of a corpus: pixels, labels and identifiers, in their order."""
    digest = hashlib.sha256(repr(crops.images.shape).encode())
    for array in (crops.images, crops.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    for names in (crops.video_ids, crops.methods, crops.compressions, crops.group_ids):
        digest.update("\n".join(names.tolist()).encode())
    return digest.hexdigest()


def detector_digest(detector: Detector) -> str:
    """Return the SHA-256 over every tensor's name, shape and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(detector.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class _Meter:
    """Counts forward passes over crops, which is what takes the time."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def advance(self, count: int) -> None:
        self._done = min(self._total, self._done + count)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _total_work(corpora: Mapping[str, Crops], scenarios: Sequence[Scenario]) -> int:
    each = 3  # two clean passes and one gradient
    for scenario in scenarios[1:]:
        if scenario.role == "report":
            each += 1 + (scenario.steps or 0) * (scenario.restarts or 1) + (1 if scenario.is_attack else 0)
    return each * sum(len(crops) for crops in corpora.values())


def _choose(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_corpora(corpora: Mapping[str, Crops]) -> None:
    if not corpora:
        raise DataError("expected at least one corpus to evaluate on, got none")
    for name, crops in corpora.items():
        present = np.unique(crops.labels).tolist()
        if present != [0, 1]:
            raise DataError(
                f"expected reals and fakes in corpus {name!r}, got labels {present}; check the split"
            )


def _training_groups(detector: Detector, given: Iterable[str] | None) -> list[str] | None:
    if given is not None:
        return list(given)
    recorded = detector.card.provenance.get("training_groups") if detector.card is not None else None
    return [str(group) for group in recorded] if isinstance(recorded, list | tuple) else None


def _identify(detector: Detector, name: str) -> ModelIdentity:
    return ModelIdentity(
        name=name,
        digest=detector_digest(detector),
        backbone=detector.config.backbone,
        threshold=detector.threshold,
    )


def _slices(crops: Crops) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield named subsets of crops: all, each manipulation against every real, each compression."""
    yield "all", np.ones(len(crops), dtype=np.bool_)
    fake = crops.labels == 1
    for method in np.unique(crops.methods[fake]):
        yield f"method={method}", ~fake | (crops.methods == method)
    compressions = np.unique(crops.compressions)
    if len(compressions) > 1:
        for compression in compressions:
            yield f"compression={compression}", crops.compressions == compression


def _measure(run: CorpusRun, outcome: Outcome, seed: int) -> list[ScenarioResult]:
    """Measure one scenario on every slice; scores that are no numbers give results without metrics."""
    crops = run.crops.subset(outcome.indices)
    finite = bool(np.isfinite(outcome.logits).all() and np.isfinite(outcome.rounded).all())
    scores = scores_from_logits(outcome.logits)
    attacked = int((~np.isnan(outcome.own)).sum()) if outcome.scenario.is_attack else 0

    def record(
        name: str, videos: NDArray[np.str_], metrics: Mapping[str, Estimate], n: int
    ) -> ScenarioResult:
        return ScenarioResult(
            scenario=outcome.scenario.name,
            role=outcome.scenario.role,
            corpus=run.name,
            slice=name,
            threat_model=outcome.scenario.threat_model(seed),
            n=n,
            videos=len(np.unique(videos)),
            attacked=attacked,
            metrics={key: Interval(**_rounded(value)) for key, value in metrics.items()},
        )

    def figures(
        values: NDArray[np.float64], labels: NDArray[np.int64], videos: NDArray[np.str_]
    ) -> dict[str, Estimate]:
        if not finite:
            return {}
        return measure(values, labels, videos, threshold=run.threshold, resamples=_RESAMPLES, seed=seed)

    found = []
    for name, mask in _slices(crops):
        metrics = figures(scores[mask], crops.labels[mask], crops.video_ids[mask])
        if name == "all" and outcome.scenario.is_attack:
            rounded = figures(scores_from_logits(outcome.rounded), crops.labels, crops.video_ids)
            metrics |= {f"{key}_8_bit": rounded[key] for key in ("auc", "accuracy") if key in rounded}
        found.append(record(name, crops.video_ids[mask], metrics, int(mask.sum())))
        if outcome.scenario.role == "guard":
            return found
    means, labels, videos = video_scores(scores, crops.labels, crops.video_ids)
    found.insert(1, record("video", videos, figures(means, labels, videos), len(videos)))
    return found


def _rounded(estimate: Estimate) -> dict[str, float]:
    # beyond nine digits a figure depends on the order of summation
    return {key: round(value, 9) for key, value in estimate._asdict().items()}


def _samples(run: CorpusRun, outcome: Outcome) -> pa.Table:
    crops, rows = run.crops, outcome.indices
    count = len(rows)
    return pa.table(
        {
            "corpus": pa.array([run.name] * count).dictionary_encode(),
            "scenario": pa.array([outcome.scenario.name] * count).dictionary_encode(),
            "crop": pa.array(rows, pa.int64()),
            "video_id": pa.array(crops.video_ids[rows].tolist(), pa.string()),
            "label": pa.array(crops.labels[rows], pa.int8()),
            "method": pa.array(crops.methods[rows].tolist(), pa.string()),
            "compression": pa.array(crops.compressions[rows].tolist(), pa.string()),
            "group_id": pa.array(crops.group_ids[rows].tolist(), pa.string()),
            "logit": pa.array(outcome.logits, pa.float32()),
            "score": pa.array(scores_from_logits(outcome.logits), pa.float64()),
            "score_8_bit": pa.array(scores_from_logits(outcome.rounded), pa.float64()),
            "size": pa.array(outcome.size, pa.float32()),
            "threshold": pa.array([run.threshold] * count, pa.float64()),
        }
    )


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would hide the evidence from its readers
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
