"""Crops of several threads share a forward pass, in order, and nobody waits for ever."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dfcore.models import load_detector
from dfcore.models.export import ONNX_FILE, write_onnx
from dfcore.models.golden import GOLDEN_FILE, write_golden
from dfcore.monitoring import Judgement
from serving.admission import Overloaded
from serving.batching import MicroBatcher
from serving.engine import TorchDetector
from serving.scoring import Crops, LocalScorer, Scored
from serving.server import _open_predictor
from serving.settings import BatchSettings, ServerSettings
from tests.serving.conftest import write_training_output


class Meter:
    """A scorer whose score is the first pixel; it can be held up, and notes the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.closed = False

    def score(self, crops: Crops) -> Scored:
        """Return the first pixels."""
        self.go.wait(20)
        self.sizes.append(len(crops))
        values = crops[:, 0, 0, 0].astype(np.float64)
        if 255 in values:
            raise ZeroDivisionError("the network broke")
        return Scored(
            Judgement(
                values / 255,
                values[:, None].astype(np.float32),
                {"jpeg_75": values / 510},
                values / 510,
                {"jpeg_75": values > 100, "combined": values > 100},
            )
        )

    def close(self) -> None:
        """Note it."""
        self.closed = True


def crops(*values: int) -> Crops:
    return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])


def test_threads_share_a_batch_and_get_their_own_rows() -> None:
    meter = Meter()
    batcher = MicroBatcher(meter, BatchSettings(max_crops=8, delay_seconds=0), 20)
    meter.go.clear()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(batcher.score, crops(1))
        while not batcher_is_busy(batcher):
            pass
        others = [pool.submit(batcher.score, crops(10 * n, 10 * n + 1)) for n in range(1, 5)]
        while len(batcher._waiting) < 4:
            pass
        meter.go.set()
        assert first.result().judged.scores.tolist() == [1 / 255]
        for n, other in enumerate(others, 1):
            judged = other.result().judged
            assert (judged.scores * 255).round().tolist() == [10 * n, 10 * n + 1]
            assert (judged.parts["jpeg_75"] * 510).round().tolist() == [10 * n, 10 * n + 1]
            assert (judged.combined * 510).round().tolist() == [10 * n, 10 * n + 1]
            assert judged.features[:, 0].tolist() == [10 * n, 10 * n + 1]
            assert len(judged.flags["combined"]) == 2
    assert meter.sizes == [1, 8]
    batcher.close()


def batcher_is_busy(batcher: MicroBatcher) -> bool:
    """Say whether the first crops have left the queue."""
    return not batcher._waiting


def test_a_batch_is_no_larger_than_allowed_but_a_large_request_goes_through() -> None:
    meter = Meter()
    batcher = MicroBatcher(meter, BatchSettings(max_crops=3, delay_seconds=0.3), 20)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(batcher.score, [crops(1, 2), crops(3, 4), crops(5, 6, 7, 8, 9)]))
    assert sum(meter.sizes) == 9
    assert sorted(meter.sizes)[-1] == 5
    assert all(size <= 3 for size in meter.sizes if size != 5)
    batcher.close()


def test_a_failure_reaches_everybody_in_the_batch_and_nobody_else() -> None:
    batcher = MicroBatcher(Meter(), BatchSettings(delay_seconds=0), 20)
    with pytest.raises(ZeroDivisionError, match="network broke"):
        batcher.score(crops(255))
    assert batcher.score(crops(51)).judged.scores.tolist() == [0.2]
    batcher.close()


def test_crops_that_waited_too_long_are_not_scored() -> None:
    meter = Meter()
    batcher = MicroBatcher(meter, BatchSettings(max_crops=1, delay_seconds=0), 0.05)
    meter.go.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.score, crops(1))
        while not batcher_is_busy(batcher):
            pass
        late = pool.submit(batcher.score, crops(2))
        threading.Event().wait(0.2)
        meter.go.set()
        assert len(first.result().judged.scores) == 1
        with pytest.raises(Overloaded, match=r"deadline_seconds=0\.05"):
            late.result()
    batcher.close()


def test_after_closing_crops_are_still_scored() -> None:
    meter = Meter()
    batcher = MicroBatcher(meter, BatchSettings(), 20)
    batcher.close()
    assert meter.closed
    assert batcher.score(crops(51)).judged.scores.tolist() == [0.2]


def priorities() -> set[int]:
    """Those of this process's threads."""
    return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path("/proc/self/task").iterdir()}


def test_crops_wait_for_company_only_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine._onnx_wins", {})
    monkeypatch.setattr("serving.engine._measure", lambda one: float(isinstance(one, TorchDetector)))
    write_training_output(tmp_path)
    detector = load_detector(tmp_path)
    write_golden(tmp_path / GOLDEN_FILE, detector)
    write_onnx(tmp_path / ONNX_FILE, detector, tmp_path / GOLDEN_FILE)
    first = ServerSettings.parse({"engine": {"device": "cpu"}})
    _open_predictor(tmp_path, {"allow_unsigned": True}, first, beside=False).close()
    before = priorities()
    for precision, kind in (("fp32", LocalScorer), ("bf16", MicroBatcher)):
        settings = ServerSettings.parse({"engine": {"device": "cpu", "precision": precision}})
        predictor = _open_predictor(tmp_path, {"allow_unsigned": True}, settings, beside=True)
        # OpenMP's threads for the loader's own thread end with it, a moment later
        until = time.monotonic() + 10
        while priorities() != before:
            assert time.monotonic() < until, "what requests wait for has the loader's priority"
            time.sleep(0.05)
        assert isinstance(predictor.scorer, kind)
        predictor.close()
