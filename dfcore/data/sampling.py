"""Which crop comes when: an epoch's plan is a function of seed and epoch alone, so a run resumes anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from dfcore.config import Config, suggest
from dfcore.data.manifest import FAKE, REAL
from dfcore.errors import ConfigError, DataError

__all__ = ["EpochPlan", "Sampler", "SamplingConfig", "epoch_seed"]

# Crops that lie beside each other and are read together where crops are streamed.
_BLOCK = 64


class SamplingConfig(Config):
    """How crops become batches.

    Attributes:
        batch_size: crops in a batch, over all processes together; at most the crops there are.
        sampling: "balanced": half real, half fake in each batch, the rarer class repeated in fresh orders;
            "weighted": `method_weights` decide; "natural": each crop once an epoch, and the loss weighs
            classes by their frequency.
        method_weights: share of the crops drawn from each method (real ones too), relative to each other;
            every method of the split is named. Each batch has its shares to within one crop.
        last_batch: where an epoch's crops do not fill the last batch ("natural" only): "drop" leaves the rest
            for another epoch, "keep" makes it smaller, "pad" fills it with crops drawn a second time.
        self_blended: share of the real crops drawn (those with landmarks) that become self-blended fakes.
            Balanced batches stay balanced: self-blended crops take the places of fakes, and beside N / 2 real
            crops there are N / 2 * self_blended / (1 - self_blended) of them; at 0.5 no fakes are needed.
        shuffle_window: crops that are shuffled among each other where crops are streamed.
    """

    batch_size: int = Field(default=32, ge=2)
    sampling: Literal["balanced", "weighted", "natural"] = "balanced"
    method_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    last_batch: Literal["drop", "keep", "pad"] = "drop"
    self_blended: float = Field(default=0.0, ge=0, lt=1)
    shuffle_window: int = Field(default=8192, ge=_BLOCK)


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of everything random in one epoch.

    >>> epoch_seed(1, 2)
    100005
    """
    return seed * 100_003 + epoch


@dataclass(frozen=True)
class EpochPlan:
    """The crops of one epoch in order.

    Attributes:
        places: (n,) int64 on the CPU, rows of the split.
        blended: (n,) bool: this real crop becomes a self-blended fake.
        batch_size: of every batch but perhaps the last.
    """

    places: torch.Tensor
    blended: torch.Tensor
    batch_size: int

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (places, blended) of one process's share of a batch; the shares together are the batch."""
        inside = slice(step * self.batch_size + rank, (step + 1) * self.batch_size, world_size)
        return self.places[inside], self.blended[inside]


