"""AFSL: features that an attack can't turn, and that point apart for real and fake."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dfcore.defences.inner_attack import InnerPGD
from dfcore.defences.template import TrainingState, weighted_bce
from dfcore.errors import ConfigError
from dfcore.models import Detector, crafting_mode

__all__ = ["AFSL"]

_SMALL = 1e-6  # features shorter than this have no direction


class AFSL(InnerPGD):
    """Adversarial feature similarity learning, made for deepfakes.

    The loss is logit-adjusted BCE of the clean images + attack_weight * (1 - cos(f(x), f(attacked x))) +
    class_weight * cos(f(real), f(fake)), where f are the features that the classifier reads, and the last
    term is the mean over all pairs in the batch. The adjustment adds the log odds of the classes to the
    logit, in place of class weights. Dropout before the classifier would count as a change of the features:
    leave model.drop_rate at 0.

    Attributes (beside those of `InnerPGD`):
        attack_weight: of the dissimilarity between an image and itself attacked.
        class_weight: of the similarity between real and fake.

    Source: Khan, arXiv:2403.08806; logit adjustment: Menon et al., arXiv:2007.07314.
    """

    kind: Literal["afsl"] = "afsl"
    attack_weight: float = Field(default=1.0, ge=0)
    class_weight: float = Field(default=0.1, ge=0)

    def check(self, detector: Detector) -> None:
        """Require a backbone that ends in one linear layer, without dropout in front of it.

        Raises:
            ConfigError: it does not.
        """
        size = detector.config.image_size
        with torch.no_grad(), crafting_mode(detector):
            features_and_logits(detector, torch.zeros((1, 3, size, size)))
        if detector.config.drop_rate > 0:
            raise ConfigError(
                f"expected model.drop_rate 0 with AFSL, got {detector.config.drop_rate:g}; dropped features "
                "would count as turned by the attack"
            )

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum of the three terms."""
        # one pass over both: batch statistics then fit both
        features, logits = features_and_logits(cast(Detector, detector), torch.cat([images, attacked[0]]))
        # weights are inverse frequencies: their quotient is that of the classes, turned round
        odds = (state.class_weights[0] / state.class_weights[1]).log()
        even = torch.ones_like(state.class_weights)
        clean = weighted_bce(logits[: len(images)] + odds, labels, even, state.label_smoothing)
        own, other = torch.split(F.normalize(features, dim=1, eps=_SMALL), len(images))
        turned = 1 - (own * other).sum(1).mean()
        alike = (_mean(own, labels == 1) * _mean(own, labels == 0)).sum()
        value = clean + self.attack_weight * turned + self.class_weight * alike
        return value, {
            "clean_loss": clean.detach(),
            "turned": turned.detach(),
            "alike": alike.detach(),
        }


def features_and_logits(detector: Detector, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the classifier reads (N, D) and the logits (N,), in one pass.

    Raises:
        ConfigError: the backbone does not end in one linear layer.
    """
    features = detector.features(images)
    head = getattr(detector.backbone, "get_classifier", lambda: None)()
    if not isinstance(head, nn.Linear) or head.in_features != features.shape[1]:
        raise ConfigError(
            f"expected a backbone that ends in one linear layer, got {detector.config.backbone}; "
            "AFSL compares the features in front of it"
        )
    return features, detector.scale * head(features).squeeze(-1).float() + detector.bias


def _mean(directions: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean (D,) of the chosen rows, or 0 if there are none, without waiting for the device."""
    shares = chosen.to(directions.dtype).unsqueeze(1)
    # no matrix product: under autocast it would be one of bfloat16
    return (shares * directions).sum(0) / shares.sum().clamp_min(1)
