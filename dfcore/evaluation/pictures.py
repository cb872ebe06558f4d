"""Collect attacked faces for the report: the same faces, attacked against each model, with where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.attacks import PGD
from dfcore.data import Crops
from dfcore.explain import grad_cam
from dfcore.models import Detector, crafting_mode, fold_batch_norm

__all__ = ["Picture", "View", "attack_faces", "choose_faces", "collect_pictures"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One face as one model sees it.

    Attributes:
        model: name of the model.
        attacked: (H, W, 3) float32 in [0, 1], crafted against this model.
        clean_score, attacked_score: P(fake) before and after.
        threshold: from which this model says fake.
        clean_cam, attacked_cam: (H, W) float32 in [0, 1].
    """

    model: str
    attacked: Pixels
    clean_score: float
    attacked_score: float
    threshold: float
    clean_cam: Pixels
    attacked_cam: Pixels


@dataclass(frozen=True)
class Picture:
    """One face of a corpus and what every model makes of it; `clean` is (H, W, 3) float32 in [0, 1]."""

    corpus: str
    label: int
    method: str
    epsilon: float
    clean: Pixels
    views: tuple[View, ...]


def collect_pictures(
    detectors: Mapping[str, Detector],
    crops: Crops,
    *,
    corpus: str,
    epsilon: float = 2 / 255,
    count: int = 4,
    seed: int = 0,
) -> list[Picture]:
    """Attack a few faces against each detector with PGD-20 and take their CAMs.

    Args:
        detectors: by name; the faces do not depend on them.
        crops: of the corpus.
        corpus: its name.
        epsilon: budget in pixel units of [0, 1].
        count: how many faces, the last of them real, from different videos where there are enough.
        seed: of the random start.
    """
    rows = choose_faces(crops, fakes=max(1, count - 1), reals=1)
    images = crops.tensor("cpu", rows)
    views = {
        name: _view(name, detector, attack_faces(detector, crops, rows, epsilon=epsilon, seed=seed))
        for name, detector in detectors.items()
    }
    return [
        Picture(
            corpus=corpus,
            label=int(crops.labels[row]),
            method=str(crops.methods[row]),
            epsilon=epsilon,
            clean=_last(images[place]),
            views=tuple(found[place] for found in views.values()),
        )
        for place, row in enumerate(rows)
    ]


def choose_faces(crops: Crops, *, fakes: int, reals: int) -> NDArray[np.int64]:
    """Choose a crop of each of as many videos, evenly spread; fewer where there are not enough."""
    chosen = []
    for label, wanted in ((1, fakes), (0, reals)):
        _, first = np.unique(np.where(crops.labels == label, crops.video_ids, ""), return_index=True)
        members = first[crops.labels[first] == label]
        places = np.arange(min(wanted, len(members))) * len(members) // max(1, min(wanted, len(members)))
        chosen.append(members[places])
    return np.concatenate(chosen).astype(np.int64)


def attack_faces(
    detector: Detector, crops: Crops, rows: NDArray[np.int64], *, epsilon: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crops and what PGD-20 makes of them, (N, 3, H, W) each, on the detector's device."""
    device = detector.mean.device
    clean = crops.tensor(device, rows)
    attack = PGD(epsilon=epsilon, step_size=2.5 * epsilon / 20, steps=20)
    attacked = attack(
        fold_batch_norm(detector),
        clean,
        torch.from_numpy(crops.labels[rows]).to(device),
        threshold=detector.threshold,
        generator=torch.Generator(device=device).manual_seed(seed),
    )
    return clean, attacked


def _view(name: str, detector: Detector, faces: tuple[torch.Tensor, torch.Tensor]) -> list[View]:
    clean, attacked = faces
    with torch.no_grad(), crafting_mode(detector):
        before = torch.sigmoid(detector(clean)).tolist()
        after = torch.sigmoid(detector(attacked)).tolist()
    clean_cams, attacked_cams = grad_cam(detector, clean), grad_cam(detector, attacked)
    return [
        View(
            model=name,
            attacked=_last(attacked[place]),
            clean_score=before[place],
            attacked_score=after[place],
            threshold=detector.threshold,
            clean_cam=clean_cams[place],
            attacked_cam=attacked_cams[place],
        )
        for place in range(len(clean))
    ]


def _last(image: torch.Tensor) -> Pixels:
    """Return (H, W, 3) pixels on the CPU."""
    return np.asarray(image.detach().cpu().permute(1, 2, 0).numpy(), dtype=np.float32)
