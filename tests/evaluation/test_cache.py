"""A run that is killed goes on to the same evidence; an equal one does no work."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfcore.attacks import FGSM, H264, JPEG, PGD, UNetAttack, Universal
from dfcore.data import Crops
from dfcore.evaluation import Evidence, Scenario, evaluate, get_suite
from dfcore.evaluation.cache import Cache, Record
from dfcore.evaluation.runner import Runner
from dfcore.models import Detector
from tests.evaluation.conftest import MODULE, build_tiny, make_crops, train

_JPEG = JPEG(quality=(30, 90))
SUITE = (
    Scenario(name="clean", lipschitz=4 / 255),
    Scenario(name="sent", channel=JPEG(quality=(30, 90), real=True)),
    Scenario(name="first", attack=PGD(epsilon=1 / 255, steps=2)),
    Scenario(name="second", attack=PGD(epsilon=4 / 255, steps=2), builds_on=("first",)),
    Scenario(name="coded", attack=PGD(epsilon=4 / 255, steps=2), channel=H264(real=True)),
    Scenario(name="noisy", attack=PGD(epsilon=4 / 255, steps=2), channel=_JPEG),
    Scenario(name="learned", attack=UNetAttack(fit_steps=2, batch_size=8)),
    Scenario(name="one_for_all", attack=Universal(steps=2, batch_size=8)),
    Scenario(name="single", role="guard", attack=FGSM(epsilon=4 / 255)),
)


class Killed(Exception):
    """Stands for a signal."""


@pytest.fixture(autouse=True)
def _fast(few_resamples: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfcore.evaluation.runner._BATCH", 16)


def run(detector: Detector, out: Path, stop: int | None = None, **given: Any) -> Evidence:
    """Evaluate with a cache; break off when `stop` batches have been done."""
    batches = 0

    def progress(done: int, total: int) -> None:
        nonlocal batches
        batches += 1
        if batches == stop:
            raise Killed

    settings: dict[str, Any] = {
        "suite": SUITE, "name": "tiny", "training_groups": [], "cache": out / "cache",
        "training": make_crops(16, seed=5, prefix="train"), "progress": progress,
    }  # fmt: skip
    corpora = {"c": make_crops(48, seed=1)}
    return evaluate(detector, corpora, out=out, **{**settings, **given})


def _figures(evidence: Evidence) -> str:
    return evidence.model_copy(update={"created": "", "seconds": 0.0}).model_dump_json()


def test_a_run_broken_off_anywhere_gives_the_same_evidence(detector: Detector, tmp_path: Path) -> None:
    whole = run(detector, tmp_path / "whole")
    samples = (tmp_path / "whole" / "samples.parquet").read_bytes()
    out = tmp_path / "broken"
    for stop in (1, 9, 17, 26):
        with pytest.raises(Killed):
            run(detector, out, stop)
        assert not (out / "evidence.json").exists()
    assert _figures(run(detector, out)) == _figures(whole)
    assert (out / "samples.parquet").read_bytes() == samples
    assert [path.name for path in out.rglob(".*")] == []


def test_an_equal_run_does_no_work(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(detector, tmp_path)
    before = (tmp_path / "evidence.json").read_bytes()
    monkeypatch.setattr(Runner, "logits", lambda *_: pytest.fail("an equal run asked the detector"))
    assert run(detector, tmp_path) == first
    assert (tmp_path / "evidence.json").read_bytes() == before


def test_another_run_is_not_mistaken_for_it(detector: Detector, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"suite": SUITE[:2]}, {"name": "other"}, {"training_groups": ["a"]}
    ]  # fmt: skip
    found = [run(detector, tmp_path, **{"suite": SUITE[:3], **change}).identity for change in changes]
    assert len(set(found)) == len(found)


def test_attacks_are_not_made_twice(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(detector, tmp_path)
    (tmp_path / "evidence.json").unlink()
    monkeypatch.setattr(PGD, "perturb", lambda *_: pytest.fail("a kept attack was made again"))
    monkeypatch.setattr(UNetAttack, "fit", lambda *_: pytest.fail("a kept attack was fitted again"))
    run(detector, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        run(detector, tmp_path, seed=1)


def test_samples_of_another_evaluation_never_stand_beside_evidence(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(detector, tmp_path, suite=SUITE[:3])

    def die(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(MODULE, "staged", die)
    with pytest.raises(Killed):
        run(detector, tmp_path, suite=SUITE[:3], seed=1)
    assert not (tmp_path / "evidence.json").exists()


def test_fewer_scenarios_give_the_same_figures(detector: Detector, crops: Crops, tmp_path: Path) -> None:
    def figures(suite: Any, out: str) -> dict[str, Any]:
        found = evaluate(
            detector, {"c": crops}, suite=suite, name="tiny", out=tmp_path / out, training_groups=[]
        )
        return {
            result.scenario: result.metrics for result in found.results
            if result.slice == "all" and result.role == "report"
        }  # fmt: skip

    some = figures(get_suite("quick", ["pgd20_2_255", "h264"]), "some")
    every = figures("quick", "every")
    assert set(some) == {"clean", "h264", "pgd20_1_255", "pgd20_2_255"}
    assert all(every[name] == metrics for name, metrics in some.items())


def test_an_unreadable_batch_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Record(tmp_path)
    assert record.get(0) is None
    record.put(0, {"logits": np.arange(3, dtype=np.float32)[::-1]})
    kept = record.get(0)
    assert kept is not None
    assert kept["logits"].tolist() == [2, 1, 0]
    (tmp_path / "0000.safetensors").write_bytes(b"half a file")
    assert record.get(0) is None
    assert "computing" in caplog.text
    nothing = Cache(None, {}).record(x=1)
    nothing.put(0, {"logits": np.zeros(1)})
    assert nothing.get(0) is None


_DYING = """
import os, signal, sys
from pathlib import Path
import tests.evaluation.test_cache as here
import dfcore.evaluation.runner
dfcore.evaluation.runner._BATCH = 16
count = 0
def progress(done, total):
    global count
    count += 1
    if count == 14:
        os.kill(os.getpid(), signal.SIGKILL)
here.run(here.make_detector(), Path(sys.argv[1]), suite=here.SUITE[:5], progress=progress)
"""


def make_detector() -> Detector:
    """Train the same one in each process."""
    return train(build_tiny(), make_crops(16, seed=2, prefix="train"), steps=5)


def test_sigkill_leaves_no_evidence_but_what_can_be_gone_on_from(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DYING, str(tmp_path)]
    died = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "evidence.json").exists()
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    resumed = run(make_detector(), tmp_path, suite=SUITE[:5])
    assert _figures(resumed) == _figures(run(make_detector(), tmp_path / "whole", suite=SUITE[:5]))
