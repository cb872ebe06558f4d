"""Parts of a face: disjoint and complete, in the right places on a real photograph, moving with the face."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from dfcore.errors import ShapeError
from dfcore.explain import REGIONS, face_regions, region_areas, region_energies

# The astronaut's face at its place in the 512-pixel photograph, as MTCNN finds it.
ASTRONAUT = np.array([[[203.8, 100.2], [246.1, 102.6], [224.7, 126.2], [201.3, 138.7], [244.3, 141.0]]])
FACE = np.array([[[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]]]) * 2
SIZE = (224, 224)


def _at(labels: NDArray[np.int8], x: float, y: float) -> str:
    return REGIONS[labels[0, round(y), round(x)]]


def test_every_pixel_belongs_to_one_part() -> None:
    labels = face_regions(np.concatenate([FACE, FACE * 0.7]), SIZE)
    assert labels.shape == (2, *SIZE)
    assert labels.dtype == np.int8
    assert set(np.unique(labels[1])) == set(range(len(REGIONS)))
    areas = region_areas(labels)
    assert list(areas) == list(REGIONS)
    np.testing.assert_allclose(sum(areas.values()), 1)


def test_parts_lie_where_they_do_in_a_photograph() -> None:
    labels = face_regions(ASTRONAUT, astronaut().shape[:2])  # type: ignore[no-untyped-call]  # ships no types
    for name, places in PLACES.items():
        for x, y in places:
            assert _at(labels, x, y) == name, (x, y)


# Read off the photograph.
PLACES = {
    "eyes": [(204, 100), (246, 103), (225, 90)],
    "nose": [(225, 126), (225, 118)],
    "mouth": [(223, 140), (223, 155)],
    "cheeks": [(195, 126), (254, 128)],
    "forehead": [(226, 72), (212, 76), (240, 76)],
    "jawline": [(222, 175), (183, 140), (265, 145)],
    "hairline": [(225, 52), (192, 70)],
    "background": [(20, 20), (225, 200), (165, 120), (400, 300)],
}


def test_parts_turn_move_and_grow_with_the_face() -> None:
    upright = face_regions(FACE, SIZE)
    angle, scale, shift = np.deg2rad(30), 0.5, np.array([60.0, 20.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = face_regions(FACE @ turn.T + shift, SIZE)
    agree = 0
    points = np.random.default_rng(0).uniform(20, 200, (200, 2))
    for x, y in points:
        there = turn @ (x, y) + shift
        if (there >= 0).all() and (there < 223).all():
            agree += _at(upright, x, y) == _at(moved, *there)
        else:
            agree += 1
    assert agree > 185  # what differs lies within a pixel of a border


def test_a_mirrored_face_has_mirrored_parts() -> None:
    mirrored = FACE[:, [1, 0, 2, 4, 3]] * (-1, 1) + (SIZE[1] - 1, 0)
    agree = face_regions(mirrored, SIZE)[:, :, ::-1] == face_regions(FACE, SIZE)
    assert agree.mean() > 0.98


def test_energies_sum_to_one_and_know_their_part() -> None:
    labels = face_regions(FACE, SIZE)
    cams = np.random.default_rng(1).random((1, *SIZE), dtype=np.float32)
    np.testing.assert_allclose(sum(region_energies(cams, labels).values()), 1)
    nose = (labels == REGIONS.index("nose")).astype(np.float32) * 0.4
    energies = region_energies(nose, labels)
    assert energies["nose"] == pytest.approx([1.0])
    assert energies["cheeks"] == [0.0]


def test_no_face_and_an_empty_cam_have_no_shares() -> None:
    landmarks = np.concatenate([FACE, np.full_like(FACE, np.nan), np.zeros_like(FACE), FACE])
    landmarks[2] = 40.0  # five times the same point
    cams = np.ones((4, *SIZE), dtype=np.float32)
    cams[3] = 0
    labels = face_regions(landmarks, SIZE)
    assert (labels[1:3] == -1).all()
    for values in region_energies(cams, labels).values():
        np.testing.assert_array_equal(np.isnan(values), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(region_areas(labels)["nose"]), [False, True, True, False])


def test_five_points_that_make_no_face() -> None:
    # the mouth above the eyes, and the eyes exchanged: no rotation makes a face of it
    jumbled = FACE[:, [1, 0, 2, 3, 4]]
    assert (face_regions(jumbled, SIZE) == -1).all()


def test_no_images() -> None:
    labels = face_regions(np.zeros((0, 5, 2)), SIZE)
    assert labels.shape == (0, *SIZE)
    assert region_energies(np.zeros((0, *SIZE)), labels)["eyes"].shape == (0,)


def test_wrong_shapes_are_refused() -> None:
    labels = face_regions(FACE, SIZE)
    with pytest.raises(ShapeError, match=r"expected landmarks \(N, 5, 2\), got \(5, 2\)"):
        face_regions(FACE[0], SIZE)
    with pytest.raises(ShapeError, match="expected CAMs and labels"):
        region_energies(np.ones((2, *SIZE)), labels)
    with pytest.raises(ShapeError, match="at least 0, got -1"):
        region_energies(-np.ones((1, *SIZE)), labels)
