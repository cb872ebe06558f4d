"""The random states of a run: seeded for each epoch, saved and put back in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

__all__ = ["random_states", "restore_random_states", "seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what has no generator of its own (dropout), and give the caller's random state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_states(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the states of a generator and of its device's and the CPU's default generators, as bytes."""
    states = {"generator": generator.get_state(), "cpu": torch.get_rng_state()}
    if generator.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(generator.device)
    return states


def restore_random_states(generator: torch.Generator, states: Mapping[str, torch.Tensor]) -> None:
    """Put back what `random_states` returned."""
    generator.set_state(states["generator"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and generator.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], generator.device)
