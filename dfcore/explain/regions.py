"""Parts of a face, from its five landmarks: how much of a CAM lies on jawline, cheeks or background.

Each pixel is brought into a face's own coordinates by the least-squares similarity that takes the landmarks
to a standard face: origin between the eyes, the distance of the eyes as the unit, x to the right of the
picture, y towards the chin. There the parts are the same for every face:

    background  outside the face: room, hair, neck, clothes
    jawline     the rim of the face from the eyes' height downwards: where pasted faces end
    hairline    the rim of the face above the eyes' height
    forehead    inside the rim, above the eyebrows
    eyes        inside the rim, from the eyebrows to below the lower lids, root of the nose included
    nose        its ridge and wings
    mouth       between nose and rim: lips and chin
    cheeks      what is left inside the rim

Every pixel belongs to one part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError

__all__ = ["REGIONS", "face_regions", "region_areas", "region_energies"]

REGIONS = ("background", "jawline", "hairline", "forehead", "eyes", "nose", "mouth", "cheeks")
"""Names of the parts; the place of a name is its number in `face_regions`."""

UNKNOWN = -1
"""The number of every pixel where the landmarks make no face."""

Labels = NDArray[np.int8]
Figures = NDArray[np.float64]

# Eyes, tip of the nose, corners of the mouth of a frontal face; shape by the five-point template that
# alignment uses, made symmetric.
_STANDARD = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.57], [-0.41, 1.155], [0.41, 1.155]])
# The face's outline as an ellipse: centre's y, radii x and y. Chin about 1.85, top of the forehead about 1.15
# and temples about 1.08 from the point between the eyes.
_OUTLINE = (0.35, 1.08, 1.5)
# The rim reaches from this share of the outline's radius to that.
_RIM = (0.86, 1.1)
_BROWS, _LIDS, _NOSE_END = -0.42, 0.26, 0.8
_NOSE_WIDTH, _MOUTH_WIDTH = 0.3, 0.55
# Shares of the standard face's spread: beyond these the landmarks make no face.
_MAX_RESIDUAL = 0.5
_MIN_SPREAD = 2.0  # pixels


def face_regions(landmarks: NDArray[np.floating], size: tuple[int, int]) -> Labels:
    """Say for each pixel which part of the face it shows.

    Args:
        landmarks: (N, 5, 2) x and y in pixels, as the crop store has them: left eye, right eye (as seen in
            the picture), nose, left and right corner of the mouth; NaN where no face was found.
        size: height and width of the images.

    Returns:
        (N, H, W) int8: places in `REGIONS`; -1 all over an image whose landmarks make no face.

    Raises:
        ShapeError: landmarks of another shape.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != _STANDARD.shape:
        raise ShapeError(f"expected landmarks (N, 5, 2), got {landmarks.shape}")
    labels = np.full((len(landmarks), *size), UNKNOWN, dtype=np.int8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = columns + 1j * rows
    for one, points in zip(labels, landmarks, strict=True):
        if (to_face := _to_face(points)) is not None:
            turn, shift = to_face
            one[...] = _label(pixels * turn + shift)
    return labels


def region_energies(cams: NDArray[np.floating], labels: Labels) -> dict[str, Figures]:
    """Return the share of each CAM's energy, the sum of its values, that lies in each part of the face.

    Args:
        cams: (N, H, W), at least 0.
        labels: (N, H, W) by `face_regions`.

    Returns:
        (N,) in [0, 1] for each name of `REGIONS`; over the names they sum to 1. NaN where a share is not
        defined: the CAM is empty, or the landmarks make no face.

    Raises:
        ShapeError: CAMs of another shape, or with values below 0.
    """
    if cams.shape != labels.shape or cams.ndim != 3:
        raise ShapeError(f"expected CAMs and labels (N, H, W), got {cams.shape} and {labels.shape}")
    if not bool((cams >= 0).all()):
        raise ShapeError(f"expected CAMs of at least 0, got {cams.min():.4g}")
    sums = np.stack(
        [(cams * (labels == place)).sum((1, 2), dtype=np.float64) for place in range(len(REGIONS))]
    )
    total = sums.sum(0)
    shares = np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)
    return dict(zip(REGIONS, shares, strict=True))


def region_areas(labels: Labels) -> dict[str, Figures]:
    """Return each part's share of the image: the energy it would have if a CAM were the same everywhere.

    Args:
        labels: (N, H, W) by `face_regions`.

    Returns:
        (N,) for each name of `REGIONS`; NaN where the landmarks make no face.
    """
    return region_energies(np.ones(labels.shape, dtype=np.float32), labels)


def _to_face(points: NDArray[np.floating]) -> tuple[complex, complex] | None:
    """Return factor and shift that take x + iy in pixels to the standard face; None if there is no face."""
    if not np.isfinite(points).all():
        return None
    found = np.ascontiguousarray(points, np.float64).view(np.complex128).ravel()
    standard = np.ascontiguousarray(_STANDARD).view(np.complex128).ravel()
    source, target = found - found.mean(), standard - standard.mean()
    if np.sqrt(np.mean(np.abs(source) ** 2)) < _MIN_SPREAD:
        return None
    # as complex numbers a similarity is one product: no mirror image can come out
    turn = complex(np.vdot(source, target) / np.vdot(source, source))
    residual = np.sqrt(np.mean(np.abs(turn * source - target) ** 2))
    if residual > _MAX_RESIDUAL * np.sqrt(np.mean(np.abs(target) ** 2)):
        return None
    return turn, complex(standard.mean() - turn * found.mean())


def _label(place: NDArray[np.complex128]) -> Labels:
    x, y = np.abs(place.real), place.imag
    centre, across, down = _OUTLINE
    radius = np.hypot(x / across, (y - centre) / down)
    conditions = {
        "background": radius > _RIM[1],
        "jawline": (radius > _RIM[0]) & (y >= 0),
        "hairline": radius > _RIM[0],
        "forehead": y < _BROWS,
        "eyes": y < _LIDS,
        "nose": (y < _NOSE_END) & (x < _NOSE_WIDTH),
        "mouth": (y >= _NOSE_END) & (x < _MOUTH_WIDTH),
    }
    numbers = [np.int8(REGIONS.index(name)) for name in conditions]
    chosen = np.select(list(conditions.values()), numbers, np.int8(REGIONS.index("cheeks")))
    return np.asarray(chosen, dtype=np.int8)
