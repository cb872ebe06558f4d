"""The report: one HTML page without outside parts, verdict first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from dfcore.config import format_epsilon
from dfcore.errors import ConfigError
from dfcore.evaluation.evidence import Evidence, ScenarioResult
from dfcore.evaluation.figures import amplified_png, cam_png, face_png, robustness_svg
from dfcore.evaluation.pictures import Picture

__all__ = ["write_report"]

Decision = BaseModel | Mapping[str, Any]


def write_report(
    path: Path,
    evidences: Mapping[str, Evidence],
    decisions: Mapping[str, Decision] | None = None,
    pictures: Sequence[Picture] = (),
) -> Path:
    """Write the report atomically.

    Args:
        path: of the HTML file.
        evidences: by model name, the baseline first.
        decisions: by model name: what the gate said (`promoted`, `rules` with name, passed, value, low, high,
            bound, detail), as a model or as plain data.
        pictures: attacked faces.

    Raises:
        ConfigError: no evidence, or a decision about a model without evidence.
    """
    decided = {name: _plain(decision) for name, decision in (decisions or {}).items()}
    if not evidences or not set(decided) <= set(evidences):
        raise ConfigError(f"expected evidence for every decision {sorted(decided)}, got {sorted(evidences)}")
    environment = Environment(
        loader=PackageLoader("dfcore.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        evidences=evidences,
        verdicts=[_verdict(name, evidence, decided.get(name)) for name, evidence in evidences.items()],
        corpora=[_corpus(name, evidences) for name in _corpora(evidences)],
        pictures=[_picture(picture) for picture in pictures],
    )
    _write_atomically(path, page + "\n")
    return path


def _plain(decision: Decision) -> dict[str, Any]:
    return decision.model_dump(mode="json") if isinstance(decision, BaseModel) else dict(decision)


def _corpora(evidences: Mapping[str, Evidence]) -> list[str]:
    return list(dict.fromkeys(corpus for evidence in evidences.values() for corpus in evidence.corpora))


def _verdict(name: str, evidence: Evidence, decision: Mapping[str, Any] | None) -> dict[str, Any]:
    rules = []
    for rule in (decision or {}).get("rules", []):
        rule = _plain(rule)
        rules.append(
            {key: rule.get(key) for key in ("name", "passed", "value", "low", "high", "bound", "detail")}
        )
    if not evidence.valid:
        state, headline = "bad", "evaluation invalid"
    elif decision is None:
        state, headline = "none", "no decision taken"
    elif decision["promoted"]:
        state, headline = "good", "promoted"
    else:
        state, headline = "bad", "not promoted"
    failed = [rule["name"] for rule in rules if not rule["passed"]]
    return {"name": name, "state": state, "headline": headline, "rules": rules, "failed": failed}


def _scenarios(corpus: str, evidences: Mapping[str, Evidence]) -> list[ScenarioResult]:
    found: dict[str, ScenarioResult] = {}
    for evidence in evidences.values():
        for result in evidence.results:
            if (result.corpus, result.slice, result.role) == (corpus, "all", "report"):
                found.setdefault(result.scenario, result)
    return list(found.values())


def _corpus(corpus: str, evidences: Mapping[str, Evidence]) -> dict[str, Any]:
    scenarios = _scenarios(corpus, evidences)
    rows = [
        {
            "scenario": scenario.scenario,
            "threat": _threat(scenario),
            "cells": [_cells(evidence, scenario.scenario, corpus) for evidence in evidences.values()],
        }
        for scenario in scenarios
    ]
    # matplotlib's own markup, made here from numbers and model names that it escapes
    auc, accuracy = (
        Markup(robustness_svg(evidences, corpus, metric, label))  # noqa: S704
        for metric, label in (("auc", "AUC"), ("accuracy", "accuracy"))
    )
    counts = {(scenario.n, scenario.videos) for scenario in scenarios}
    return {"name": corpus, "rows": rows, "auc": auc, "accuracy": accuracy, "counts": sorted(counts)}


def _threat(result: ScenarioResult) -> str:
    model = result.threat_model
    if model.knowledge == "none":
        return "nobody attacks"
    epsilon = format_epsilon(model.epsilon or 0.0)
    if model.knowledge == "noise":
        return f"random noise, L∞ {epsilon}"
    return f"white-box, L∞ {epsilon}, steps {model.steps}, restarts {model.restarts}"


def _cells(evidence: Evidence, scenario: str, corpus: str) -> list[dict[str, Any]]:
    result = evidence.find(scenario, corpus)
    cells: list[dict[str, Any]] = []
    for metric in ("auc", "accuracy"):
        interval = result.metrics.get(metric) if result else None
        if interval is None:
            cells.append({"value": None, "low": None, "high": None, "colour": "#f1f2f4"})
            continue
        cells.append(
            {
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "colour": _heat(interval.value),
            }
        )
    return cells


def _heat(value: float) -> str:
    """Pale red at 0, pale yellow at one half, pale green at 1; dark text is readable on each."""
    low, middle, high = (244, 178, 164), (250, 236, 180), (170, 218, 184)
    start, end, share = (low, middle, value * 2) if value < 0.5 else (middle, high, value * 2 - 1)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(start, end, strict=True))


def _picture(picture: Picture) -> dict[str, Any]:
    views = [
        {
            "model": view.model,
            "clean_score": view.clean_score,
            "attacked_score": view.attacked_score,
            "clean_word": _word(view.clean_score, view.threshold),
            "attacked_word": _word(view.attacked_score, view.threshold),
            "wrong": _word(view.attacked_score, view.threshold) != ("fake" if picture.label else "real"),
            "attacked": face_png(view.attacked),
            "change": amplified_png(picture.clean, view.attacked, picture.epsilon),
            "clean_cam": cam_png(picture.clean, view.clean_cam),
            "attacked_cam": cam_png(view.attacked, view.attacked_cam),
        }
        for view in picture.views
    ]
    return {
        "corpus": picture.corpus,
        "truth": "fake" if picture.label else "real",
        "method": picture.method,
        "epsilon": format_epsilon(picture.epsilon),
        "clean": face_png(picture.clean),
        "size": picture.clean.shape[:2],
        "views": views,
    }


def _word(score: float, threshold: float) -> str:
    return "fake" if score >= threshold else "real"


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would hide the report from its readers
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
