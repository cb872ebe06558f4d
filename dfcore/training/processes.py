"""One process or many: how they start, what they average, what they gather.

`torchrun --nproc_per_node 4 -m rampart train …`. The detector is not wrapped: defences run it several times
a step, cut it in two and differentiate twice. Instead one sum over processes follows each backward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import distributed

from dfcore.errors import ConfigError
from dfcore.training.recipe import Recipe

__all__ = ["Device", "average", "gather", "join", "joined", "largest", "started_by_torchrun", "total"]

Device = Literal["auto", "cpu", "cuda"]


@contextmanager
def joined(device: Device, recipe: Recipe) -> Iterator[Fabric]:
    """Join the other processes for the length of a run; arguments and errors are those of `join`.

    A process that fails does not wait for the others: it ends, and torchrun ends them.
    """
    before = distributed.is_available() and distributed.is_initialized()
    fabric = join(device, recipe)
    yield fabric
    if fabric.world_size > 1:
        fabric.barrier()
        if not before:
            distributed.destroy_process_group()


def join(device: Device, recipe: Recipe, *, alone: bool = False) -> Fabric:
    """Join the processes that torchrun started; without torchrun be the only one.

    Args:
        device: "auto" takes a GPU where there is one, and each process its own.
        recipe: says the precision.
        alone: use the process's own device and meet nobody.

    Raises:
        ConfigError: a GPU is asked for where there is none, or there are fewer than processes, or batches
            can't be shared evenly.
    """
    if device == "cuda" and not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__}"
        reason = "was built without CUDA" if torch.version.cuda is None else "finds no GPU or no driver"
        raise ConfigError(
            f"expected a GPU for --device cuda, got none ({built} {reason}; see nvidia-smi); "
            "use --device cpu, or auto to take what there is"
        )
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    precision: dict[str, Any] = {"precision": recipe.precision}
    if recipe.precision == "16-mixed":
        # said so, as Fabric's own choice is bf16 on a CPU; the run has a scaler of its own
        precision = {"plugins": [MixedPrecision("16-mixed", accelerator)]}
    here, nodes, rank = started_by_torchrun()
    if accelerator == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            f"expected a GPU for each of {here} processes on this machine, got {torch.cuda.device_count()}; "
            "lower torchrun's --nproc_per_node, or use --device cpu"
        )
    if recipe.data.batch_size % (here * nodes * recipe.optimiser.accumulate):
        raise ConfigError(
            f"expected data.batch_size to be a multiple of {here * nodes} processes times optimiser."
            f"accumulate={recipe.optimiser.accumulate}, got {recipe.data.batch_size}; choose another"
        )
    if here * nodes == 1 or alone:
        own: list[int] | int = [rank] if accelerator == "cuda" else 1
        return Fabric(accelerator=accelerator, devices=own, **precision)
    fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=nodes, strategy="ddp", **precision)
    fabric.launch()
    return fabric


def started_by_torchrun() -> tuple[int, int, int]:
    """Return processes on this machine, machines, and this process's number on its machine."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return 1, 1, 0
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here, int(os.environ["LOCAL_RANK"])


@torch.no_grad()
def average(tensors: Sequence[torch.Tensor], count: int, fabric: Fabric) -> None:
    """Replace tensors by their mean over processes, each weighted by its count of crops, in one exchange.

    Args:
        tensors: floating point, alike on every process; changed in place.
        count: crops that this process's values are a mean of.
        fabric: nothing happens in a single process.
    """
    if fabric.world_size == 1:
        return
    weight = torch.full((1,), float(count), device=fabric.device)
    flat = torch.cat([*(value.detach().float().flatten() * weight for value in tensors), weight])
    distributed.all_reduce(flat)
    flat = flat[:-1] / flat[-1]
    sizes = [value.numel() for value in tensors]
    for value, mean in zip(tensors, torch.split(flat, sizes), strict=True):
        value.copy_(mean.view_as(value))


def total(count: int, fabric: Fabric) -> int:
    """Return the sum of a count over processes; waits for the device."""
    return _reduced(count, fabric, distributed.ReduceOp.SUM)


def largest(count: int, fabric: Fabric) -> int:
    """Return the largest of a count over processes; waits for the device."""
    return _reduced(count, fabric, distributed.ReduceOp.MAX)


def _reduced(count: int, fabric: Fabric, how: distributed.ReduceOp.RedOpType) -> int:
    if fabric.world_size == 1:
        return count
    value = torch.tensor(count, dtype=torch.int64, device=fabric.device)
    distributed.all_reduce(value, how)
    return int(value)


def gather(values: dict[str, torch.Tensor], fabric: Fabric) -> list[dict[str, torch.Tensor]]:
    """Return every process's tensors by rank, on the CPU; names and shapes are the same everywhere."""
    if fabric.world_size == 1:
        return [values]
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(fabric.world_size)]
    for name, value in values.items():
        mine = value.to(fabric.device)
        parts = [torch.empty_like(mine) for _ in found]
        distributed.all_gather(parts, mine)
        for place, part in zip(found, parts, strict=True):
            place[name] = part.cpu()
    return found
