"""Where detectors look and which frequencies they read, as means over faces of a corpus, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dfcore.data import Crops
from dfcore.evaluation.pictures import attack_faces, choose_faces
from dfcore.explain import REGIONS, Explanation, FrequencyConfig, compare_cams, explain
from dfcore.models import Detector

__all__ = ["Look", "Looks", "collect_looks"]

_FREQUENCY = FrequencyConfig(bands=12, draws=2)

Shares = dict[str, float]


@dataclass(frozen=True, eq=False)
class Look:
    """One model's.

    Attributes:
        clean, attacked: mean share of the CAM for "fake" in each part of the face, by part, over the faces
            whose CAM is not empty; {} where there is none, or no landmarks.
        spoken: how many such faces, clean and attacked.
        moved: mean distance of the attacked from the clean CAM: iinc, ssim, cosine, top_iou.
        response: (bands,) median change of the logit by noise of one frequency band, on clean faces; NaN in a
            band that holds no frequency.
    """

    clean: Shares
    attacked: Shares
    spoken: tuple[int, int]
    moved: Shares
    response: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Looks:
    """Every model's on the same faces.

    Attributes:
        corpus: which.
        epsilon: of PGD-20, by which each model's faces are attacked.
        faces: how many, half of them fakes.
        areas: mean share of the picture of each part of the face; {} without landmarks.
        edges: (bands + 1,) of the frequency bands, in cycles a pixel.
        rms: of the noise in each band, in pixel units of [0, 1].
        models: by name.
    """

    corpus: str
    epsilon: float
    faces: int
    areas: Shares
    edges: NDArray[np.float64]
    rms: float
    models: dict[str, Look]


def collect_looks(
    detectors: Mapping[str, Detector],
    crops: Crops,
    *,
    corpus: str,
    epsilon: float = 2 / 255,
    count: int = 16,
    seed: int = 0,
) -> Looks:
    """Explain every detector's scores of the same faces, clean and attacked with PGD-20.

    Args:
        detectors: by name; the faces do not depend on them.
        crops: of the corpus.
        corpus: its name.
        epsilon: budget in pixel units of [0, 1].
        count: how many faces, from different videos where there are enough.
        seed: of the random start.
    """
    rows = choose_faces(crops, fakes=count - count // 2, reals=count // 2)
    landmarks = crops.landmarks[rows]
    models, areas, edges = {}, {}, np.zeros(0)
    for name, detector in detectors.items():
        clean, attacked = attack_faces(detector, crops, rows, epsilon=epsilon, seed=seed)
        before = explain(detector, clean, landmarks, frequency=_FREQUENCY)
        after = explain(detector, attacked, landmarks)
        assert before.frequency is not None
        areas, edges = _means(before.areas), before.frequency.edges
        models[name] = Look(
            clean=_means(before.energies),
            attacked=_means(after.energies),
            spoken=(_known(before), _known(after)),
            moved=compare_cams(before.cams, after.cams).means(),
            response=np.median(before.frequency.response, axis=0),
        )
    return Looks(corpus, epsilon, len(rows), areas, edges, _FREQUENCY.rms, models)


def _known(found: Explanation) -> int:
    return int((~np.isnan(found.energies[REGIONS[0]])).sum())


def _means(shares: Mapping[str, NDArray[np.float64]]) -> Shares:
    means = {name: values[~np.isnan(values)] for name, values in shares.items()}
    return {name: float(values.mean()) for name, values in means.items() if len(values)}
