"""ROC curves for the report, from the score of every crop that stands beside the evidence."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from dfcore.errors import CheckFailed
from dfcore.evaluation.evidence import Evidence
from dfcore.evaluation.figures import SHARES, Axis, Line, chart_svg

__all__ = ["read_scores", "roc_charts"]

_COLUMNS = ["corpus", "scenario", "label", "score"]
_POINTS = 200


def read_scores(path: Path, evidence: Evidence) -> pa.Table:
    """Read the scores behind an evidence: corpus, scenario, label, score.

    Args:
        path: samples.parquet, or the evidence's folder.
        evidence: whose digest the file must have.

    Raises:
        CheckFailed: missing, other scores than the evidence's, or no such table.
    """
    file = path / "samples.parquet" if path.is_dir() else path
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != evidence.samples_digest:
            raise CheckFailed(
                f"expected in {file} the scores that the evidence of {evidence.model.name} was made from, "
                "got others; evaluate again"
            )
        return pq.read_table(io.BytesIO(content)).select(_COLUMNS)
    except OSError as error:
        raise CheckFailed(f"expected scores at {file}, got: {error.strerror}; copy them along") from error
    except (pa.ArrowException, KeyError) as error:
        raise CheckFailed(f"expected a table of scores in {file}, got: {error}") from error


def roc_charts(
    tables: Mapping[int, pa.Table], corpus: str, scenarios: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Draw TPR over FPR, a chart for each scenario and a line for each model.

    Args:
        tables: of `read_scores`, by the place of the model.
        corpus: which corpus.
        scenarios: what the title says, by scenario.

    Returns:
        Charts with `svg` and `title`; scenarios without both classes or finite scores have none.
    """
    charts = []
    for scenario, words in scenarios.items():
        lines = [
            Line(place, points, marked=False)
            for place, table in tables.items()
            if (points := _points(table, corpus, scenario))
        ]
        if lines:
            title = f"ROC, {words}, on {corpus}"
            axis = Axis("reals judged fake (FPR)", SHARES)
            svg = chart_svg(title, lines, axis, Axis("fakes found (TPR)", SHARES), guess="diagonal")
            charts.append({"svg": svg, "title": title})
    return charts


def _points(table: pa.Table, corpus: str, scenario: str) -> list[tuple[float, float]]:
    chosen = table.filter((pc.field("corpus") == corpus) & (pc.field("scenario") == scenario))
    labels = np.asarray(chosen["label"], dtype=np.int64)
    scores = np.asarray(chosen["score"], dtype=np.float64)
    if len(np.unique(labels)) != 2 or not bool(np.isfinite(scores).all()):
        return []
    fpr, tpr, _ = roc_curve(labels, scores)
    rows = _thinned(len(fpr))
    return [(round(float(x), 4), round(float(y), 4)) for x, y in zip(fpr[rows], tpr[rows], strict=True)]


def _thinned(count: int) -> NDArray[np.int64]:
    """Keep at most _POINTS of the corners, the first and the last among them."""
    if count <= _POINTS:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, _POINTS).round().astype(np.int64))
