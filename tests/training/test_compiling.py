from __future__ import annotations

import copy
import functools
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dfcore.data import CropStore
from dfcore.models import Detector, DetectorConfig, FoldedDetector, build_detector, fold_batch_norm
from dfcore.training import Recipe, train
from dfcore.training.compiling import compile_twin, uncompiled, worth_compiling

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def made(device: str = "cpu") -> tuple[Detector, FoldedDetector, torch.Tensor]:
    detector = build_detector(DetectorConfig(backbone="resnet10_narrow", image_size=32), seed=0).to(device)
    images = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(device)
    return detector, fold_batch_norm(detector), images


def slope(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    pixels = images.clone().requires_grad_()
    return torch.autograd.grad(detector(pixels).sum(), pixels)[0]


# tracing and the backward graph are the same on a CPU; inductor's kernels are torch's own affair
@pytest.mark.parametrize(
    ("device", "backend"), [("cpu", "aot_eager"), pytest.param("cuda", "inductor", marks=gpu)]
)
def test_a_compiled_twin_gives_the_same_gradient_and_follows_the_weights(device: str, backend: str) -> None:
    detector, twin, images = made(device)
    plain = fold_batch_norm(detector)
    assert compile_twin(twin, images, backend=backend)
    torch.testing.assert_close(slope(twin, images), slope(plain, images), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for value in detector.parameters():
            value.mul_(1.1)
    for each in (twin, plain):
        each.refresh(detector)
    torch.testing.assert_close(slope(twin, images), slope(plain, images), rtol=1e-4, atol=1e-5)
    with uncompiled():
        assert torch.equal(slope(twin, images), slope(plain, images))


def test_a_compiler_that_is_missing_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, twin, images = made()
    plain = copy.deepcopy(twin)
    with caplog.at_level(logging.WARNING):
        assert not compile_twin(twin, images, backend="no_such_backend")
    assert "crafting is not compiled" in caplog.text
    assert torch.equal(slope(twin, images), slope(plain, images))


def test_a_run_compiles_its_twin_for_training_batches_alone(
    robust: Recipe, store: CropStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        batches.extend(len(value) for value in inputs if value.shape[1:] == (3, 32, 32))
        return graph

    module = sys.modules[train.__module__]
    monkeypatch.setattr(module, "worth_compiling", lambda *_: True)
    monkeypatch.setattr(module, "compile_twin", functools.partial(compile_twin, backend=backend))
    torch._dynamo.reset()
    recipe = robust.override(["optimiser.epochs=1", "defence.warmup_epochs=0", "optimiser.warmup_epochs=0"])
    train(recipe, store, tmp_path / "out", device="cpu")
    assert set(batches) == {12}, "the validation split was compiled too"


def test_it_pays_on_a_gpu_in_long_runs() -> None:
    assert worth_compiling(torch.device("cuda"), 100_000)
    assert not worth_compiling(torch.device("cuda"), 100)
    assert not worth_compiling(torch.device("cpu"), 100_000)
