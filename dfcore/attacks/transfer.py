"""Attacks made on other detectors, by somebody who does not have this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr
from torch import nn
from torch.nn import functional as F

from dfcore.attacks.apgd import APGD
from dfcore.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from dfcore.attacks.template import Attack, Knowledge, Threat, log_odds
from dfcore.errors import ConfigError
from dfcore.models import Detector, crafting_mode, fold_batch_norm, load_detector

__all__ = ["Ensemble", "Transfer"]


class Ensemble(nn.Module):
    """Several detectors as one: the mean distance of their logits from their own thresholds.

    Args:
        detectors: each is asked at its own image size and decides at its own threshold.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        super().__init__()
        if not detectors:
            raise ConfigError("expected at least one surrogate detector, got none; give their addresses")
        self.detectors = nn.ModuleList(detectors)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N,) logits whose threshold is a score of 0.5; `images` are (N, 3, H, W) in [0, 1]."""
        total = images.new_zeros(len(images))
        for detector in self.detectors:
            assert isinstance(detector, Detector)
            logits = detector(_resize(images, detector.config.image_size))
            total = total + logits - log_odds(detector.threshold)
        return total / len(self.detectors)


class Transfer(Attack):
    """Attack an ensemble of surrogates and hand the images to the detector, which is never asked.

    Attributes:
        surrogates: folders, s3:// or registry:// addresses of bundles; loaded at the first use.
        attack: what is run on them; momentum transfers best.

    Source: Liu et al., arXiv:1611.02770; momentum: Dong et al., arXiv:1710.06081.
    """

    knowledge: ClassVar[Knowledge] = "transfer"
    kind: Literal["transfer"] = "transfer"
    surrogates: tuple[str, ...] = ()
    attack: Annotated[APGD | BIM | FGSM | MIFGSM | PGD, Field(discriminator="kind")] = MIFGSM()
    _ensemble: Ensemble | None = PrivateAttr(default=None)

    def using(self, detectors: Sequence[Detector]) -> Self:
        """Return the same attack with these surrogates in place of those behind the addresses.

        Raises:
            ConfigError: there is none.
        """
        bound = self.model_copy()
        bound._ensemble = _freeze(detectors)
        return bound

    def load(self, device: torch.device | str = "cpu", public_key: Path | None = None) -> Self:
        """Return the same attack with its surrogates loaded.

        Args:
            device: where they run.
            public_key: the key to verify their bundles with, if not the registry's own.

        Raises:
            ConfigError: no address is given.
            BundleError, DataError: a bundle is missing, altered or not signed.
        """
        return self.using([load_detector(uri, str(device), public_key) for uri in self.surrogates])

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Attack the surrogates; neither the detector nor its threshold is used."""
        if self._ensemble is None:
            self._ensemble = self.load(images.device)._ensemble
        assert self._ensemble is not None
        self._ensemble.to(images.device)
        with crafting_mode(self._ensemble):
            return self.attack.perturb(self._ensemble, images, labels, 0.5, generator)

    @property
    def threat_model(self) -> Threat:
        """The inner attack's budget, spent on other detectors."""
        return self.attack.threat_model.model_copy(update={"knowledge": self.knowledge})


def _freeze(detectors: Sequence[Detector]) -> Ensemble:
    # copies with batch norm folded: the caller's are left alone, and crafting is twice as fast
    return Ensemble([fold_batch_norm(detector) for detector in detectors])


def _resize(images: torch.Tensor, side: int) -> torch.Tensor:
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
