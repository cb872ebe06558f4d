"""Attack scores on trial: how much they see of attackers, of those included who know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dfcore.monitoring.adaptive import ScoreAware
from dfcore.monitoring.fingerprints import FingerprintConfig, Fingerprints
from dfcore.monitoring.fitting import Attacker, to_bytes
from dfcore.monitoring.scorer import COMBINED, AttackScorer
from dfcore.monitoring.signals import Squeezer
from dfcore.monitoring.two_sample import rank_auc

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = ["ADAPTIVE_WEIGHTS", "TRIAL_ATTACKERS", "Adaptive", "trial", "trial_queries"]

TRIAL_ATTACKERS: Mapping[str, Mapping[str, Any]] = {
    **{f"pgd {epsilon}": {"kind": "pgd", "epsilon": epsilon, "step_size": step, "steps": 20}
       for epsilon, step in (("2/255", "0.5/255"), ("4/255", "1/255"), ("8/255", "2/255"))},
    **{f"apgd {epsilon}": {"kind": "apgd", "epsilon": epsilon, "steps": 20}
       for epsilon in ("2/255", "4/255", "8/255")},
    "blur": {"kind": "blur"},
    "flow": {"kind": "flow"},
    "square 8/255": {"kind": "square", "epsilon": "8/255", "queries": 500},
}  # fmt: skip
"""Attackers who do not know the scores, as settings for `dfcore.attacks.build_attack`."""

ADAPTIVE_WEIGHTS = (0.3, 1.0, 3.0, 10.0)
"""Of the score against the margin; an adaptive attacker tries all and keeps, for each image, the best."""

_BATCH = 64
_RESAMPLES = 200
_POINTS = 100  # of a curve

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]


class Adaptive:
    """An attacker who knows detector, scores and thresholds.

    It runs an attack on the joint loss with several weights, and once without regard to the scores, rounds to
    bytes, and keeps for each image what turns the decision with the least combined score; where nothing turns
    it, what comes nearest.

    Args:
        attack: what climbs; one that hands all images of a batch to the detector at once, such as PGD.
        scorer: what it wants to evade.
        proxies: differentiable stand-ins for squeezers that round.
        weights: of the score against the margin.
    """

    def __init__(
        self,
        attack: Attacker,
        scorer: AttackScorer,
        proxies: Mapping[str, Squeezer],
        weights: Sequence[float] = ADAPTIVE_WEIGHTS,
    ) -> None:
        self.attack = attack
        self.scorer = scorer
        self.proxies = proxies
        self.weights = tuple(weights)

    def __call__(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Attack a batch, images (N, 3, H, W) in [0, 1]."""
        best, rank = images, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        offset = float(np.log(threshold) - np.log1p(-threshold))
        for weight in (0.0, *self.weights):
            target = detector if not weight else ScoreAware(self.scorer, labels, weight, self.proxies)
            found = self.attack(target, images, labels, threshold=threshold, generator=generator)
            sent = (found * 255).round() / 255
            with torch.inference_mode():
                seen = self.scorer.measure(sent)
            margin = (1 - 2 * labels) * (seen.logits - offset)
            # turned decisions first, by how little they show; then by how near they came
            worth = torch.where(margin > 0, 1e6 - seen.surprise[:, -1], margin.clamp(max=0))
            better = worth > rank
            best = torch.where(better.view(-1, 1, 1, 1), sent, best)
            rank = torch.where(better, worth, rank)
        return best.clone()


