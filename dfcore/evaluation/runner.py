"""Run scenarios on one corpus, batch by batch; what is done is kept and not done again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.attacks import NORMS, Attack, Channel
from dfcore.data import Crops
from dfcore.evaluation.arms import Arms, craft, derive_seed
from dfcore.evaluation.cache import Cache
from dfcore.evaluation.corpus import Corpus, video_keys, whole_videos
from dfcore.evaluation.lipschitz import LIPSCHITZ_PASSES, local_lipschitz
from dfcore.evaluation.outcomes import (
    CorpusRun,
    Logits,
    Outcome,
    choose_probe,
    settled,
    standing,
    unattacked,
    worst_of,
)
from dfcore.evaluation.scenarios import Scenario, is_codec
from dfcore.explain import band_energies
from dfcore.models import Detector, crafting_mode

__all__ = ["Runner", "passes"]

_BATCH = 64
_BANDS = 8  # of the spectrum of what an attack changed: few enough to be read as a table
Rows = NDArray[np.int64]


class Runner:
    """Scores and attacks the corpora of one evaluation.

    Crafting uses a copy with batch norm folded; every figure comes from the detector itself.

    Args:
        detector: in any mode.
        twin: its folded copy.
        arms: make the scenarios' attacks ready.
        seed: of noise and random starts.
        cache: keeps batches.
        advance: called with the number of forward passes over a crop that have been done.
    """

    def __init__(
        self,
        detector: Detector,
        twin: Detector,
        arms: Arms,
        *,
        seed: int,
        cache: Cache,
        advance: Callable[[int], None],
    ) -> None:
        self.detector = detector
        self.twin = twin
        self.arms = arms
        self.seed = seed
        self.cache = cache
        self.advance = advance
        self.device = detector.mean.device

    def run(self, name: str, corpus: Corpus, scenarios: Sequence[Scenario]) -> CorpusRun:
        """Run every scenario on a corpus; a detector without finite clean logits is not attacked."""
        crops, digest = corpus.crops, corpus.digest()
        work = _CorpusWork(self, name, digest, crops, choose_probe(crops.labels))
        clean = self.score(crops.images)
        again = self.score(crops.images)
        outcomes = {scenarios[0].name: unattacked(scenarios[0], clean)}
        short: dict[str, Logits] = {}
        more: dict[str, Logits] = {}
        finite = bool(np.isfinite(clean).all())
        if finite:
            for scenario in scenarios[1:]:
                outcomes[scenario.name] = work.outcome(scenario, outcomes)
            for scenario in scenarios:
                if scenario.kind == "pgd" and scenario.role == "report" and scenario.channel is None:
                    short[scenario.name], more[scenario.name] = work.varied(scenario)
                    break
        epsilon = scenarios[0].lipschitz
        return CorpusRun(
            name=name,
            corpus=corpus,
            threshold=self.detector.threshold,
            outcomes=outcomes,
            probe=work.probe,
            short=short,
            restarted=more,
            repeat_difference=float(np.abs(clean - again).max()) if finite else math.nan,
            twin_difference=self._twin_difference(crops, clean, work.probe) if finite else math.nan,
            range_excess=self._range_excess(crops, work.probe) if finite else math.nan,
            zero_gradients=self._zero_gradients(crops) if finite else 1.0,
            lipschitz=work.lipschitz(epsilon) if finite and epsilon is not None else None,
        )

    def score(self, images: NDArray[np.uint8]) -> Logits:
        """Return the detector's own logits (n,) for uint8 crops (n, H, W, 3)."""
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = to_tensor(images[start : start + _BATCH], self.device)
            parts.append(self.logits(batch))
            self.advance(len(batch))
        return np.concatenate(parts)

    def logits(self, images: torch.Tensor) -> Logits:
        """Return the detector's own logits (n,) for images (n, 3, H, W) in [0, 1]."""
        with torch.no_grad(), crafting_mode(self.detector):
            return np.asarray(self.detector(images).float().cpu().numpy(), dtype=np.float32)

    def _twin_difference(self, crops: Crops, clean: Logits, probe: Rows) -> float:
        with torch.no_grad(), crafting_mode(self.twin):
            twin = self.twin(to_tensor(crops.images[probe], self.device)).float().cpu().numpy()
        return float((np.abs(twin - clean[probe]) / np.maximum(1, np.abs(clean[probe]))).max())

    def _range_excess(self, crops: Crops, probe: Rows) -> float:
        low, high = (((bound - self.detector.mean) / self.detector.std) for bound in (0.0, 1.0))
        seen: list[float] = []

        def look(_module: Any, inputs: Any) -> None:
            seen.append(float(torch.maximum(low - inputs[0], inputs[0] - high).max()))

        handle = self.detector.backbone.register_forward_pre_hook(look)
        try:
            self.logits(to_tensor(crops.images[probe], self.device))
        finally:
            handle.remove()
        return max(seen, default=math.nan)

    def _zero_gradients(self, crops: Crops) -> float:
        zero = 0
        for start in range(0, len(crops), _BATCH):
            images = to_tensor(crops.images[start : start + _BATCH], self.device).requires_grad_()
            with crafting_mode(self.detector):
                logits = self.detector(images)
            if not logits.requires_grad:
                zero += len(images)  # the detector does not depend on its input differentiably
                continue
            (gradient,) = torch.autograd.grad(logits.sum(), images)
            largest = gradient.abs().flatten(1).amax(dim=1)
            zero += int((~(largest > 0)).sum())  # NaN counts as none
            self.advance(len(images))
        return zero / len(crops)


