from __future__ import annotations

import torch

from dfcore.training.randomness import random_states, restore_random_states, seeded


def test_random_states_go_on_where_they_were() -> None:
    generator, before = torch.Generator().manual_seed(3), torch.get_rng_state()
    with seeded(5, torch.device("cpu")):
        torch.rand(7), torch.rand(3, generator=generator)
        states = random_states(generator)
        expected = torch.rand(4), torch.rand(4, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(9, torch.device("cpu")):
        other = torch.Generator()
        restore_random_states(other, states)
        found = torch.rand(4), torch.rand(4, generator=other)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
