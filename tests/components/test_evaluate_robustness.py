"""The evaluation's step: which detector transferred attacks are made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import json_format
from kfp import dsl

import components
import pipelines
from dfcore.attacks import FGSM, Transfer
from dfcore.evaluation import SUITES, Evidence, Scenario, detector_digest
from dfcore.models import DetectorCard, DetectorConfig, build_detector, load_detector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from tests.data.crop_stores import write_shards

SIZE = 32
_CLEAN = SUITES["quick"][0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, SIZE, SIZE, 3), dtype=np.uint8)
    rows: list[dict[str, object]] = [
        {
            "sample_id": f"v{number}", "split": "test", "label": number % 2,
            "method": "swap" if number % 2 else "original",
        }
        for number in range(8)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("store") / "store"
    write_shards(path, images, rows, per_shard=8)
    return path


def _save(folder: Path, scale: float) -> dsl.Model:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=SIZE)).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(scale)
    groups = {"training_groups": ["a"], "validation_groups": ["b"]}
    card = DetectorCard(
        architecture=detector.config, preprocessing=PreprocessingConfig(image_size=SIZE), threshold=0.5,
        provenance=groups,
    )  # fmt: skip
    save_detector(folder, detector, card)
    return dsl.Model(name="model", uri=str(folder))


def _run(tmp_path: Path, store: Path, suite: str, surrogate: dsl.Model) -> Evidence:
    out = dsl.Artifact(name="evidence", uri=str(tmp_path / f"evidence-{suite}"))
    components.evaluate_robustness.python_func(
        model=_save(tmp_path / "model", 1.0), store=dsl.Dataset(name="store", uri=str(store)), name="tiny",
        evidence=out, surrogate=surrogate, suite=suite, frames_per_video=1,
    )  # fmt: skip
    return Evidence.read(Path(out.path))


def test_the_surrogate_is_read_where_the_suite_needs_it(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Scenario(name="moved", attack=Transfer(attack=FGSM(epsilon=4 / 255)))
    monkeypatch.setitem(SUITES, "without", (_CLEAN,))
    monkeypatch.setitem(SUITES, "with", (_CLEAN, moved))
    nobody = dsl.Model(name="model", uri=str(tmp_path / "nowhere"))
    assert _run(tmp_path, store, "without", nobody).surrogates == []
    other = _save(tmp_path / "other", 1.1)
    found = _run(tmp_path, store, "with", other)
    assert found.surrogates == [detector_digest(load_detector(other.path))]
    assert found.find("moved", "made") is not None


def test_each_detector_is_the_other_s_surrogate() -> None:
    tasks = json_format.MessageToDict(pipelines.train_and_release.pipeline_spec)["root"]["dag"]["tasks"]
    found = {}
    for task in tasks.values():
        inputs = task.get("inputs", {}).get("artifacts", {})
        if "surrogate" in inputs:
            found[task["taskInfo"]["name"]] = [
                tasks[inputs[name]["taskOutputArtifact"]["producerTask"]]["taskInfo"]["name"]
                for name in ("model", "surrogate")
            ]
    assert found == {
        "evaluate baseline": ["train baseline", "train robust"],
        "evaluate robust": ["train robust", "train baseline"],
    }
