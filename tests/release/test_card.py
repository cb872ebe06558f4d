"""The model card: Hugging Face reads it; every claim carries its attack, its budget and its interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dfcore.release import check_gate, load_policy
from dfcore.release.card import write_card
from dfcore.release.measured import read_measured
from tests.release.evidence import GOOD, WEAK, edit, write_evaluation

DETECTOR = {
    "architecture": {"backbone": "resnet10_narrow"},
    "threshold": 0.6,
    "provenance": {
        "data_digest": "d" * 64,
        "training_groups": ["b", "a", "a"],
        "initial_weights": {"source": "random", "name": None},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "evaluation", GOOD)


def _card(folder: Path, detector: dict[str, Any] = DETECTOR, policy: str = "demo") -> str:
    (folder / "detector.json").write_text(json.dumps(detector))
    decision = check_gate(folder, load_policy(policy))
    write_card(folder / "MODEL_CARD.md", read_measured(folder), decision, folder / "detector.json")
    return (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_hugging_face_reads_the_front_matter(folder: Path) -> None:
    text = _card(folder)
    data = ModelCard(text).data
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "apache-2.0", "image-classification", "rampart"
    )  # fmt: skip
    assert data.tags == ["deepfake-detection", "adversarial-robustness", "resnet10_narrow"]
    results = data.eval_results
    assert results is not None
    assert {result.task_type for result in results} == {"image-classification"}
    assert {result.dataset_name for result in results} == {"ffpp", "celebdf"}
    measured = read_measured(folder)
    (claim,) = (
        result
        for result in results
        if (result.dataset_name, result.metric_type) == ("ffpp", "roc_auc")
        and "pgd20_2_255" in str(result.metric_name)
    )
    found = measured.find("pgd20_2_255", "ffpp").metrics["auc"]
    assert found.value is not None
    assert claim.metric_value == round(found.value, 4)
    assert claim.metric_name == "AUC, pgd20_2_255 (white-box linf 2/255, 20 steps, 1 restarts)"
    assert claim.metric_args == {"interval_95": [round(found.low or 0, 4), round(found.high or 0, 4)]}


def test_a_reader_finds_each_part(folder: Path) -> None:
    text = _card(folder)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Intended use", "## Threat model", "## What was measured", "## Parts of the corpora",
        "## The gate", "## Checks of the evaluation itself", "## Limits", "## Training data",
        "## How to verify", "## Provenance",
    ]  # fmt: skip
    assert f"digest of the data: `{'d' * 64}`" in text
    assert "identities trained on: 2; it was not shown that none of them is in" in text
    assert "started from: random weights" in text
    part = next(line for line in text.splitlines() if line.startswith("| ffpp | method=swap |"))
    assert part.endswith(" |")
    assert part.split("|")[-2].strip() in {"pgd20_1_255", "pgd20_4_255", "pgd20_8_255"}
    assert "rampart registry verify NAME VERSION" in text


def test_training_and_test_apart(folder: Path) -> None:
    guard = {
        "name": "no_training_overlap", "corpus": "ffpp", "passed": True, "value": 0.0, "bound": "= 0",
        "detail": "",
    }  # fmt: skip
    assert "2; none of them is in the corpora above" in _card(edit(folder, guards=[guard]))


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        ({"knowledge": "none"}, "no attack"),
        ({"knowledge": "none", "channel": "jpeg"}, "no attack, through jpeg"),
        ({"knowledge": "noise", "attack": "noise", "norm": "linf", "epsilon": "8/255"}, "random linf 8/255"),
        ({"knowledge": "white-box", "attack": "flow", "steps": 20}, "white-box flow, 20 steps"),
        (
            {
                "knowledge": "black-box",
                "attack": "square",
                "norm": "linf",
                "epsilon": "8/255",
                "queries": 100,
            },
            "black-box linf 8/255, 100 queries",
        ),
    ],
)
def test_what_a_figure_holds_against(folder: Path, threat: dict[str, Any], words: str) -> None:
    results = json.loads((folder / "evidence.json").read_text())["results"]
    for result in results:
        result["threat_model"] = threat
    row = f"| ffpp | clean | {words} | "
    assert row in _card(edit(folder, results=results))


def test_figures_that_are_missing_and_guards_figures_are_no_claims(folder: Path) -> None:
    results = json.loads((folder / "evidence.json").read_text())["results"]
    for result in results:
        if result["scenario"] == "jpeg_50":
            result["metrics"] = {}
        if result["scenario"] == "h264":
            result["role"] = "guard"
    text = _card(edit(folder, results=results), {"threshold": 0.5})
    assert "| ffpp | jpeg_50 | no attack | 120 | not measured | not measured |" in text
    assert "| ffpp | h264 |" not in text
    assert "jpeg_50" not in str(ModelCard(text).data.eval_results)
    assert "digest of the data: `not recorded`" in text
    assert "identities" not in text
    only = [item for item in results if item["slice"] == "all"]
    assert "None were measured." in _card(edit(folder, results=only))


def test_a_stopped_model_says_so(tmp_path: Path) -> None:
    text = _card(write_evaluation(tmp_path / "weak", WEAK))
    assert "Policy `demo` stops this model" in text
    assert "| floor: auc of pgd20_2_255 on ffpp | fail |" in text