def trial(
    scorer: AttackScorer,
    crops: Crops,
    attackers: Mapping[str, Attacker],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attack crops and see what the scores say, against the clean crops.

    Args:
        scorer: fitted on other crops than these.
        crops: of both classes, usually of the test split.
        attackers: by name; `Adaptive` ones among them.
        seed: of the attacks and of resampling.
        progress: called with (done, total) attackers.

    Returns:
        Plain data. `clean`: the share of clean crops that each sign flags, in all and by compression.
        `attackers`: for each, `fooled`, and by sign `auc` (for the combination with its 95 % interval over
        videos), `tpr_at_1_fpr`, `flagged` at the deployed threshold, the same of the images that turned the
        decision (`fooling`), `undetected`: the share of all images that turn it and are not flagged, and
        `roc`, the combination's curve.
    """
    names = (*scorer.parts, COMBINED)
    clean = _Seen(scorer, crops.images)
    rng = np.random.default_rng(seed)
    _, videos = np.unique(crops.video_ids, return_inverse=True)
    draws = _resamples(np.asarray(videos), rng)
    document: dict[str, Any] = {
        "n": len(crops),
        "squeezers": list(scorer.parts[: scorer.copies - 1]),
        "clean": {"all": clean.flagged(names)}
        | {f"compression={one}": clean.flagged(names, crops.compressions == one)
           for one in np.unique(crops.compressions).tolist()},
        "attackers": {},
    }  # fmt: skip
    for done, (name, attacker) in enumerate(attackers.items()):
        attacked = _attack(scorer, crops, attacker, seed)
        document["attackers"][name] = _compare(names, clean, _Seen(scorer, attacked), crops.labels, draws)
        if progress is not None:
            progress(done + 1, len(attackers))
    return document


def trial_queries(
    detector: nn.Module,
    crops: Crops,
    attacker: Attacker,
    config: FingerprintConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Search around each crop as a client without the weights would, and see when that is noticed.

    Args:
        detector: what is asked.
        crops: a few; each is searched around by itself.
        attacker: a black-box attack.
        config: of the fingerprints.
        seed: of the attack.

    Returns:
        Plain data: `n`, `detected` (share of the searches), `queries_to_alarm` (median of those detected),
        `fooled`, `before_alarm`: the share of searches that turned the decision before any alarm; and of the
        crops themselves, sent one after the other by one client, `natural_overlap`: the share of crops that
        look like a search's next query, and `natural_run`, the longest run.
    """
    alarms, turned = [], []
    threshold = float(getattr(detector, "threshold", 0.5))
    for row in range(len(crops)):
        asked = _Asked(detector, Fingerprints(config))
        labels = torch.from_numpy(crops.labels[row : row + 1])
        attacker(
            asked, crops.tensor("cpu", [row]), labels, threshold=threshold,
            generator=torch.Generator().manual_seed(seed + row),
        )  # fmt: skip
        alarms.append(asked.alarm)
        offset = float(np.log(threshold) - np.log1p(-threshold))
        wrong = [(logit >= offset) != bool(crops.labels[row]) for logit in asked.logits]
        turned.append(wrong.index(True) + 1 if True in wrong else None)
    noticed = [alarm for alarm in alarms if alarm is not None]
    natural = Fingerprints(config)
    verdicts = [natural.observe(image) for image in crops.images]
    early = [
        turn is not None and (alarm is None or turn < alarm)
        for turn, alarm in zip(turned, alarms, strict=True)
    ]
    return {
        "n": len(crops),
        "detected": len(noticed) / len(crops),
        "queries_to_alarm": float(np.median(noticed)) if noticed else None,
        "fooled": float(np.mean([turn is not None for turn in turned])),
        "before_alarm": float(np.mean(early)),
        "natural_overlap": float(np.mean([one.overlap >= natural.config.overlap for one in verdicts])),
        "natural_run": max(one.run for one in verdicts),
    }


class _Asked(nn.Module):
    """A detector behind an endpoint: it rounds what it is sent, and its queries are watched."""

    def __init__(self, detector: nn.Module, fingerprints: Fingerprints) -> None:
        super().__init__()
        self.detector = detector
        self.fingerprints = fingerprints
        self.logits: list[float] = []
        self.alarm: int | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        sent = to_bytes(images)
        verdict = self.fingerprints.observe(sent[0])
        logits: torch.Tensor = self.detector((images * 255).round() / 255)
        self.logits += logits.tolist()
        if verdict.alarm and self.alarm is None:
            self.alarm = len(self.logits)
        return logits


class _Seen:
    """Surprise and flags (n, P + 1) and logits (n,) of uint8 images, on the host."""

    def __init__(self, scorer: AttackScorer, images: Images) -> None:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
                pixels = chunk.to(scorer.device).permute(0, 3, 1, 2).float() / 255
                parts.append([part.cpu() for part in scorer.measure(pixels)])
        logits, _, surprise, raised = (torch.cat(columns) for columns in zip(*parts, strict=True))
        threshold = scorer.detector.threshold
        self.fake: NDArray[np.bool_] = logits.double().sigmoid().numpy() >= threshold
        self.surprise: Floats = surprise.double().numpy()
        self.raised: NDArray[np.bool_] = raised.numpy()

    def flagged(self, names: Sequence[str], rows: NDArray[np.bool_] | None = None) -> dict[str, float]:
        chosen = self.raised if rows is None else self.raised[rows]
        return dict(zip(names, chosen.mean(axis=0).tolist(), strict=True))


def _attack(scorer: AttackScorer, crops: Crops, attacker: Attacker, seed: int) -> Images:
    device, found = scorer.device, []
    generator = torch.Generator(device).manual_seed(seed)
    for start in range(0, len(crops), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(crops)))
        labels = torch.from_numpy(crops.labels[rows]).to(device)
        found.append(to_bytes(attacker(
            scorer.detector, crops.tensor(device, rows), labels,
            threshold=scorer.detector.threshold, generator=generator,
        )))  # fmt: skip
    return np.concatenate(found)