class Sampler:
    """Plans epochs over one split.

    Args:
        config: how.
        labels: (n,) int64.
        methods: (n,) strings.
        blendable: (n,) bool: real crops with usable landmarks.
        location: (n,) position on disk, where crops are streamed: orders are then shuffled block by block and
            within a window, so that what is read lies together. None shuffles all crops.

    Raises:
        ConfigError: the settings contradict each other or the split's methods.
        DataError: a class that the settings need has no crop.
    """

    def __init__(
        self,
        config: SamplingConfig,
        labels: NDArray[np.int64],
        methods: NDArray[np.str_],
        blendable: NDArray[np.bool_],
        location: NDArray[np.int64] | None = None,
    ) -> None:
        self.config = config
        self.batch_size = min(config.batch_size, max(len(labels), 1))
        self._labels = torch.from_numpy(np.ascontiguousarray(labels))
        self._methods = methods
        self._blendable = torch.from_numpy(np.ascontiguousarray(blendable)) & (self._labels == REAL)
        self._location = None if location is None else torch.from_numpy(np.ascontiguousarray(location))
        _check(config)
        real_places = self.batch_size // 2
        share = config.self_blended / (1 - config.self_blended)
        self._blended_places = min(round(real_places * share), self.batch_size - real_places)
        self._check_classes()
        self._weights = self._method_shares() if config.sampling == "weighted" else {}

    @property
    def windowed(self) -> bool:
        """Whether orders are shuffled within windows only."""
        return self._location is not None

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        batches = len(self._labels) / self.batch_size
        return math.floor(batches) if self.config.last_batch == "drop" else math.ceil(batches)

    def class_weights(self) -> torch.Tensor:
        """Return loss weights (2,) of real and fake with mean 1 over a batch's expected content.

        Only "natural" sampling needs them: n / (2 * count).
        """
        if self.config.sampling != "natural":
            return torch.ones(2)
        counts = torch.bincount(self._labels, minlength=2).float()
        turned = self._turned(int(self._blendable.sum()))
        return len(self._labels) / (2 * (counts + turned * torch.tensor([-1.0, 1.0])))

    def plan(self, seed: int) -> EpochPlan:
        """Return the epoch of this seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.config.sampling == "balanced":
            places, blended = self._balanced(generator)
        else:
            places = self._weighted(generator) if self._weights else self._natural(generator)
            blended = torch.zeros(len(places), dtype=torch.bool)
            if self.config.self_blended:
                able = torch.nonzero(self._blendable[places]).squeeze(1)
                blended[able[torch.randperm(len(able), generator=generator)[: self._turned(len(able))]]] = (
                    True
                )
        return EpochPlan(places, blended, self.batch_size)

    def _turned(self, able: int) -> int:
        return round(self.config.self_blended * able)

    def _balanced(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        real, blended = self.batch_size // 2, self._blended_places
        parts = (
            (self._labels == REAL, real),
            (self._labels == FAKE, self.batch_size - real - blended),
            (self._blendable, blended),
        )
        columns = [
            self._drawn(torch.nonzero(members).squeeze(1), self.steps * share, generator).view(-1, share)
            for members, share in parts
            if share
        ]
        mark = torch.arange(self.batch_size) >= self.batch_size - blended
        return torch.cat(columns, dim=1).flatten(), mark.repeat(self.steps)

    def _natural(self, generator: torch.Generator) -> torch.Tensor:
        total = len(self._labels) if self.config.last_batch == "keep" else self.steps * self.batch_size
        return self._drawn(torch.arange(len(self._labels)), total, generator)

    def _weighted(self, generator: torch.Generator) -> torch.Tensor:
        """Draw each method's share, spread evenly over the epoch."""
        total = self.steps * self.batch_size
        exact = {name: share * total for name, share in self._weights.items()}
        counts = {name: math.floor(value) for name, value in exact.items()}
        by_rest = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
        for name in by_rest[: total - sum(counts.values())]:
            counts[name] += 1
        drawn, keys = [], []
        for name in sorted(counts):
            members = torch.from_numpy(np.flatnonzero(self._methods == name))
            drawn.append(self._drawn(members, counts[name], generator))
            places = torch.arange(counts[name]) + torch.rand(counts[name], generator=generator)
            keys.append(places / max(counts[name], 1))
        return torch.cat(drawn)[torch.argsort(torch.cat(keys), stable=True)]

    def _drawn(self, members: torch.Tensor, total: int, generator: torch.Generator) -> torch.Tensor:
        """Return `total` members: all of them in a fresh order, again and again."""
        rounds = math.ceil(total / len(members)) if total else 0
        orders = [members[self._order(members, generator)] for _ in range(rounds)]
        return torch.cat([*orders, members[:0]])[:total]

    def _order(self, members: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self._location is None:
            return torch.randperm(len(members), generator=generator)
        lying = torch.argsort(self._location[members])
        blocks = torch.split(lying, _BLOCK)
        mixed = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
        windows = torch.split(torch.cat(mixed), self.config.shuffle_window)
        return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in windows])

    def _check_classes(self) -> None:
        counts = {"real": int((self._labels == REAL).sum()), "fake": int((self._labels == FAKE).sum())}
        blends, balanced = self.config.self_blended > 0, self.config.sampling == "balanced"
        fakes_needed = (
            self._blended_places < self.batch_size - self.batch_size // 2 if balanced else not blends
        )
        for name, needed in (("real", True), ("fake", fakes_needed)):
            if needed and not counts[name]:
                raise DataError(
                    f"expected real and fake crops, got no {name} one among {len(self._labels)}; "
                    "check the split, data.compressions and the corpus"
                )
        if blends and not self._blendable.any():
            raise DataError(
                "expected real crops with five landmarks for data.self_blended, got none; prepare the store "
                "with a face detector that gives them, or set data.self_blended=0"
            )

    def _method_shares(self) -> dict[str, float]:
        known, weights = set(self._methods.tolist()), self.config.method_weights
        for name in weights.keys() - known:
            raise ConfigError(f"data.method_weights: unknown method {name!r}{suggest(name, known)}")
        if missing := sorted(known - weights.keys()):
            raise ConfigError(
                f"expected a weight for each method in data.method_weights, got none for {missing}; "
                "add them (0 leaves a method out)"
            )
        whole = sum(weights.values())
        kept = np.isin(self._methods, [name for name, weight in weights.items() if weight > 0])
        if len(set(self._labels.numpy()[kept].tolist())) < 2 and not self.config.self_blended:
            raise ConfigError(
                f"expected weights above 0 for real and fake methods in data.method_weights, got {weights}"
            )
        return {name: weight / whole for name, weight in weights.items()}


def _check(config: SamplingConfig) -> None:
    if config.method_weights and config.sampling != "weighted":
        raise ConfigError(
            f"expected data.sampling=weighted with data.method_weights, got {config.sampling}; remove one"
        )
    if config.last_batch != "drop" and config.sampling != "natural":
        raise ConfigError(
            f"expected data.sampling=natural with data.last_batch={config.last_batch}, got "
            f"{config.sampling}, whose batches are always full; remove one"
        )
    if config.sampling == "balanced" and config.self_blended > 0.5:
        raise ConfigError(
            f"expected data.self_blended of at most 0.5 with balanced batches, got {config.self_blended}; "
            "at 0.5 every fake is a self-blended one"
        )
