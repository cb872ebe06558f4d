"""The seam between faces and network: whatever scores crops, here, in a batch, or in another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.monitoring import AttackScorer, Judgement
from dfcore.monitoring.signals import look
from serving.answers import ModelIdentity
from serving.engine import ServedDetector

__all__ = ["LocalScorer", "Scored", "Scorer", "strongest"]

Crops = NDArray[np.uint8]

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Scored:
    """What a scorer found in N crops.

    Attributes:
        judged: scores, features and signs of an attack; without signs where the bundle has no calibration.
        model: which model scored, where that is another process's.
        threshold: that model's.
    """

    judged: Judgement
    model: ModelIdentity | None = None
    threshold: float | None = None

    def rows(self, start: int, stop: int) -> Scored:
        """Return the crops from `start` to `stop`."""
        judged, part = self.judged, slice(start, stop)
        chosen = Judgement(
            judged.scores[part],
            judged.features[part],
            {name: values[part] for name, values in judged.parts.items()},
            judged.combined[part],
            {name: values[part] for name, values in judged.flags.items()},
        )
        return Scored(chosen, self.model, self.threshold)


class Scorer(Protocol):
    """Scores crops; called from several threads."""

    def score(self, crops: Crops) -> Scored:
        """Score crops uint8 (N, S, S, 3) RGB, N >= 1."""

    def close(self) -> None:
        """Let go of threads and connections; crops that come later are still scored."""


class LocalScorer:
    """Runs the network in the thread that asks, once for crops and their squeezed copies together.

    Args:
        network: what `prepare` returned.
        attacks: judges the same pass for signs of an attack; None leaves them out.

    Attributes:
        network: as given.
    """

    def __init__(self, network: ServedDetector, attacks: AttackScorer | None = None) -> None:
        self.network = network
        self._attacks = attacks

    def score(self, crops: Crops) -> Scored:
        """Score crops; see `Scorer`."""
        with torch.inference_mode():
            found = [self._judge(crops[start : start + _BATCH]) for start in range(0, len(crops), _BATCH)]
        return Scored(_joined(found))

    def close(self) -> None:
        """Hold nothing."""

    def _judge(self, crops: Crops) -> Judgement:
        device = self.network.mean.device
        pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(device)
        images = pixels.permute(0, 3, 1, 2).float() / 255
        if self._attacks is not None:
            seen = self._look(self._attacks.batch(images))
            return self._attacks.report(self._attacks.judge(images, *seen))
        logits, features = self._look(images)
        return Judgement(
            logits.double().sigmoid().cpu().numpy(),
            features.float().cpu().numpy(),
            {},
            np.zeros(len(crops)),
            {},
        )

    def _look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        precision = self.network.precision
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            return look(self.network, images)


def strongest(judged: Judgement) -> Judgement:
    """Return one judgement of all faces of an image: that of the most suspicious face in each respect.

    A score and a sign may come from different faces: what an attack hides is the score of the attacked face.
    The features are those of the face with the highest score.
    """
    worst = int(judged.scores.argmax())
    return Judgement(
        judged.scores[worst : worst + 1],
        judged.features[worst : worst + 1],
        {name: values.max(keepdims=True) for name, values in judged.parts.items()},
        judged.combined.max(keepdims=True),
        {name: np.array([values.any()]) for name, values in judged.flags.items()},
    )


def _joined(parts: Sequence[Judgement]) -> Judgement:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Judgement(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.features for part in parts]),
        {name: np.concatenate([part.parts[name] for part in parts]) for name in first.parts},
        np.concatenate([part.combined for part in parts]),
        {name: np.concatenate([part.flags[name] for part in parts]) for name in first.flags},
    )
