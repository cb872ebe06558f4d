"""What the report's tables and charts show: the evidence by scenario, corpus, slice and model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from dfcore.config import format_epsilon
from dfcore.evaluation.evidence import Evidence, Interval, ScenarioResult
from dfcore.evaluation.figures import SHARES, Axis, Line, chart_svg

__all__ = [
    "corpora_of",
    "costs",
    "curves",
    "figures",
    "headline",
    "matrix",
    "scenarios_of",
    "slices",
    "threat",
]

Evidences = Mapping[str, Evidence]
METRICS = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "average_precision": "AP",
    "eer": "EER",
    "tpr_at_1_fpr": "TPR at 1 % FPR",
    "tpr_at_0_1_fpr": "TPR at 0.1 % FPR",
    "fake_as_real": "fake judged real",
    "real_as_fake": "real judged fake",
    "ece": "ECE",
    "brier": "Brier",
    "auc_8_bit": "AUC, 8-bit",
    "accuracy_8_bit": "accuracy, 8-bit",
    "local_lipschitz": "local Lipschitz",
}
_SLICES = {
    "method": "manipulation method",
    "compression": "compression",
    "face_size": "face size",
    "sharpness": "quality: sharpness",
    "blockiness": "quality: blockiness",
}
_WHOLE = {
    "all": "all crops",
    "video": "videos, mean score",
    "video_median": "videos, median score",
}
_SWEPT = re.compile(r"(.+)_(\d+(?:\.\d+)?)_255")
_SHADES = 20
_HEADLINE_EPSILON = 2 / 255


def corpora_of(evidences: Evidences) -> list[str]:
    """Return the corpora of all models in order of appearance."""
    return list(dict.fromkeys(corpus for evidence in evidences.values() for corpus in evidence.corpora))


def scenarios_of(evidences: Evidences) -> dict[str, ScenarioResult]:
    """Return one whole-corpus result for each scenario that is a figure about a model."""
    found: dict[str, ScenarioResult] = {}
    for evidence in evidences.values():
        for result in evidence.results:
            if result.slice == "all" and result.role == "report":
                found.setdefault(result.scenario, result)
    return found


def threat(result: ScenarioResult) -> str:
    """Say in words what a figure holds against."""
    model = result.threat_model
    size = f" {format_epsilon(model.epsilon)}" if model.epsilon is not None else ""
    ball = {"linf": "L∞", "l2": "L2", None: ""}[model.norm] + size
    counts = [
        f"{count} {name}"
        for name in ("steps", "restarts", "queries")
        if (count := getattr(model, name) or 0) > 1  # one step, one start: nothing to say
    ]
    if model.knowledge == "none":
        parts = ["nobody attacks"]
    elif model.knowledge == "noise":
        parts = ["random noise", ball]
    else:
        parts = [model.knowledge, ball.strip(), *counts]
        parts += [f"fitted in {model.fitted} updates"] if model.fitted else []
    if model.channel is not None:
        parts.append(f"sent through {model.channel}")
    return ", ".join(part for part in parts if part)


def headline(evidences: Evidences) -> str | None:
    """Name the attack that stands for all in summaries: a white-box search in L∞, nearest to 2/255."""
    searched = [
        result
        for result in scenarios_of(evidences).values()
        if _ranks(evidences, result.scenario)
        and result.threat_model.knowledge == "white-box"
        and result.threat_model.epsilon is not None
        and result.threat_model.norm == "linf"
        and result.threat_model.channel is None
    ]
    if not searched:
        return None
    best = min(
        searched,
        key=lambda item: (
            abs((item.threat_model.epsilon or 0.0) - _HEADLINE_EPSILON), -(item.threat_model.steps or 0)
        ),
    )  # fmt: skip
    return best.scenario


def _ranks(evidences: Evidences, name: str) -> bool:
    """Whether a scenario's AUC is its own: one that stops at misjudged crops leaves their ranks."""
    found = (evidence.scenarios.get(name) for evidence in evidences.values())
    return all(scenario is None or scenario.again != "standing" for scenario in found)


def cell(result: ScenarioResult | None, metric: str) -> dict[str, Any] | None:
    """Return a figure for a table, or None where it is missing or no number."""
    found = result.metrics.get(metric) if result is not None else None
    if found is None or not all(math.isfinite(number) for number in (found.value, found.low, found.high)):
        return None
    shade = round(min(1.0, max(0.0, found.value)) * _SHADES)
    return {"value": found.value, "low": found.low, "high": found.high, "shade": shade}


def matrix(evidences: Evidences) -> list[dict[str, Any]]:
    """Return a row for each scenario: its AUC by corpus, then by model."""
    return [
        {
            "scenario": name,
            "threat": threat(result) + ("" if _ranks(evidences, name) else "; its figure is the accuracy"),
            "cells": [
                cell(evidence.find(name, corpus), "auc")
                for corpus in corpora_of(evidences)
                for evidence in evidences.values()
            ],
        }
        for name, result in scenarios_of(evidences).items()
    ]


