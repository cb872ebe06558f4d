from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfcore.preprocessing import Face, FaceCrop, Frame, PreprocessingConfig, crop_face, extract_faces
from dfcore.preprocessing.mtcnn import MTCNN
from tests.preprocessing.clips import astronaut

# left eye, right eye, nose, mouth corners in a crop of 112 without margin
TEMPLATE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])


def _face(left: float, top: float, side: float = 50, points: object = None) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    landmarks = np.tile(box[:2] + side / 2, (5, 1)) if points is None else np.array(points, np.float32)
    return Face(box, landmarks, 0.99)


def test_the_crop_is_the_box_and_its_margin() -> None:
    image = astronaut()
    crop = crop_face(Frame(image, 7, 1.5), _face(200, 100, 50), 65, 0.3)
    assert (crop.image == image[92:157, 192:257]).all()
    assert crop.landmarks[0].tolist() == [33, 33]
    assert (crop.frame_index, crop.timestamp) == (7, 1.5)


def test_at_the_border_the_frame_is_mirrored() -> None:
    image = astronaut()
    crop = crop_face(Frame(image, 0, 0.0), _face(-20, 0, 40), 40, 0.0)
    assert (crop.image[:, 20:] == image[:40, :20]).all()
    assert (crop.image[:, 19] == image[:40, 1]).all()


@pytest.mark.parametrize("place", [(-60, 0), (900, 900), (0, -500)])
def test_a_box_beside_the_frame_is_filled_from_its_edge(place: tuple[int, int]) -> None:
    crop = crop_face(Frame(astronaut()[:100, :100], 0, 0.0), _face(*place), 16, 0.3)
    assert crop.image.shape == (16, 16, 3)
    assert crop.blockiness == 0


@pytest.mark.parametrize("size", [224, 299])
@pytest.mark.parametrize("degrees", [0, 20, -35])
def test_five_points_bring_a_turned_face_upright(size: int, degrees: float) -> None:
    matrix = cv2.getRotationMatrix2D((225.0, 110.0), degrees, 1.0)
    image = np.asarray(cv2.warpAffine(astronaut(), matrix, (512, 512)), np.uint8)
    frame, mtcnn = Frame(image, 0, 0.0), MTCNN()
    config = PreprocessingConfig(image_size=size, alignment="five_points")
    (crop,) = extract_faces([frame], mtcnn, config)
    assert crop.image.shape == (size, size, 3)
    wanted = ((TEMPLATE - 56) / 1.3 + 56) * size / 112
    assert np.abs(crop.landmarks - wanted).max() < 0.06 * size
    # the pixels moved with the points: the detector finds the same face in the crop, upright
    (face,) = mtcnn.detect([crop.image])[0]
    assert np.abs(face.landmarks - crop.landmarks).max() < 0.05 * size
    assert abs(face.landmarks[0, 1] - face.landmarks[1, 1]) < 0.04 * size


def test_margin_and_size_only_scale_the_template() -> None:
    points = TEMPLATE * 0.5 + (100, 80)
    frame, face = Frame(astronaut(), 0, 0.0), _face(100, 80, 56, points)
    tight = crop_face(frame, face, 112, 0.0, "five_points")
    np.testing.assert_allclose(tight.landmarks, TEMPLATE, atol=0.2)
    wide = crop_face(frame, face, 224, 1.0, "five_points")
    np.testing.assert_allclose(wide.landmarks, TEMPLATE + 56, atol=0.4)


def test_a_large_face_is_averaged_not_skipped_over() -> None:
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = crop_face(Frame(stripes, 0, 0.0), _face(44, 44, 512, TEMPLATE * 4.6 + 44), 64, 0.0, "five_points")
    assert np.abs(crop.image.astype(int) - 100).max() < 12


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 225.0),
        np.full((5, 2), np.nan),
        TEMPLATE[[1, 0, 2, 4, 3]] + 150,
        [(200, 100), (300, 100), (250, 100), (201, 100), (299, 100)],
    ],
    ids=["one point", "none", "mirror image", "a line"],
)
@pytest.mark.filterwarnings("error")
def test_landmarks_that_make_no_face_fall_back_to_the_box(points: np.ndarray) -> None:
    frame, face = Frame(astronaut(), 0, 0.0), _face(180, 60, 100, points)
    aligned, plain = (crop_face(frame, face, 64, 0.3, kind) for kind in ("five_points", "box"))
    assert (aligned.image == plain.image).all()
    np.testing.assert_array_equal(aligned.landmarks, plain.landmarks)


def test_blockiness_is_measured_before_scaling() -> None:
    def crop(image: np.ndarray) -> FaceCrop:
        return crop_face(Frame(image, 0, 0.0), _face(150, 50, 130), 64, 0.3)

    data = cv2.imencode(".jpg", astronaut(), [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    compressed = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    assert crop(astronaut()).blockiness < 0.1 < 0.3 < crop(compressed).blockiness
