"""How much memory work takes, and what to say where there is too little."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dfcore.allocator import return_freed_memory
from dfcore.data.shards import available_memory
from dfcore.errors import ConfigError, WorkFailed
from dfcore.training.recipe import Recipe

__all__ = [
    "advice",
    "free_memory",
    "in_gigabytes",
    "memory_errors",
    "peak_memory",
    "reset_peak",
    "used_memory",
]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def advice(recipe: Recipe) -> str:
    """Say which settings to change where memory is short, the mildest first."""
    data, optimiser = recipe.data, recipe.optimiser
    found = [
        f"raise optimiser.accumulate (now {optimiser.accumulate}; the step stays that of the whole batch)",
        f"lower data.batch_size (now {data.batch_size})",
        f"lower model.image_size (now {recipe.model.image_size}, with a store prepared for it)",
    ]
    if recipe.precision == "32-true":
        found.append("use precision=bf16-mixed on a GPU")
    return ", or ".join(found)


@contextmanager
def memory_errors(recipe: Recipe, device: torch.device, *, before: bool = False) -> Iterator[None]:
    """Turn running out of memory into an error that says what to change.

    Args:
        recipe: whose settings are named.
        device: where the work is done.
        before: the work has not begun yet, so that the settings are at fault.

    Raises:
        WorkFailed: memory ran out.
        ConfigError: it ran out before the work began.
    """
    kind = ConfigError if before else WorkFailed
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise kind(_too_little(recipe, device)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says on a CPU
            raise
        raise kind(_too_little(recipe, device)) from error


def _too_little(recipe: Recipe, device: torch.device) -> str:
    return (
        f"expected training to fit into the memory of {device}, got out of memory with "
        f"{in_gigabytes(free_memory(device))} free; {advice(recipe)}"
    )


def free_memory(device: torch.device) -> int:
    """Return the bytes that may still be taken."""
    if device.type == "cuda":
        # what the caching allocator holds and does not use is ours to take
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return available_memory()


def reset_peak(device: torch.device) -> None:
    """Start measuring anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_freed_memory()  # what is freed and kept would hide what is taken next
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return  # no Linux: the peak is then that of the whole process so far, which is no less


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use since `reset_peak`: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def used_memory(device: torch.device) -> int:
    """Return the bytes in use now: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_gigabytes(count: int) -> str:
    """Write bytes for people.

    >>> in_gigabytes(3 * 2**30)
    '3.0 GiB'
    """
    return f"{count / 2**30:.1f} GiB"


def _status(name: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = (line.split() for line in lines if line.startswith(f"{name}:"))
    return next((int(parts[1]) * 1024 for parts in found), 0)
