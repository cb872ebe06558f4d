"""What the report shows of parts of the face and of frequencies: bars, curves, a table of spectra."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dfcore.config import format_epsilon
from dfcore.evaluation.evidence import Evidence
from dfcore.evaluation.figures import Axis, Bar, Line, bars_svg, chart_svg
from dfcore.evaluation.looks import Looks
from dfcore.evaluation.report_tables import scenarios_of
from dfcore.explain import REGIONS

__all__ = ["looks_parts", "spectra"]

_SWEPT = re.compile(r"(.+)_(\d+(?:\.\d+)?)_255")
_LEVEL = 10  # shade of white noise
_FACTOR = 1.5  # powers of ten that ten shades up or down stand for


def looks_parts(looks: Sequence[Looks], models: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each corpus, region bars, how far the CAMs moved, and sensitivity curves.

    Args:
        looks: a corpus each.
        models: of the report, in their order, which decides colours.
    """
    places = {name: place for place, name in enumerate(models)}
    return [
        {
            "corpus": one.corpus,
            "faces": one.faces,
            "epsilon": format_epsilon(one.epsilon),
            "noise": format_epsilon(one.rms),
            "regions": _regions(one, places),
            "moved": [
                {"model": name, "spoken": look.spoken, **look.moved} for name, look in one.models.items()
            ],
            "sensitivity": _sensitivity(one, places),
        }
        for one in looks
    ]


def _regions(looks: Looks, places: Mapping[str, int]) -> dict[str, Any] | None:
    if not looks.areas:
        return None
    rows = []
    for region in REGIONS:
        bars = [
            Bar(places[name], hollow, shares[region])
            for name, look in looks.models.items()
            for hollow, shares in ((False, look.clean), (True, look.attacked)) if shares
        ]  # fmt: skip
        rows.append((region, looks.areas[region], bars))
    longest = max(max([mark, *(bar.value for bar in bars)]) for _, mark, bars in rows)
    title = f"Parts of the face on {looks.corpus}"
    axis = Axis("share of what speaks for fake", _ticks(longest))
    return {"svg": bars_svg(title, rows, axis), "title": title}


def _sensitivity(looks: Looks, places: Mapping[str, int]) -> dict[str, Any] | None:
    middles = [(low + high) / 2 for low, high in pairwise(looks.edges.tolist())]
    lines = [
        Line(
            places[name],
            [(x, y) for x, y in zip(middles, look.response.tolist(), strict=True) if math.isfinite(y)],
        )
        for name, look in looks.models.items()
    ]
    highest = max((y for line in lines for _, y in line.points), default=0.0)
    if highest <= 0:
        return None
    title = f"Sensitivity by frequency on {looks.corpus}"
    axis = Axis("frequency, cycles a pixel", tuple(place / 10 for place in range(8)))
    svg = chart_svg(title, lines, axis, Axis("change of the logit", _ticks(highest)), guess=None)
    return {"svg": svg, "title": title}


def _ticks(highest: float) -> tuple[float, ...]:
    """Return round ticks from 0 to at least the highest value, five steps at most."""
    size = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(size * factor for factor in (1, 2, 5, 10) if highest <= 5 * size * factor * (1 + 1e-9))
    return tuple(round(step * place, 12) for place in range(math.ceil(highest / step - 1e-9) + 1))


def spectra(evidences: Mapping[str, Evidence]) -> dict[str, Any] | None:
    """Return what each attacker's change is made of, by attack, then by model.

    Of an attack with several budgets the largest that it was run with stands for all, of each model's corpora
    the first.
    """
    rows: list[dict[str, Any]] = []
    for scenario in _largest(evidences):
        found = {name: _spectrum(evidence, scenario) for name, evidence in evidences.items()}
        views = [{"model": name, "cells": list(map(_cell, one))} for name, one in found.items() if one]
        if views:
            rows.append({"scenario": scenario, "views": views})
    if not rows:
        return None
    bands = len(rows[0]["views"][0]["cells"])
    edges = [bands / (math.sqrt(0.5) * place) for place in range(1, bands + 1)]
    heads = [f"over {edges[0]:.0f}", *(f"{shorter:.2g}-{longer:.2g}" for longer, shorter in pairwise(edges))]
    return {"heads": heads, "rows": rows}


def _spectrum(evidence: Evidence, scenario: str) -> list[float | None]:
    return next((one.spectrum for one in evidence.results if one.scenario == scenario and one.spectrum), [])


def _largest(evidences: Mapping[str, Evidence]) -> list[str]:
    chosen: dict[str, tuple[float, str]] = {}
    for name, result in scenarios_of(evidences).items():
        if any(_spectrum(evidence, name) for evidence in evidences.values()):
            family = match[1] if (match := _SWEPT.fullmatch(name)) else name
            size = result.threat_model.epsilon or 0.0
            chosen[family] = max(chosen.get(family, (-1.0, "")), (size, name))
    return [name for _, name in chosen.values()]


def _cell(value: float | None) -> dict[str, Any] | None:
    if value is None:
        return None
    shade = _LEVEL + round(_LEVEL / _FACTOR * math.log10(max(value, 1e-9)))
    return {"text": f"{value:.0f}" if value >= 10 else f"{value:.2g}", "shade": min(20, max(0, shade))}