def figures(evidences: Evidences, corpus: str) -> dict[str, Any]:
    """Return every metric of every scenario and model on one corpus, those that none has left out."""
    found = [
        (scenario, place, name, evidence.find(scenario, corpus))
        for scenario in scenarios_of(evidences)
        for place, (name, evidence) in enumerate(evidences.items())
    ]
    present = [metric for metric in METRICS if any(item and metric in item.metrics for *_, item in found)]
    rows = [
        {"scenario": scenario, "series": place, "model": name, "cells": [cell(item, key) for key in present]}
        for scenario, place, name, item in found
        if item is not None
    ]
    counts = sorted({(item.n, item.videos) for *_, item in found if item is not None})
    return {"name": corpus, "metrics": [METRICS[name] for name in present], "rows": rows, "counts": counts}


def curves(evidences: Evidences, corpus: str) -> list[dict[str, Any]]:
    """Draw AUC and accuracy over epsilon for each attack that was run with two budgets or more."""
    families: dict[str, list[str]] = {}
    for name, result in scenarios_of(evidences).items():
        swept = _SWEPT.fullmatch(name)
        model = result.threat_model
        if swept and model.knowledge == "white-box" and model.channel is None:
            families.setdefault(swept[1], []).append(name)
    charts = []
    for family, names in families.items():
        for metric in ("auc", "accuracy") if _ranks(evidences, names[0]) else ("accuracy",):
            lines = list(_lines(evidences, corpus, metric, names))
            levels = sorted({x for line in lines for x, _ in line.points})
            if sum(level > 0 for level in levels) >= 2:
                charts.append(_curve(family, corpus, METRICS[metric], lines, levels))
    return charts


def _curve(family: str, corpus: str, label: str, lines: list[Line], levels: list[float]) -> dict[str, Any]:
    axis = Axis("epsilon, in 255ths; 0 is clean", levels)
    title = f"{label} under {family} on {corpus}"
    svg: Markup = chart_svg(f"{title} over epsilon", lines, axis, Axis(label, SHARES), guess="middle")
    return {"svg": svg, "title": title[0].upper() + title[1:]}


def _lines(evidences: Evidences, corpus: str, metric: str, names: list[str]) -> Iterator[Line]:
    for place, evidence in enumerate(evidences.values()):
        results = (evidence.find(name, corpus) for name in ("clean", *names))
        points = sorted(
            (
                (round((result.threat_model.epsilon or 0.0) * 255, 3), result.metrics[metric])
                for result in results
                if cell(result, metric) is not None and result is not None
            ),
            key=lambda point: point[0],
        )
        if points:
            yield Line(place, [(x, item.value) for x, item in points], [_bar(item) for _, item in points])


def _bar(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def slices(evidences: Evidences, corpus: str) -> list[dict[str, Any]]:
    """Return AUC on each slice by model: clean, under the attack that stands for all, and the lowest."""
    attack = headline(evidences)
    names = dict.fromkeys(
        result.slice
        for evidence in evidences.values()
        for result in evidence.results
        if result.corpus == corpus and result.role == "report"
    )
    rows = []
    for name in names:
        kind, _, value = name.partition("=")
        cells = [_slice(evidence, corpus, name, attack) for evidence in evidences.values()]
        label = value if value else _WHOLE.get(name, name)
        rows.append(
            {"kind": _SLICES.get(kind, kind) if value else "whole corpus", "name": label, "cells": cells}
        )
    return sorted(rows, key=lambda row: row["kind"] != "whole corpus")


def _slice(evidence: Evidence, corpus: str, name: str, attack: str | None) -> dict[str, Any]:
    lowest: tuple[float, str] | None = None
    for result in evidence.results:
        if (result.corpus, result.slice, result.role) == (corpus, name, "report"):
            found = cell(result, "auc")
            if found is not None and (lowest is None or found["value"] < lowest[0]):
                lowest = (found["value"], result.scenario)
    clean = evidence.find("clean", corpus, name)
    return {
        "n": clean.n if clean is not None else None,
        "clean": cell(clean, "auc"),
        "attacked": cell(evidence.find(attack, corpus, name), "auc") if attack else None,
        "lowest": lowest,
    }


def costs(evidence: Evidence) -> dict[str, Any]:
    """Return what an evaluation took: time, scenarios, and crops attacked rather than carried over."""
    reports = [item for item in evidence.results if item.slice == "all" and item.role == "report"]
    attacked = [item for item in reports if item.threat_model.knowledge != "none"]
    return {
        "seconds": evidence.seconds,
        "scenarios": len({item.scenario for item in reports}),
        "attacked": sum(item.attacked for item in attacked),
        "of": sum(item.n for item in attacked),
        "resamples": evidence.resamples,
    }
