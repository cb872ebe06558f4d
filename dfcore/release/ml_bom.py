"""The bill of materials of a release: CycloneDX 1.6 with a model card, the same bytes for the same inputs."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dfcore.models.bundle import CARD
from dfcore.provenance import sha256_file
from dfcore.release.gate import Decision
from dfcore.release.measured import Interval, Measured, Result
from dfcore.storage import write_atomic

__all__ = ["write_ml_bom"]

_WEIGHTS = "weights.safetensors"
_MODEL = "model"
_LIMITS = (
    "Robustness is claimed only for the attacks, budgets and corpora that were measured.",
    "Manipulations and populations that the training data lack may be detected worse.",
    "No decision about a person should rest on this score alone.",
)


def write_ml_bom(path: Path, measured: Measured, decision: Decision, folder: Path) -> None:
    """Write the bill of materials of a bundle.

    Args:
        path: the JSON file.
        measured: the evidence; every overall figure becomes a performance metric.
        decision: the gate's; its date is the document's.
        folder: the bundle, with its weights and detector.json.
    """
    card: dict[str, Any] = json.loads((folder / CARD).read_bytes())
    weights = sha256_file(folder / _WEIGHTS)
    materials = [*_datasets(measured, card), *_libraries(measured, card)]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, weights + measured.digest)}",
        "version": 1,
        "metadata": {"timestamp": decision.created, "component": _model(measured, decision, card, weights)},
        "components": materials,
        "dependencies": [{"ref": _MODEL, "dependsOn": [item["bom-ref"] for item in materials]}],
    }
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    write_atomic(path, f"{text}\n".encode())


def _model(measured: Measured, decision: Decision, card: dict[str, Any], weights: str) -> dict[str, Any]:
    trained = card.get("provenance", {})
    known = {
        "commit": trained.get("commit"), "seed": trained.get("seed"), "threshold": card.get("threshold"),
        "initial_weights": json.dumps(trained.get("initial_weights"), sort_keys=True),
        "evidence_sha256": measured.digest, "gate_policy": decision.policy,
    }  # fmt: skip
    return {
        "bom-ref": _MODEL,
        "type": "machine-learning-model",
        "name": measured.model.name,
        "version": weights[:12],
        "hashes": [{"alg": "SHA-256", "content": weights}],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "modelCard": _model_card(measured, card),
        "properties": [
            {"name": f"rampart:{name}", "value": str(value)}
            for name, value in known.items()
            if value not in (None, "null")
        ],
    }


def _model_card(measured: Measured, card: dict[str, Any]) -> dict[str, Any]:
    architecture = card.get("architecture", {})
    side = architecture.get("image_size", "S")
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image-classification",
            "architectureFamily": "convolutional or transformer image classifier",
            "modelArchitecture": str(architecture.get("backbone", "unknown")),
            "datasets": [{"ref": item["bom-ref"]} for item in _datasets(measured, card)],
            "inputs": [{"format": f"float32 (N, 3, {side}, {side}), RGB in [0, 1]"}],
            "outputs": [{"format": "float32 (N,), logit; P(fake) is its sigmoid"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                _metric(result, name, value)
                for result in measured.results
                if result.overall
                for name, value in sorted(result.metrics.items())
                if value.value is not None
            ]
        },
        "considerations": {
            "users": ["reviewers of images and videos"],
            "useCases": ["screening faces for manipulation, as one signal among others"],
            "technicalLimitations": list(_LIMITS),
        },
    }


def _metric(result: Result, name: str, figure: Interval) -> dict[str, Any]:
    metric: dict[str, Any] = {
        "type": name,
        "value": str(figure.value),
        "slice": f"{result.corpus}, {result.scenario}",
    }
    if figure.low is not None and figure.high is not None:
        metric["confidenceInterval"] = {"lowerBound": str(figure.low), "upperBound": str(figure.high)}
    return metric


def _datasets(measured: Measured, card: dict[str, Any]) -> list[dict[str, Any]]:
    digests = {f"evaluation: {name}": digest for name, digest in measured.corpora.items()}
    if trained := card.get("provenance", {}).get("data_digest"):
        digests["training"] = str(trained)
    return [
        {
            "bom-ref": f"data:{index}",
            "type": "data",
            "name": name,
            "properties": [{"name": "rampart:content_sha256", "value": digest}],
            "data": [{"type": "dataset", "name": name}],
        }
        for index, (name, digest) in enumerate(sorted(digests.items()))
    ]


def _libraries(measured: Measured, card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what scored the evidence; the training run's versions where they were others."""
    trained = card.get("provenance", {}).get("versions", {})
    pairs = {(str(name), str(version)) for name, version in measured.versions.items()}
    pairs |= {(str(name), str(version)) for name, version in trained.items()}
    found = {f"pkg:{_kind(name)}/{name}@{quote(version)}": (name, version) for name, version in pairs}
    return [
        {
            "bom-ref": purl,
            "type": "platform" if name == "python" else "library",
            "name": name,
            "version": version,
            "purl": purl,
        }
        for purl, (name, version) in sorted(found.items())
    ]


def _kind(name: str) -> str:
    return "generic" if name == "python" else "pypi"
