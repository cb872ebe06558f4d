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
score is a calibrated estimate of P(fake); the decision compares it with the bundle's threshold.

Out of scope: deciding about a person on this score alone, images without a face, and manipulations other
than those that were measured."""

_THREATS = """\
The attacker wants fakes to pass as real, or reals to be taken for fakes, and may change pixels within the
budget that stands beside each figure. White-box attackers know the weights, the threshold and the
calibration; black-box ones see scores; transferred attacks know other detectors. Attacks are made on the
crop that the detector sees, and judged at the deployed threshold."""

_LIMITS = """\
- Robustness is claimed only for the attacks, budgets and corpora in the table above. An attacker with a
  larger budget, another norm or physical access is outside the claim.
- The face detector and the video decoder in front of this model were not attacked.
- A manipulation method or a population that the training data lacks may be detected worse; the
  cross-dataset rows show how much worse it was on one.
- Attacks give an upper bound of robust accuracy: a stronger attack may still be found.
- Fairness between groups of people was not measured: the corpora carry no such labels."""

_VERIFY = """\
Signature and digests cover every file of this bundle. With the publisher's public key:

    rampart registry verify NAME VERSION

or, in Python, which refuses weights that do not match:

    from pathlib import Path
    from dfcore.models import load_detector

    detector = load_detector("path/to/bundle", public_key=Path("rampart.pub"))"""

_METRICS = {
    "auc": ("roc_auc", "AUC"),
    "accuracy": ("accuracy", "accuracy"),
    "macro_f1": ("f1", "macro F1"),
}


def write_card(path: Path, measured: Measured, decision: Decision, detector: Path) -> None:
    """Write MODEL_CARD.md from the evidence, the decision and the detector's own card.

    Args:
        path: of the Markdown file, with Hugging Face's metadata as its front matter.
        measured: the evidence.
        decision: the gate's, on this evidence.
        detector: detector.json.
    """
    card: dict[str, Any] = json.loads(detector.read_bytes())
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(measured, card), sort_keys=False, allow_unicode=True)}---\n",
        f"# {_name(measured)}\n",
        f"A deepfake detector: {_architecture(card)}, decision threshold {card.get('threshold')}.\n",
        f"## Intended use\n\n{_INTENDED}\n",
        f"## Threat model\n\n{_THREATS}\n",
        f"## What was measured\n\n{_table(measured)}\n",
        f"## Parts of the corpora\n\n{_slices(measured)}\n",
        f"## The gate\n\n{_rules(decision)}\n",
        f"## Checks of the evaluation itself\n\n{_guards(measured)}\n",
        f"## Limits\n\n{_LIMITS}\n",
        f"## Training data\n\n{_training(measured, card)}\n",
        f"## How to verify\n\n{_VERIFY}\n",
        f"## Provenance\n\n{_provenance(measured, card)}\n",
    ]
    write_atomic(path, "\n".join(sections).encode())


def _name(measured: Measured) -> str:
    return measured.model.name


def _architecture(card: dict[str, Any]) -> str:
    return str(card.get("architecture", {}).get("backbone", "unknown"))


def _threat(result: Result) -> str:
    """Return "white-box linf 2/255, 20 steps, 1 restarts", "white-box flow" or "no attack"."""
    model = {key: value for key, value in (result.threat_model or {}).items() if value not in (None, "")}
    knowledge, ball = (
        model.get("knowledge", "none"),
        [model[key] for key in ("norm", "epsilon") if key in model],
    )
    if knowledge == "none" and not ball:
        text = "no attack"
    else:
        known = "random" if knowledge == "noise" else knowledge
        text = " ".join(str(part) for part in (known, *(ball or [model.get("attack", "attack")])))
    counts = [f"{model[key]} {key}" for key in ("steps", "restarts", "queries") if model.get(key)]
    through = [f"through {model['channel']}"] if "channel" in model else []
    return ", ".join([text, *counts, *through])


def _figure(interval: Interval | None) -> str:
    if interval is None or interval.value is None or interval.low is None or interval.high is None:
        return "not measured"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _reported(measured: Measured, corpus: str) -> list[Result]:
    """Return the figures about the model on a whole corpus; a guard's are none."""
    return [
        item for item in measured.results if item.overall and item.corpus == corpus and item.role != "guard"
    ]


