"""The evaluation end to end: figures, files, reproducibility."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dfcore.data import Crops
from dfcore.errors import CheckFailed, DataError
from dfcore.evaluation import SUITES, Corpus, Evidence, evaluate
from dfcore.evaluation.arms import Arms
from dfcore.evaluation.cache import Cache
from dfcore.evaluation.evidence import schema_text
from dfcore.evaluation.metrics import auc, scores_from_logits
from dfcore.evaluation.outcomes import settled
from dfcore.evaluation.runner import Runner
from dfcore.models import Detector, fold_batch_norm
from dfcore.provenance import sha256_file


def make_runner(detector: Detector) -> Runner:
    twin, cache = fold_batch_norm(detector), Cache(None, {})
    arms = Arms(twin, None, (), 0, cache)
    return Runner(detector, twin, arms, seed=0, cache=cache, advance=lambda _count: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def evidence(trained: Detector, crops: Crops, folder: Path) -> Evidence:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        trained, {"corpus": crops}, name="tiny", out=folder, training_groups=["group-train-000"],
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1][0] <= seen[-1][1]
    return found


def test_an_honest_evaluation_is_valid(evidence: Evidence) -> None:
    assert evidence.valid, [(guard.name, guard.detail) for guard in evidence.tripped()]
    assert len({guard.name for guard in evidence.guards}) == 20


def test_every_scenario_and_slice_is_there(evidence: Evidence) -> None:
    assert {result.scenario for result in evidence.results} == {scenario.name for scenario in SUITES["quick"]}
    slices = [result.slice for result in evidence.results if result.scenario == "pgd20_2_255"]
    assert slices == [
        "all", "video", "video_median", "method=swap", "method=warp", "compression=c23", "compression=c40"
    ]  # fmt: skip
    clean = evidence.find("clean", "corpus")
    assert clean is not None
    assert clean.metrics["auc"].value > 0.95
    attacked = evidence.find("pgd20_8_255", "corpus")
    assert attacked is not None
    assert attacked.metrics["auc"].value < clean.metrics["auc"].value - 0.3
    assert attacked.metrics["auc"].low <= attacked.metrics["auc"].value <= attacked.metrics["auc"].high
    assert "auc_8_bit" in attacked.metrics
    assert attacked.model_dump(mode="json")["threat_model"]["epsilon"] == "8/255"


def test_files_agree_with_what_was_returned(evidence: Evidence, folder: Path) -> None:
    assert Evidence.read(folder) == Evidence.read(folder / "evidence.json")
    assert Evidence.read(folder).results == evidence.results
    assert evidence.samples_digest == sha256_file(folder / "samples.parquet")
    assert sorted(path.name for path in folder.iterdir()) == ["evidence.json", "samples.parquet"]
    table = pq.read_table(folder / "samples.parquet").to_pylist()
    rows = [row for row in table if row["scenario"] == "pgd20_4_255"]
    found = evidence.find("pgd20_4_255", "corpus")
    assert found is not None
    assert found.metrics["auc"].value == pytest.approx(
        auc(np.array([row["score"] for row in rows]), np.array([row["label"] for row in rows]))
    )
    assert max(row["size"] for row in rows) <= 4 / 255 + 1e-6


def test_schema_is_committed_and_holds(evidence: Evidence, folder: Path) -> None:
    committed = Path(__file__).parents[2] / "dfcore" / "evaluation" / "evidence.schema.json"
    assert committed.read_text() == schema_text()
    jsonschema.validate(json.loads((folder / "evidence.json").read_text()), json.loads(schema_text()))


def test_same_seed_same_bytes(evidence: Evidence, detector: Detector, crops: Crops, tmp_path: Path) -> None:
    again = evaluate(
        detector, {"corpus": crops}, name="tiny", out=tmp_path, training_groups=["group-train-000"]
    )
    for field in ("created", "seconds"):
        again = again.model_copy(update={field: getattr(evidence, field)})
    assert again.model_dump_json() == evidence.model_dump_json()


def test_carrying_over_changes_no_ranking(
    detector: Detector, crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures() -> tuple[dict[str, float], int]:
        run = make_runner(detector).run("corpus", Corpus(crops), SUITES["quick"])
        own = [o for o in run.outcomes.values() if o.scenario.kind == "pgd" and o.scenario.role == "report"]
        carried = sum(int(np.isnan(outcome.own).sum()) for outcome in own)
        return {o.scenario.name: auc(scores_from_logits(o.logits), crops.labels) for o in own}, carried

    ours, saved = figures()
    monkeypatch.setattr(
        "dfcore.evaluation.runner.settled", lambda _logits, _threshold, c: np.zeros(len(c), dtype=bool)
    )
    everything, none = figures()
    assert none == 0
    assert ours["pgd20_1_255"] == everything["pgd20_1_255"]
    # both are lower bounds that only grow stronger with epsilon; where one is 0, so is the other
    assert ours["pgd20_8_255"] == pytest.approx(everything["pgd20_8_255"], abs=0.02)
    assert saved >= 0


def test_settled_needs_the_whole_video(crops: Crops) -> None:
    turned = np.where(crops.labels == 1, -5.0, 5.0).astype(np.float32)
    assert settled(turned, 0.5, crops).all()
    turned[0] = -6.0  # one real is still right, and below every fake: nothing of the other class is settled
    found = settled(turned, 0.5, crops)
    assert not found[crops.video_ids == crops.video_ids[0]].any()
    assert not found[crops.labels == 1].any()
    assert found[(crops.labels == 0) & (crops.video_ids != crops.video_ids[0])].all()


def test_modes_and_gradients_are_left_alone(detector: Detector, crops: Crops, tmp_path: Path) -> None:
    detector.train()
    evaluate(detector, {"c": crops}, suite=SUITES["quick"][:5], name="tiny", out=tmp_path, training_groups=[])
    assert all(module.training for module in detector.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in detector.parameters())


def test_unusable_corpora_are_refused_before_any_work(
    detector: Detector, crops: Crops, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="at least one corpus"):
        evaluate(detector, {}, name="tiny", out=tmp_path / "new")
    with pytest.raises(DataError, match="reals and fakes in corpus 'c'"):
        evaluate(detector, {"c": crops.subset(crops.labels == 1)}, name="tiny", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_evidence_that_contradicts_its_guards_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="run the evaluation"):
        Evidence.read(tmp_path)
    file = tmp_path / "evidence.json"
    file.write_text("{}")
    with pytest.raises(CheckFailed, match="expected evidence in"):
        Evidence.read(file)
    tripped = evidence.guards[0].model_copy(update={"passed": False})
    forged = evidence.model_copy(update={"guards": [tripped, *evidence.guards[1:]]})
    file.write_text(forged.model_dump_json())
    with pytest.raises(CheckFailed, match="guards say otherwise"):
        Evidence.read(file)


def test_figures_come_from_the_detector_itself(detector: Detector, crops: Crops) -> None:
    runner = make_runner(detector)
    with torch.no_grad():
        expected = detector(crops.tensor()).numpy()
    np.testing.assert_allclose(runner.score(crops.images), expected, atol=1e-4)
