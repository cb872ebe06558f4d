"""The pictures whose faces the reference implementations were asked for.

They are drawn from scikit-image's photographs; frames of the synthetic corpus are kept beside them
(corpus.png), so that the corpus may change without asking the references again.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from tests.preprocessing.clips import astronaut

CORPUS = Path(__file__).with_name("corpus.png")
Picture = NDArray[np.uint8]


def draw() -> dict[str, Picture]:
    """Return the pictures by name, each (H, W, 3) uint8 RGB."""
    face = astronaut()
    pictures = {
        "astronaut": face,
        "half": _scaled(face, 0.5),
        "third": _scaled(face, 0.35),
        "enlarged": _scaled(face, 1.7),
        "mirrored": np.ascontiguousarray(face[:, ::-1]),
        "turned_left": _turned(face, 15),
        "turned_right": _turned(face, -22),
        "cut_at_the_border": np.ascontiguousarray(face[:400, 190:]),
        "dark": (face // 3).astype(np.uint8),
        "noisy": _noisy(face, 20),
        "blurred": np.asarray(cv2.GaussianBlur(face, (0, 0), 3), np.uint8),
        "crowd": _crowd(),
        "crowd_720p": np.asarray(cv2.resize(_crowd(), (1280, 720), interpolation=cv2.INTER_AREA), np.uint8),
        "odd_size": _scaled(face, 0.613)[:297, :311].copy(),
        "no_face": np.asarray(skimage.data.coffee(), np.uint8),
    }
    corpus = np.asarray(Image.open(CORPUS))
    for number, frame in enumerate(np.split(corpus, corpus.shape[1] // corpus.shape[0], axis=1)):
        pictures[f"corpus_{number}"] = np.ascontiguousarray(frame)
        pictures[f"corpus_{number}_small"] = _scaled(frame, 0.7)
    return pictures


def _scaled(image: Picture, scale: float) -> Picture:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=how), np.uint8)


def _turned(image: Picture, degrees: float) -> Picture:
    matrix = cv2.getRotationMatrix2D((225.0, 110.0), degrees, 0.8)
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _noisy(image: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _crowd() -> Picture:
    """Seven faces of 45 to 180 pixels in a frame of 1000 x 1600."""
    canvas = np.asarray(
        cv2.resize(skimage.data.coffee(), (1600, 1000), interpolation=cv2.INTER_AREA), np.uint8
    )
    head = astronaut()[:260, 90:350]
    places = ((30, 40, 1.0), (420, 20, 0.5), (700, 60, 1.6), (1250, 30, 0.8), (60, 600, 1.3), (520, 650, 0.7),
              (900, 600, 0.9))  # fmt: skip
    for number, (left, top, scale) in enumerate(places):
        patch = _scaled(head[:, ::-1].copy() if number % 2 else head, scale)
        canvas[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return canvas
