"""What the demo found: one document, and the same as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rampart.output import console, table

if TYPE_CHECKING:
    from dfcore.data import Manifest

__all__ = ["show", "summarise"]

_MODELS = ("baseline", "robust")


def summarise(
    outputs: Mapping[str, Any], arguments: Mapping[str, Any], manifests: Mapping[str, Manifest],
    answers: Mapping[str, Any], seconds: Mapping[str, float], reused: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Collect the run's results.

    Args:
        outputs: of the pipeline.
        arguments: that it ran with.
        manifests: by corpus.
        answers: of the server, "real" and "fake"; empty if nothing was served.
        seconds: by step.
        reused: the steps that found their work done.

    Returns:
        The content of `summary.json`.
    """
    from dfcore.provenance import versions
    from rampart.data import count_samples

    return {
        "corpora": {name: count_samples(manifest) for name, manifest in manifests.items()},
        "models": {name: _figures(Path(outputs[f"{name}_evidence"])) for name in _MODELS},
        "evidence_valid": {
            name: _read(outputs[f"{name}_evidence"], "evidence.json")["valid"] for name in _MODELS
        },
        "gate": {name: _decision(outputs[f"{name}_decision"]) for name in _MODELS},
        "registry": _published(outputs, arguments),
        "serving": dict(answers),
        "report": outputs["report"],
        "seconds": dict(seconds),
        "reused": reused,
        "versions": versions(),
    }


def show(summary: Mapping[str, Any], path: Path) -> None:
    """Show the tables: scenario by model, the gate's rules, the server's answers, seconds by step."""
    for corpus, scenarios in summary["models"]["baseline"].items():
        rows = []
        for scenario in scenarios:
            cells = [summary["models"][name][corpus][scenario] for name in _MODELS]
            rows.append([scenario, *(f"{cell[key]:.3f}" for key in ("auc", "accuracy") for cell in cells)])
        heads = [f"{metric} {name}" for metric in ("AUC", "accuracy") for name in _MODELS]
        table(f"{corpus}: scenario by model", ["scenario", *heads], rows)
    for name in _MODELS:
        decision = summary["gate"][name]
        rules = [
            [rule["name"], "pass" if rule["passed"] else "FAIL", rule["detail"]] for rule in decision["rules"]
        ]
        table(
            f"gate, {name}: {'promoted' if decision['promoted'] else 'stopped'}",
            ["rule", "", "detail"],
            rules,
        )
    answers = [
        [
            word,
            answer["video"],
            str(answer["label"]),
            f"{answer['score'] or 0:.3f}",
            f"{answer['threshold']:.3f}",
        ]
        for word, answer in summary["serving"].items()
    ]
    if answers:
        table("the server's answers", ["truth", "video", "answer", "P(fake)", "threshold"], answers)
    table("seconds", ["step", "s"], [[step, f"{spent:.1f}"] for step, spent in summary["seconds"].items()])
    out = console()
    if summary["reused"]:
        out.print(f"reused, unchanged: {', '.join(summary['reused'])}")
    registry = summary["registry"]
    out.print(f"published  {registry['address'] or 'nothing'}  {registry['version'] or ''}")
    out.print(f"report     {summary['report']}\nsummary    {path}")


def _figures(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    from dfcore.evaluation import Evidence

    figures: dict[str, dict[str, dict[str, float]]] = {}
    for result in Evidence.read(folder).results:
        if result.slice == "all" and result.role == "report":
            figures.setdefault(result.corpus, {})[result.scenario] = {
                "auc": result.metrics["auc"].value,
                "accuracy": result.metrics["accuracy"].value,
                "n": result.n,
            }
    return figures


def _decision(folder: str) -> dict[str, Any]:
    decision = _read(folder, "decision.json")
    return {"promoted": decision["promoted"], "rules": decision["rules"]}


def _published(outputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    uri, version = arguments["registry"], outputs["version"]
    if not outputs["uri"]:
        return {"uri": uri, "address": None, "bundle": None, "version": None}
    prefix = f"models/{arguments['model_name']}/versions/{version}"
    folder = str(Path(urlsplit(uri).path) / prefix) if uri.startswith("file://") else f"{uri}/{prefix}"
    return {"uri": uri, "address": outputs["uri"], "bundle": folder, "version": version}


def _read(folder: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    return document
