from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfcore.training.checkpoint import (
    load_checkpoint,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
)


def test_optimiser_goes_on_where_it_was(tmp_path: Path) -> None:
    def advance(weight: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
        weight.grad = torch.full_like(weight, 0.5) * weight.detach()
        optimiser.step()

    first = torch.ones(3, requires_grad=True)
    optimiser = torch.optim.AdamW([first], lr=0.1)
    advance(first, optimiser)
    save_checkpoint(tmp_path / "c", optimiser_tensors(optimiser), {"epoch": 1})
    tensors, document = load_checkpoint(tmp_path / "c")
    assert document == {"epoch": 1}
    second = first.detach().clone().requires_grad_()
    other = torch.optim.AdamW([second], lr=0.1)
    restore_optimiser(other, tensors)
    advance(first, optimiser)
    advance(second, other)
    assert torch.equal(first, second)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("fused", [True, False])
def test_moments_lie_as_the_weights_do(tmp_path: Path, fused: bool) -> None:
    """Fused kernels walk through all side by side: a GPU's refuse others, a CPU's mix them up."""

    def advance(weight: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
        weight.grad = weight.detach().square()
        optimiser.step()

    generator = torch.Generator().manual_seed(0)
    first = torch.randn((4, 3, 3, 3), generator=generator).to(memory_format=torch.channels_last)
    first.requires_grad_()
    optimiser = torch.optim.AdamW([first], lr=0.1, fused=fused)
    advance(first, optimiser)
    save_checkpoint(tmp_path / "c", optimiser_tensors(optimiser), {})
    second = first.detach().clone().requires_grad_()
    other = torch.optim.AdamW([second], lr=0.1, fused=fused)
    restore_optimiser(other, load_checkpoint(tmp_path / "c")[0])
    moments = other.state[second]
    assert {moments[name].stride() for name in ("exp_avg", "exp_avg_sq")} == {second.stride()}
    advance(first, optimiser)
    advance(second, other)
    assert torch.equal(first, second)
