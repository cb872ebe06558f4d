from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from dfcore.provenance import sha256_file


@pytest.fixture
def bom(bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((bundle / "bom.cdx.json").read_text())
    return document


def test_it_fits_the_official_schema(bundle: Path) -> None:
    text = (bundle / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"machine-learning-model"', '"magic"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_it_names_the_weights_and_every_figure(bom: dict[str, Any], bundle: Path) -> None:
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256_file(bundle / "weights.safetensors")}]
    evidence = json.loads((bundle / "evidence.json").read_text())
    expected = next(
        item["metrics"]["auc"] for item in evidence["results"]
        if (item["scenario"], item["corpus"], item["slice"]) == ("pgd20_2_255", "ffpp", "all")
    )  # fmt: skip
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    (claim,) = (item for item in metrics if (item["type"], item["slice"]) == ("auc", "ffpp, pgd20_2_255"))
    assert float(claim["value"]) == expected["value"]
    assert float(claim["confidenceInterval"]["lowerBound"]) == expected["low"]
    assert bom["metadata"]["timestamp"] == json.loads((bundle / "decision.json").read_text())["created"]


def test_everything_named_is_there(bom: dict[str, Any]) -> None:
    known = {item["bom-ref"] for item in bom["components"]}
    assert set(bom["dependencies"][0]["dependsOn"]) == known
    datasets = bom["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    assert {item["ref"] for item in datasets} <= known
    assert {item["name"] for item in bom["components"]} >= {
        "evaluation: ffpp",
        "evaluation: celebdf",
        "torch",
    }