def _compare(
    names: Sequence[str], clean: _Seen, attacked: _Seen, labels: NDArray[np.int64], draws: list[Any]
) -> dict[str, Any]:
    fooled = attacked.fake != (labels == 1)
    every = np.ones(len(labels), dtype=bool)
    figures = {
        key: _figures(names, clean.surprise, attacked, rows)
        for key, rows in (("all", every), ("fooling", fooled)) if rows.any()
    }  # fmt: skip
    column = len(names) - 1
    aucs = [_auc(clean.surprise[rows, column], attacked.surprise[rows, column]) for rows in draws]
    figures["all"][COMBINED]["auc_interval"] = np.quantile(aucs, (0.025, 0.975)).tolist()
    return {
        "fooled": float(fooled.mean()),
        "undetected": float((fooled & ~attacked.raised[:, column]).mean()),
        "signs": figures["all"],
        "fooling": figures.get("fooling"),
        "roc": _curve(clean.surprise[:, column], attacked.surprise[:, column]),
    }


def _figures(
    names: Sequence[str], clean: Floats, attacked: _Seen, rows: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    found = {}
    for column, name in enumerate(names):
        theirs = attacked.surprise[rows, column]
        fpr, tpr = _rates(clean[:, column], theirs)
        found[name] = {
            "auc": _auc(clean[:, column], theirs),
            "tpr_at_1_fpr": float(tpr[fpr <= 0.01].max()),
            "flagged": float(attacked.raised[rows, column].mean()),
        }
    return found


def _auc(clean: Floats, attacked: Floats) -> float:
    return rank_auc(np.r_[clean, attacked], np.r_[np.zeros(len(clean)), np.ones(len(attacked))])


def _rates(clean: Floats, attacked: Floats) -> tuple[Floats, Floats]:
    """Return (FPR, TPR) for each threshold, from above every value downwards."""
    thresholds = np.r_[np.inf, np.unique(np.r_[clean, attacked])[::-1]]
    shares = [
        np.asarray(1 - np.searchsorted(np.sort(values), thresholds, side="left") / len(values))
        for values in (clean, attacked)
    ]
    return shares[0], shares[1]


def _curve(clean: Floats, attacked: Floats) -> dict[str, list[float]]:
    fpr, tpr = _rates(clean, attacked)
    wanted = np.r_[0, np.geomspace(1e-3, 1, _POINTS - 1)]
    reached = [float(tpr[fpr <= level + 1e-12].max()) for level in wanted]
    return {"fpr": [float(f"{level:.4g}") for level in wanted], "tpr": reached}


def _resamples(videos: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw videos with replacement, as rows of their crops."""
    rows = [np.flatnonzero(videos == video) for video in range(int(videos.max()) + 1)]
    return [
        np.concatenate([rows[chosen] for chosen in rng.integers(0, len(rows), len(rows))])
        for _ in range(_RESAMPLES)
    ]
