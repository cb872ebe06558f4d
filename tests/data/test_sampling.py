from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dfcore.data.sampling import Sampler, SamplingConfig, epoch_seed
from dfcore.errors import ConfigError, DataError


def made(
    config: SamplingConfig, *, able: int | None = None, windowed: bool = False, **counts: int
) -> Sampler:
    """A sampler over so many crops of each method; "real…" ones are real, `able` of them blendable."""
    methods = np.repeat(list(counts), list(counts.values()))
    labels = np.array([not name.startswith("real") for name in methods], dtype=np.int64)
    blendable = (labels == 0) & (np.cumsum(labels == 0) <= (len(labels) if able is None else able))
    location = np.random.default_rng(0).permutation(len(labels)) if windowed else None
    return Sampler(config, labels, methods, blendable, location)


def batches(sampler: Sampler, seed: int = 0) -> list[torch.Tensor]:
    plan = sampler.plan(seed)
    return [plan.batch(step)[0] for step in range(sampler.steps)]


@pytest.mark.parametrize("windowed", [False, True])
def test_balanced_batches_hold_both_classes_equally(windowed: bool) -> None:
    config = SamplingConfig(batch_size=8, shuffle_window=64)
    found = batches(made(config, real=5, fake=35, windowed=windowed))
    assert len(found) == 5
    assert all((batch >= 5).sum() == 4 for batch in found)
    places = torch.cat(found)
    assert set(places[places < 5].tolist()) == set(range(5)), "a real crop was never used"
    fakes = places[places >= 5].tolist()
    assert len(set(fakes)) == len(fakes), "a fake came twice before all had come once"


def test_odd_batches_and_few_crops() -> None:
    odd = batches(made(SamplingConfig(batch_size=7), real=9, fake=9))
    assert [int((batch >= 9).sum()) for batch in odd] == [4, 4]
    few = made(SamplingConfig(batch_size=32), real=2, fake=4)
    assert (few.batch_size, few.steps) == (6, 1)


def test_a_plan_follows_from_its_seed() -> None:
    sampler = made(SamplingConfig(batch_size=8), real=40, fake=40)
    first, again, other = (sampler.plan(epoch_seed(0, epoch)).places for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("last", "steps", "drawn"), [("drop", 3, 30), ("keep", 4, 37), ("pad", 4, 40)])
@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("windowed", [False, True])
def test_processes_share_natural_epochs_exactly(
    last: str, steps: int, drawn: int, world_size: int, windowed: bool
) -> None:
    config = SamplingConfig.parse({"sampling": "natural", "batch_size": 10, "last_batch": last})
    sampler = made(config, real=20, fake=17, windowed=windowed)
    assert sampler.steps == steps
    plan = sampler.plan(3)
    shares = [[plan.batch(step, rank, world_size)[0] for step in range(steps)] for rank in range(world_size)]
    together = Counter(torch.cat([torch.cat(share) for share in shares]).tolist())
    assert together.total() == drawn
    assert max(together.values()) == (2 if last == "pad" else 1)
    if last != "drop":
        assert set(together) == set(range(37)), "a crop was lost"
    whole = [set(plan.batch(step)[0].tolist()) for step in range(steps)]
    for step in range(steps):
        parts = [share[step].tolist() for share in shares]
        assert set().union(*parts) == whole[step]
        assert max(map(len, parts)) - min(map(len, parts)) <= (last == "keep")


def test_method_weights_are_kept_in_every_batch() -> None:
    weights = {"real": 4.0, "swap": 3.0, "mouth": 1.0, "never": 0.0}
    config = SamplingConfig(batch_size=16, sampling="weighted", method_weights=weights)
    sampler = made(config, real=30, swap=200, mouth=50, never=40)
    names = np.repeat(["real", "swap", "mouth", "never"], [30, 200, 50, 40])
    found = batches(sampler)
    assert len(found) == 320 // 16
    for batch in found:
        count = Counter(names[batch.numpy()].tolist())
        assert abs(count["real"] - 8) <= 2, count
        assert abs(count["swap"] - 6) <= 2, count
    whole = Counter(names[torch.cat(found).numpy()].tolist())
    assert whole == {"real": 160, "swap": 120, "mouth": 40}
    assert max(Counter(torch.cat(found).tolist()).values()) == 6  # 160 draws from 30 real crops


