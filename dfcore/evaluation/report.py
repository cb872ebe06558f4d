"""The report: one HTML page without outside parts, verdict first.

The page has no scripts, and its content security policy allows nothing but its own style and the images
inside it; the same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from dfcore.config import format_epsilon
from dfcore.errors import ConfigError
from dfcore.evaluation import report_tables as tables
from dfcore.evaluation.evidence import Evidence
from dfcore.evaluation.figures import SERIES, amplified_png, cam_jpeg, face_png, key_svg
from dfcore.evaluation.looks import Looks
from dfcore.evaluation.pictures import Picture, View
from dfcore.evaluation.report_looks import looks_parts, spectra
from dfcore.evaluation.report_scores import read_scores, roc_charts
from dfcore.explain import compare_cams
from dfcore.storage.writing import write_atomic

__all__ = ["write_report"]

Decision = BaseModel | Mapping[str, Any]
_RULE_FIELDS = ("name", "passed", "applied", "value", "low", "high", "bound", "detail")
# the page may weigh 8 MB; what is not pictures stays far below the rest
_PICTURE_BYTES = 6_000_000
_CAM_PIXELS = 144  # heat maps of small crops are drawn larger; faces never
_STYLE_HASH = "STYLE-HASH"


def write_report(
    path: Path,
    evidences: Mapping[str, Evidence],
    decisions: Mapping[str, Decision] | None = None,
    pictures: Sequence[Picture] = (),
    *,
    advice: Mapping[str, Sequence[str]] | None = None,
    scores: Mapping[str, Path] | None = None,
    looks: Sequence[Looks] = (),
) -> Path:
    """Write the report atomically.

    Args:
        path: of the HTML file.
        evidences: by model name, the baseline first.
        decisions: by model name: what the gate said (`promoted`, `rules` with name, passed, value, low, high,
            bound, detail), as a model or as plain data.
        pictures: attacked faces; those beyond what the page may weigh are left out, which it says.
        advice: by model name: what would have to improve, as `dfcore.release.advise` words it.
        scores: by model name: the evidence's folder, or its samples.parquet, for the ROC curves.
        looks: parts of the face and frequencies, a corpus each.

    Raises:
        ConfigError: no evidence; or a decision, advice, scores or looks of a model without evidence.
        CheckFailed: scores that are missing, or not the ones that the evidence was made from.
        WorkFailed: the report can't be written.
    """
    decided = {name: _plain(decision) for name, decision in (decisions or {}).items()}
    advice, scores = advice or {}, scores or {}
    for given in (decided, advice, scores, *(one.models for one in looks)):
        if not evidences or not set(given) <= set(evidences):
            raise ConfigError(f"expected evidence for every model {sorted(given)}, got {sorted(evidences)}")
    environment = Environment(
        loader=PackageLoader("dfcore.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = _fitting(pictures)
    page = environment.get_template("report.html.j2").render(
        evidences=evidences,
        keys={name: key_svg(place) for place, name in enumerate(evidences)},
        series={name: place % SERIES for place, name in enumerate(evidences)},
        verdicts=[_verdict(name, evidences, decided.get(name), advice.get(name, ())) for name in evidences],
        headline=tables.headline(evidences),
        corpora=tables.corpora_of(evidences),
        matrix=tables.matrix(evidences),
        **_by_corpus(evidences, scores),
        pictures=shown,
        left_out=len(pictures) - len(shown),
        looks=looks_parts(looks, list(evidences)),
        spectra=spectra(evidences),
        costs={name: tables.costs(evidence) for name, evidence in evidences.items()},
    )
    write_atomic(path, f"{_sealed(page)}\n".encode())
    return path


def _sealed(page: str) -> str:
    """Put the style's hash into the policy: a style that got in through a name would not be applied."""
    style = page[page.index("<style>") + len("<style>") : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return page.replace(_STYLE_HASH, f"sha256-{digest}", 1)


def _plain(decision: Decision) -> dict[str, Any]:
    return decision.model_dump(mode="json") if isinstance(decision, BaseModel) else dict(decision)


def _by_corpus(evidences: Mapping[str, Evidence], scores: Mapping[str, Path]) -> dict[str, Any]:
    corpora = tables.corpora_of(evidences)
    samples = {
        place: read_scores(scores[name], evidence)
        for place, (name, evidence) in enumerate(evidences.items())
        if name in scores
    }
    return {
        "curves": {corpus: tables.curves(evidences, corpus) for corpus in corpora},
        "rocs": {corpus: roc_charts(samples, corpus, _ranked(evidences, corpus)) for corpus in corpora},
        "slices": {corpus: tables.slices(evidences, corpus) for corpus in corpora},
        "figures": [tables.figures(evidences, corpus) for corpus in corpora],
    }


def _ranked(evidences: Mapping[str, Evidence], corpus: str) -> dict[str, str]:
    """Return the scenarios that get a ROC chart and their titles: clean, the usual attack, the worst one."""
    found = tables.scenarios_of(evidences)
    lows = [
        (low["value"], name)
        for evidence in evidences.values()
        for name in found
        if (low := tables.cell(evidence.find(name, corpus), "auc")) is not None
    ]
    chosen = dict.fromkeys(["clean", tables.headline(evidences), min(lows)[1] if lows else None])
    return {
        name: "clean" if name == "clean" else f"under {name}"
        for name in chosen
        if name is not None and name in found
    }


def _verdict(
    name: str, evidences: Mapping[str, Evidence], decision: Mapping[str, Any] | None, advice: Sequence[str]
) -> dict[str, Any]:
    evidence = evidences[name]
    rules = [
        {"applied": True} | {key: rule[key] for key in _RULE_FIELDS if key in rule}
        for rule in map(_plain, (decision or {}).get("rules", []))
    ]
    rules = [dict.fromkeys(_RULE_FIELDS) | rule for rule in rules]
    failed = [rule for rule in rules if not rule["passed"]]
    if not evidence.valid:
        state, mark, words = "bad", "✗", "Invalid: these figures do not count"
    elif decision is None:
        state, mark, words = "none", "○", "Measured; no decision was taken"
    elif decision["promoted"]:
        state, mark, words = "good", "✓", "Promoted"
    else:
        state, mark, words = "bad", "✗", "Stopped"
    return {
        "name": name, "state": state, "mark": mark, "headline": words, "rules": rules, "failed": failed,
        "advice": list(advice), "guards": evidence.tripped(), "glance": _glance(name, evidences),
    }  # fmt: skip


def _glance(name: str, evidences: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    """Return, for each corpus, the figures that a reader asks for first."""
    attack = tables.headline(evidences)
    evidence = evidences[name]
    found = []
    for corpus in evidence.corpora:
        whole = next(
            (row for row in tables.slices({name: evidence}, corpus) if row["name"] == "all crops"), None
        )
        if whole is not None:
            attacked = tables.cell(evidence.find(attack, corpus), "auc") if attack else None
            found.append({"corpus": corpus, **whole["cells"][0], "attacked": attacked})
    return found


def _fitting(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Encode as many pictures as the page can carry."""
    found: list[dict[str, Any]] = []
    weight = 0
    for picture in pictures:
        encoded = _picture(picture)
        weight += sum(len(text) for text in _addresses(encoded))
        if weight > _PICTURE_BYTES:
            break
        found.append(encoded)
    return found


def _addresses(picture: Mapping[str, Any]) -> Iterator[str]:
    for holder in (picture, *picture["views"]):
        yield from (text for text in holder.values() if isinstance(text, str) and text.startswith("data:"))


def _picture(picture: Picture) -> dict[str, Any]:
    return {
        "corpus": picture.corpus,
        "truth": "fake" if picture.label else "real",
        "method": re.sub("[-_]+", " ", picture.method),
        "epsilon": format_epsilon(picture.epsilon),
        "factor": round(0.5 / max(picture.epsilon, 1e-6)),
        "clean": face_png(picture.clean),
        "height": picture.clean.shape[0],
        "width": picture.clean.shape[1],
        "cam_scale": max(1, round(_CAM_PIXELS / picture.clean.shape[1])),
        "views": [_view(picture, view) for view in picture.views],
    }


def _view(picture: Picture, view: View) -> dict[str, Any]:
    moved = compare_cams(view.clean_cam[None], view.attacked_cam[None]).means()
    return {
        "model": view.model,
        "clean_score": view.clean_score,
        "attacked_score": view.attacked_score,
        "clean_word": _word(view.clean_score, view.threshold),
        "attacked_word": _word(view.attacked_score, view.threshold),
        "clean_wrong": _wrong(view.clean_score, view.threshold, picture.label),
        "attacked_wrong": _wrong(view.attacked_score, view.threshold, picture.label),
        "attacked": face_png(view.attacked),
        "change": amplified_png(picture.clean, view.attacked, picture.epsilon),
        "clean_cam": cam_jpeg(picture.clean, view.clean_cam),
        "attacked_cam": cam_jpeg(view.attacked, view.attacked_cam),
        "clean_speaks": bool(view.clean_cam.any()),
        "attacked_speaks": bool(view.attacked_cam.any()),
        "iinc": moved["iinc"],
        "ssim": moved["ssim"],
    }


def _word(score: float, threshold: float) -> str:
    return "fake" if score >= threshold else "real"


def _wrong(score: float, threshold: float, label: int) -> bool:
    return (score >= threshold) != bool(label)
