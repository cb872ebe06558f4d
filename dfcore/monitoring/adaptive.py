"""The attacker who knows the attack scores: one loss for the decision and for going unnoticed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dfcore.monitoring.scorer import AttackScorer
from dfcore.monitoring.signals import Squeezer

__all__ = ["ScoreAware"]

_SAFETY = 0.8  # of the flag's limit; the image still has to be rounded to bytes


class ScoreAware(nn.Module):
    """A detector whose logit is worse for the attacker the more the combined score is raised.

    Any attack can be run against it: the margin that the attack climbs is the detector's minus `weight` times
    what the combined score's surprise exceeds the flag's limit by. No expectation over draws is needed, since
    nothing about the scores is random; rounding is passed by the proxies' gradients.

    Args:
        scorer: of the detector.
        labels: (N,) of the images that will be attacked, in their order: every call has all of them.
        weight: of the score against the margin, in logits for each factor of e in rarity.
        proxies: differentiable stand-ins for squeezers that round, by name.

    Source: Carlini and Wagner, "Adversarial Examples Are Not Easily Detected" (AISec 2017); Athalye et al.,
        arXiv:1802.00420.
    """

    def __init__(
        self, scorer: AttackScorer, labels: torch.Tensor, weight: float, proxies: Mapping[str, Squeezer]
    ) -> None:
        super().__init__()
        self.detector = scorer.detector
        self._scorer = scorer
        self._sign = (1 - 2 * labels).float()
        self._weight = weight
        self._proxies = dict(proxies)
        self._limit = _SAFETY * scorer.calibration.limit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N,) logits, moved towards the true label by what the score gives away."""
        found = self._scorer.measure(images, self._proxies)
        excess = (found.surprise[:, -1] - self._limit).clamp_min(0)
        return found.logits - self._sign * self._weight * excess
