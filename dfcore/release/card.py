"""The model card: Hugging Face's format, every claim with its attack, its epsilon and its interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from dfcore.release.gate import Decision
from dfcore.release.measured import Interval, Measured, Result
from dfcore.storage import write_atomic

__all__ = ["write_card"]

_INTENDED = """\
Screening face images and videos for manipulation, as one signal among others for a trained reviewer. The
score is a calibrated estimate of P(fake); the decision compares it with the bundle's threshold."""

_LIMITS = """\
- Robustness is claimed only for the attacks, budgets and corpora in the table above. An attacker with a
  larger budget, another norm or physical access is outside the claim.
- A manipulation method or a population that the training data lacks may be detected worse; the
  cross-dataset rows show how much worse it was on one.
- Attacks give an upper bound of robust accuracy: a stronger attack may still be found.
- Do not decide about a person on this score alone."""


def write_card(path: Path, measured: Measured, decision: Decision, detector: Path) -> None:
    """Write MODEL_CARD.md from the evidence, the decision and the detector's own card."""
    card: dict[str, Any] = json.loads(detector.read_bytes())
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(measured, card), sort_keys=False, allow_unicode=True)}---\n",
        f"# {_name(measured)}\n",
        f"A deepfake detector: {_architecture(card)}, decision threshold {card.get('threshold')}.\n",
        f"## Intended use\n\n{_INTENDED}\n",
        f"## What was measured\n\n{_table(measured)}\n",
        f"## The gate\n\n{_rules(decision)}\n",
        f"## Checks of the evaluation itself\n\n{_guards(measured)}\n",
        f"## Limits\n\n{_LIMITS}\n",
        f"## Provenance\n\n{_provenance(measured, card)}\n",
    ]
    write_atomic(path, "\n".join(sections).encode())


def _name(measured: Measured) -> str:
    return measured.model.name


def _architecture(card: dict[str, Any]) -> str:
    return str(card.get("architecture", {}).get("backbone", "unknown"))


def _threat(result: Result) -> str:
    """Return "white-box linf 2/255, 20 steps, 1 restart" or "no attack"."""
    model = {
        key: value for key, value in (result.threat_model or {}).items() if value not in (None, "", "none")
    }
    if not model.get("norm"):
        return "no attack"
    text = f"{model.get('knowledge', 'unknown')} {model['norm']} {model.get('epsilon', 'unknown')}"
    counts = [f"{model[key]} {key}" for key in ("steps", "restarts") if model.get(key)]
    return ", ".join([text, *counts])


def _figure(interval: Interval | None) -> str:
    if interval is None or interval.value is None or interval.low is None or interval.high is None:
        return "not measured"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _front_matter(measured: Measured, card: dict[str, Any]) -> dict[str, Any]:
    results = [
        {
            "task": {"type": "image-classification", "name": "Deepfake detection"},
            "dataset": {"type": corpus, "name": corpus},
            "metrics": [
                {
                    "type": "roc_auc",
                    "name": f"AUC, {item.scenario} ({_threat(item)})",
                    "value": round(auc.value, 4),
                }
                for item in measured.results
                if item.overall and item.corpus == corpus
                if (auc := item.metrics.get("auc")) is not None and auc.value is not None
            ],
        }
        for corpus in measured.corpus_names
    ]
    return {
        "license": "apache-2.0",
        "library_name": "rampart",
        "pipeline_tag": "image-classification",
        "tags": ["deepfake-detection", "adversarial-robustness", _architecture(card)],
        "model-index": [{"name": _name(measured), "results": results}],
    }


def _table(measured: Measured) -> str:
    lines = [
        "Brackets: 95 % intervals, resampled by video.\n",
        "| corpus | scenario | threat model | n | AUC | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for item in measured.results:
        if item.overall:
            figures = " | ".join(_figure(item.metrics.get(name)) for name in ("auc", "accuracy"))
            lines.append(f"| {item.corpus} | {item.scenario} | {_threat(item)} | {item.n} | {figures} |")
    return "\n".join(lines)


def _rules(decision: Decision) -> str:
    verdict = "lets this model through" if decision.promoted else "stops this model"
    lines = [
        f"Policy `{decision.policy}` {verdict} ({decision.created}).\n",
        "| rule | result | detail |",
        "|---|---|---|",
    ]
    for rule in decision.rules:
        result = ("pass" if rule.passed else "fail") if rule.applied else "not applicable"
        lines.append(f"| {rule.name} | {result} | {_cell(rule.detail)} |")
    return "\n".join(lines)


def _guards(measured: Measured) -> str:
    lines = [
        f"- {guard.name}: {'passed' if guard.passed else 'failed'}. {guard.detail or ''}"
        for guard in measured.guards
    ]
    return "\n".join(line.rstrip() for line in lines) or "None were run."


def _provenance(measured: Measured, card: dict[str, Any]) -> str:
    known = {"evidence (sha256)": measured.digest, "evaluated": measured.created.isoformat()}
    for key, value in card.get("provenance", {}).items():
        if isinstance(value, str | int | float):
            known[key] = str(value)
    known |= {f"version of {key}": str(value) for key, value in measured.versions.items()}
    return "\n".join(f"- {key}: `{value}`" for key, value in known.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
