from __future__ import annotations

import pytest
import torch

from dfcore.errors import ConfigError, WorkFailed
from dfcore.training import Recipe
from dfcore.training.memory import free_memory, memory_errors, peak_memory, reset_peak, used_memory

CPU = torch.device("cpu")


def test_out_of_memory_says_which_setting_to_lower(plain: Recipe) -> None:
    # more than any address space holds: refused without being tried
    message = r"raise optimiser.accumulate .now 1.*lower data.batch_size .now 12"
    with pytest.raises(WorkFailed, match=message), memory_errors(plain, CPU):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="out of memory"), memory_errors(plain, CPU, before=True):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(WorkFailed, match="out of memory"), memory_errors(plain, CPU):
        raise MemoryError


def test_other_errors_pass(plain: Recipe) -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors(plain, CPU):
        raise RuntimeError("shape mismatch")


def test_a_peak_is_seen() -> None:
    size = 200 * 2**20
    reset_peak(CPU)
    before = used_memory(CPU)
    torch.ones(size, dtype=torch.uint8)
    assert peak_memory(CPU) - before > 0.9 * size
    assert free_memory(CPU) > 0