def _front_matter(measured: Measured, card: dict[str, Any]) -> dict[str, Any]:
    results = [
        {
            "task": {"type": "image-classification", "name": "Deepfake detection"},
            "dataset": {"type": corpus, "name": corpus, "split": "test"},
            "metrics": [
                {
                    "type": kind,
                    "name": f"{label}, {item.scenario} ({_threat(item)})",
                    "value": round(found.value, 4),
                    "args": {"interval_95": [round(found.low, 4), round(found.high, 4)]},
                }
                for item in _reported(measured, corpus)
                for metric, (kind, label) in _METRICS.items()
                if (found := item.metrics.get(metric)) is not None
                if found.value is not None and found.low is not None and found.high is not None
            ],
        }
        for corpus in measured.corpus_names
    ]
    return {
        "license": "apache-2.0",
        "library_name": "rampart",
        "pipeline_tag": "image-classification",
        "tags": ["deepfake-detection", "adversarial-robustness", _architecture(card)],
        "metrics": [kind for kind, _ in _METRICS.values()],
        "model-index": [{"name": _name(measured), "results": [item for item in results if item["metrics"]]}],
    }


def _table(measured: Measured) -> str:
    lines = [
        "Brackets: 95 % intervals, resampled by video.\n",
        "| corpus | scenario | threat model | n | AUC | accuracy | fake judged real | real judged fake |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for corpus in measured.corpus_names:
        for item in _reported(measured, corpus):
            figures = " | ".join(
                _figure(item.metrics.get(name))
                for name in ("auc", "accuracy", "fake_as_real", "real_as_fake")
            )
            lines.append(f"| {_cell(corpus)} | {item.scenario} | {_threat(item)} | {item.n} | {figures} |")
    return "\n".join(lines)


def _slices(measured: Measured) -> str:
    """Return a row for each part: AUC on clean crops, and the lowest AUC with the attack that reached it."""
    lines = [
        "AUC; the last column is the scenario that brought it down furthest.\n",
        "| corpus | part | n | clean | lowest | reached by |",
        "|---|---|---|---|---|---|",
    ]
    parts: dict[tuple[str, str], list[Result]] = {}
    for item in measured.results:
        found = item.metrics.get("auc")
        if item.role != "guard" and item.slice and not item.overall and found and found.value is not None:
            parts.setdefault((item.corpus, item.slice), []).append(item)
    for (corpus, part), items in parts.items():
        lowest = min(items, key=lambda item: item.metrics["auc"].value or 0.0)
        clean = next((item.metrics["auc"] for item in items if item.scenario == "clean"), None)
        lines.append(
            f"| {_cell(corpus)} | {_cell(part)} | {lowest.n} | {_figure(clean)} "
            f"| {_figure(lowest.metrics['auc'])} | {lowest.scenario} |"
        )
    return "\n".join(lines) if parts else "None were measured."


def _training(measured: Measured, card: dict[str, Any]) -> str:
    provenance = card.get("provenance", {})
    lines = [f"- digest of the data: `{provenance.get('data_digest', 'not recorded')}`"]
    groups = provenance.get("training_groups")
    if isinstance(groups, list):
        checks = [guard.passed for guard in measured.guards if guard.name == "no_training_overlap"]
        apart = "none of them is" if checks and all(checks) else "it was not shown that none of them is"
        lines.append(f"- identities trained on: {len(set(map(str, groups)))}; {apart} in the corpora above")
    weights = provenance.get("initial_weights")
    if isinstance(weights, dict):
        lines.append(
            f"- started from: {weights.get('name') or weights.get('source', 'not recorded')} weights"
        )
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