def test_class_weights_undo_the_natural_shares() -> None:
    assert made(SamplingConfig(), real=1, fake=3).class_weights().tolist() == [1, 1]
    natural = SamplingConfig(sampling="natural")
    weights = made(natural, real=1, fake=3).class_weights()
    assert float(weights[torch.tensor([0, 1, 1, 1])].mean()) == pytest.approx(1)
    assert float(weights[0]) == pytest.approx(3 * float(weights[1]))
    # half of 8 real crops become fakes: 4 to 4
    half = natural.model_copy(update={"self_blended": 0.5})
    assert made(half, real=8).class_weights().tolist() == [1, 1]


@pytest.mark.parametrize(("share", "blended", "fakes"), [(0.2, 2, 6), (0.5, 8, 0)])
def test_self_blended_crops_take_the_places_of_fakes(share: float, blended: int, fakes: int) -> None:
    config = SamplingConfig(batch_size=16, self_blended=share)
    sampler = made(config, real=30, able=10, **({"fake": 34} if fakes else {}))
    plan = sampler.plan(0)
    for step in range(sampler.steps):
        places, turned = plan.batch(step)
        assert len(places) == 16
        assert int(turned.sum()) == blended
        assert int((places >= 30).sum()) == fakes
        assert set(places[turned].tolist()) <= set(range(10)), "a crop without landmarks was blended"


def test_self_blended_share_of_a_natural_epoch_is_exact() -> None:
    config = SamplingConfig(batch_size=10, sampling="natural", self_blended=0.3)
    plan = made(config, real=60, able=40, fake=20).plan(0)
    assert int(plan.blended.sum()) == 12
    assert set(plan.places[plan.blended].tolist()) <= set(range(40))
    assert sorted(plan.places.tolist()) == list(range(80))


def test_windows_keep_what_is_read_together() -> None:
    config = SamplingConfig(batch_size=64, sampling="natural", shuffle_window=256)
    sampler = made(config, real=1024, fake=1024, windowed=True)
    lying = np.random.default_rng(0).permutation(2048)
    order = sampler.plan(0).places.numpy()
    assert sorted(order.tolist()) == list(range(2048))
    window = lying[order[:256]]
    assert len(np.unique(window // 64)) == 4, "a window reads from more blocks than it holds"
    assert np.abs(np.diff(window)).mean() > 64, "crops of a window are not shuffled"
    assert not np.array_equal(order, sampler.plan(1).places.numpy())


def test_settings_that_contradict_each_other_are_refused() -> None:
    def refused(
        match: str, error: type[Exception] = ConfigError, able: int | None = None, **settings: object
    ) -> None:
        with pytest.raises(error, match=match):
            made(SamplingConfig.parse(settings), able=able, real=4, swap=4)

    refused("remove one", method_weights={"real": 1, "swap": 1})
    refused("did you mean 'swap'", sampling="weighted", method_weights={"real": 1, "swop": 1})
    refused(r"none for \['swap'\]", sampling="weighted", method_weights={"real": 1})
    refused("real and fake methods", sampling="weighted", method_weights={"real": 1, "swap": 0})
    refused("natural", last_batch="pad")
    refused("at most 0.5", self_blended=0.6)
    refused("five landmarks", DataError, able=0, self_blended=0.2)
    for missing in ("real", "fake"):
        with pytest.raises(DataError, match=f"no {missing} one"):
            made(SamplingConfig(), **{"fake" if missing == "real" else "real": 4})
    with pytest.raises(DataError, match="no fake one"):
        made(SamplingConfig(self_blended=0.2, batch_size=16), real=20)