class _CorpusWork:
    """The scenarios of one corpus."""

    def __init__(self, runner: Runner, name: str, digest: str, crops: Crops, probe: Rows) -> None:
        self._runner = runner
        self._name = name
        self._digest = digest
        self._crops = crops
        self._videos = video_keys(crops)
        self.probe = probe

    def outcome(self, scenario: Scenario, before: dict[str, Outcome]) -> Outcome:
        """Run one scenario; what those that it builds on reached is not sought again."""
        crops, everything = self._crops, np.arange(len(self._crops))
        if scenario.attack is None:
            return self._transmitted(scenario)
        if not scenario.builds_on:
            return self.attack(scenario, self.probe if scenario.role == "guard" else everything)
        weaker = [before[name] for name in scenario.builds_on]
        carried = worst_of(scenario, weaker, None, crops.labels)
        threshold = self._runner.detector.threshold
        if scenario.again == "standing":
            todo = np.flatnonzero(standing(carried.logits, threshold, crops))
        else:
            todo = np.union1d(np.flatnonzero(~settled(carried.logits, threshold, crops)), self.probe)
        if scenario.role == "guard":
            todo = np.intersect1d(todo, self.probe)
        fresh = self.attack(scenario, todo) if len(todo) else None
        found = worst_of(scenario, weaker, fresh, crops.labels)
        return found.on(self.probe) if scenario.role == "guard" else found

    def varied(self, scenario: Scenario) -> tuple[Logits, Logits]:
        """Attack the probe with a quarter of the steps, and with twice the restarts."""
        attack: Any = scenario.attack
        variants = (
            {"steps": max(1, attack.steps // 4)},
            {"restarts": 2 * attack.restarts, "until_fooled": True},
        )
        short, more = (
            self.attack(scenario.model_copy(update={"attack": attack.model_copy(update=change)}), self.probe)
            for change in variants
        )
        return short.logits, more.logits

    def _transmitted(self, scenario: Scenario) -> Outcome:
        record = self._record(scenario, np.arange(len(self._crops)))
        kept = record.get(0)
        if kept is None:
            generator = self._generator(scenario, "cpu")
            sent = self._send_all(scenario, generator)
            kept = {"logits": self._runner.score(sent)}
            record.put(0, kept)
        return unattacked(scenario, kept["logits"])

    def _send_all(self, scenario: Scenario, generator: torch.Generator) -> NDArray[np.uint8]:
        sent = np.empty_like(self._crops.images)
        for rows in self._batches(scenario, np.arange(len(self._crops))):
            images = to_tensor(self._crops.images[rows], self._runner.device)
            sent[rows] = _to_bytes(self._through(scenario, images, rows, generator))
        return sent

    def _through(
        self, scenario: Scenario, images: torch.Tensor, rows: Rows, generator: torch.Generator
    ) -> torch.Tensor:
        """Send images through the scenario's channel and round to 8 bits, as they arrive."""
        channel: Channel | None = scenario.channel
        assert channel is not None
        with torch.no_grad():
            if not is_codec(channel):
                return (channel(images, generator) * 255).round() / 255
            received = torch.empty_like(images)
            for video in np.unique(self._videos[rows]):  # a codec gets each video's crops as one sequence
                members = torch.from_numpy(np.flatnonzero(self._videos[rows] == video)).to(images.device)
                received[members] = channel(images[members], generator)
            return (received * 255).round() / 255

    def _batches(self, scenario: Scenario, indices: Rows) -> list[Rows]:
        if scenario.needs_videos:
            return whole_videos(self._crops, indices, _BATCH)
        return [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]

    def _generator(self, scenario: Scenario, device: torch.device | str) -> torch.Generator:
        seed = derive_seed(self._runner.seed, self._name, scenario.name)
        return torch.Generator(device=device).manual_seed(seed)

    def _record(self, scenario: Scenario, indices: Rows) -> Any:
        settings = scenario.model_dump(mode="json", include={"name", "attack", "channel"})
        return self._runner.cache.record(
            corpus=self._digest,
            name=self._name,
            scenario=settings,
            rows=indices.tolist(),
            armed=self._runner.arms.depends_on(scenario),
        )

    def attack(self, scenario: Scenario, indices: Rows) -> Outcome:
        """Attack the given crops of both classes and score what comes out."""
        record = self._record(scenario, indices)
        generator = self._generator(scenario, self._runner.device)
        channel_draws = self._generator(scenario, "cpu")
        batches = self._batches(scenario, indices)
        attack: Attack | None = None
        parts = []
        for number, rows in enumerate(batches):
            part = record.get(number)
            if part is None:
                attack = attack or self._runner.arms.ready(scenario)
                part = self._attack_batch(scenario, attack, rows, generator, channel_draws)
                part["state"] = generator.get_state().numpy()
                part["channel_state"] = channel_draws.get_state().numpy()
                record.put(number, part)
            else:  # the next batch draws on from here
                generator.set_state(torch.from_numpy(part["state"]))
                channel_draws.set_state(torch.from_numpy(part["channel_state"]))
            self._runner.advance(len(rows) * passes(scenario))
            parts.append(part)
        order = np.argsort(np.concatenate(batches), kind="stable")
        found = {
            name: np.concatenate([part[name] for part in parts])[order]
            for name in ("logits", "rounded", "size", "energies")
        }
        overshoot = float(np.max([part["overshoot"] for part in parts], initial=0.0))  # NaN wins
        return Outcome(
            scenario, np.sort(indices), found["logits"], found["rounded"], found["logits"], found["size"],
            overshoot, found["energies"],
        )  # fmt: skip

    def _attack_batch(
        self,
        scenario: Scenario,
        attack: Attack,
        rows: Rows,
        generator: torch.Generator,
        channel_draws: torch.Generator,
    ) -> dict[str, NDArray[Any]]:
        runner = self._runner
        images = to_tensor(self._crops.images[rows], runner.device)
        labels = torch.from_numpy(self._crops.labels[rows]).to(runner.device)
        changed = craft(attack, runner.twin, images, labels, self._videos[rows].tolist(), generator)
        size = (changed - images).abs().flatten(1).amax(dim=1)
        left = _overshoot(attack, changed, images)
        arrived = changed
        if scenario.channel is not None:
            arrived = self._through(scenario, changed.clamp(0, 1), rows, channel_draws)
        logits = runner.logits(arrived)
        rounded = (
            logits if scenario.channel is not None else runner.logits((changed * 255).round() / 255)
        )  # what went through a channel was rounded before it
        return {
            "logits": logits,
            "rounded": rounded,
            "size": size.cpu().numpy(),
            "energies": band_energies(changed - images, _BANDS).cpu().numpy(),
            "overshoot": np.array([left], dtype=np.float64),
        }

    def lipschitz(self, epsilon: float) -> NDArray[np.float32]:
        """Estimate the local Lipschitz constant at every crop."""
        record = self._runner.cache.record(corpus=self._digest, name=self._name, lipschitz=epsilon)
        kept = record.get(0)
        if kept is None:
            seed = derive_seed(self._runner.seed, self._name, "lipschitz")
            generator = torch.Generator(device=self._runner.device).manual_seed(seed)
            parts = []
            for start in range(0, len(self._crops), _BATCH):
                images = to_tensor(self._crops.images[start : start + _BATCH], self._runner.device)
                found = local_lipschitz(self._runner.twin, images, epsilon=epsilon, generator=generator)
                parts.append(found.cpu().numpy())
                self._runner.advance(len(images) * LIPSCHITZ_PASSES)
            kept = {"ratio": np.concatenate(parts)}
            record.put(0, kept)
        return kept["ratio"]


def passes(scenario: Scenario) -> int:
    """Estimate the forward passes over one crop that a scenario takes, backward passes not counted."""
    attack: Any = scenario.attack
    if attack is None:
        return 1
    draws = getattr(attack, "samples", 1)
    inner = getattr(attack, "attack", attack)
    searches = (getattr(inner, "steps", None) or 1) * (getattr(inner, "restarts", None) or 1)
    if scenario.needs_training:
        searches = 1  # its steps were those of the fitting
    return 1 + draws * searches + (getattr(inner, "queries", None) or 0)


def _overshoot(attack: Attack, changed: torch.Tensor, images: torch.Tensor) -> float:
    """By how much an image left the box, or the ball where a norm bounds it."""
    left = [changed.max() - 1, -changed.min()]
    threat = attack.threat_model
    if threat.norm is not None and threat.epsilon is not None:
        left.append(NORMS[threat.norm].size(changed - images).max() - threat.epsilon)
    return float(torch.stack(left).max())


def to_tensor(images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return uint8 crops (n, H, W, 3) as (n, 3, H, W) float32 in [0, 1] on a device."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 255


def _to_bytes(images: torch.Tensor) -> NDArray[np.uint8]:
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())
