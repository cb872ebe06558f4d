from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfcore.attacks import FGSM, NORMS, PGD, PGDL2, Norm
from dfcore.errors import ConfigError

ORDER = {"linf": math.inf, "l2": 2}


@pytest.mark.parametrize("name", NORMS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), epsilon=st.floats(1e-4, 1), scale=st.floats(1e-6, 1e3))
def test_three_functions(name: str, seed: int, epsilon: float, scale: float) -> None:
    norm: Norm = NORMS[name]  # type: ignore[index]  # a parameter is a plain string
    generator = torch.Generator().manual_seed(seed)
    delta = scale * torch.randn((3, 3, 5, 5), generator=generator)
    sizes = torch.stack([torch.linalg.vector_norm(d.double().flatten(), ORDER[name]) for d in delta])
    torch.testing.assert_close(norm.size(delta).double(), sizes, rtol=1e-5, atol=0)

    inside = norm.project(delta, epsilon)
    assert float(norm.size(inside).max()) <= epsilon * (1 + 1e-5)
    small = delta * (0.5 * epsilon / sizes.max())
    torch.testing.assert_close(norm.project(small, epsilon), small)
    # no point of the ball is nearer in the Euclidean sense, which is what projecting means
    others = norm.random_start(torch.zeros((50, 3, 5, 5)), epsilon, generator)
    for point, projected in zip(delta, inside, strict=True):
        assert (others - point).flatten(1).norm(dim=1).min() >= (projected - point).norm() * (1 - 1e-5)

    direction = norm.normalise(delta)
    torch.testing.assert_close(norm.size(direction), torch.ones(3))
    # steepest: no other direction of size one gains more
    rivals = others / norm.size(others).view(-1, 1, 1, 1)
    best = (direction[0] * delta[0]).sum()
    assert float((rivals * delta[0]).flatten(1).sum(1).max()) <= float(best) * (1 + 1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_starts_fill_the_ball(name: str) -> None:
    norm: Norm = NORMS[name]  # type: ignore[index]  # a parameter is a plain string
    points = norm.random_start(torch.zeros((20_000, 1, 1, 2)), 0.5, torch.Generator().manual_seed(0))
    sizes = norm.size(points)
    assert float(sizes.max()) <= 0.5 * (1 + 1e-5)
    assert points.mean(0).abs().max() < 0.01
    assert 0.45 < float((sizes > 0.5 * math.sqrt(0.5)).float().mean()) < 0.55  # half of the area


def test_a_flat_gradient_gives_no_direction() -> None:
    for norm in NORMS.values():
        assert torch.equal(norm.normalise(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    tiny = torch.full((1, 3, 4, 4), 1e-25)
    torch.testing.assert_close(NORMS["l2"].size(NORMS["l2"].normalise(tiny)), torch.ones(1))


def test_budgets_are_read_in_the_norms_units() -> None:
    assert PGDL2.parse({"kind": "pgd-l2", "epsilon": "510/255"}).epsilon == 2
    assert FGSM.parse({"norm": "l2", "epsilon": 3}).epsilon == 3
    assert FGSM(norm="l2", epsilon=2).describe()["epsilon"] == "510/255"
    with pytest.raises(ConfigError, match="write 8/255 if you mean 8 grey levels"):
        PGD.parse({"epsilon": 8})
    with pytest.raises(ConfigError, match="write 2/255"):
        PGD.parse({"step_size": 2})
    for wrong in ("much", "1/0", -1, "inf"):
        with pytest.raises(ConfigError, match="distance"):
            PGDL2.parse({"epsilon": wrong})
    with pytest.raises(ConfigError, match="norm"):
        FGSM.parse({"norm": "l3"})
