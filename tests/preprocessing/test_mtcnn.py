from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from dfcore.errors import InvalidInput, ShapeError, WorkFailed
from dfcore.preprocessing import MTCNN
from dfcore.preprocessing import mtcnn as module
from tests.preprocessing.clips import astronaut


@pytest.fixture(scope="module")
def mtcnn() -> MTCNN:
    return MTCNN()


def test_one_confident_face_with_landmarks_in_order(mtcnn: MTCNN) -> None:
    (faces,) = mtcnn.detect([astronaut()])
    (face,) = faces
    assert face.confidence > 0.99
    left, top, right, bottom = face.box
    assert 165 < left < 195
    assert 45 < top < 75
    assert 255 < right < 290
    assert 160 < bottom < 200
    eye_l, eye_r, nose, mouth_l, mouth_r = face.landmarks
    assert eye_l[0] < nose[0] < eye_r[0]
    assert mouth_l[0] < nose[0] < mouth_r[0]
    assert max(eye_l[1], eye_r[1]) < nose[1] < min(mouth_l[1], mouth_r[1])
    # where the eyes really are in this picture
    assert np.abs(face.landmarks[:2] - [(203, 100), (247, 103)]).max() < 6


def test_batches_of_mixed_sizes_equal_single_images(mtcnn: MTCNN) -> None:
    image = astronaut()
    half = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
    two = np.concatenate((half, half), axis=1)
    images = [image, half, two, np.zeros((256, 256, 3), np.uint8), np.ascontiguousarray(half[:, ::-1])]
    together = mtcnn.detect(images)
    assert [len(faces) for faces in together] == [1, 1, 2, 0, 1]
    for image, faces in zip(images, together, strict=True):
        (alone,) = mtcnn.detect([image])
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=0.1)
            np.testing.assert_allclose(a.landmarks, b.landmarks, atol=0.1)
    mirrored = 255 - together[4][0].landmarks[0, 0]
    assert abs(mirrored - together[1][0].landmarks[1, 0]) < 4


def test_min_face_sets_what_is_looked_for(mtcnn: MTCNN) -> None:
    small = cv2.resize(astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    assert len(mtcnn.detect([small], min_face=20)[0]) == 1
    assert mtcnn.detect([small], min_face=80)[0] == []


def test_pictures_without_faces_and_tiny_ones(mtcnn: MTCNN) -> None:
    assert mtcnn.detect([]) == []
    images = [skimage.data.brick(), skimage.data.grass()]
    colour = [np.repeat(image[..., None], 3, axis=2) for image in images]
    assert mtcnn.detect([*colour, np.zeros((8, 8, 3), np.uint8)]) == [[], [], []]


def test_wrong_arguments_are_refused(mtcnn: MTCNN) -> None:
    with pytest.raises(ShapeError, match="H, W, 3"):
        mtcnn.detect([astronaut()[..., 0]])
    with pytest.raises(InvalidInput, match="min_face"):
        mtcnn.detect([astronaut()], min_face=5)


def test_altered_weights_are_never_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "mtcnn" / "assets" / "weights"
    folder.mkdir(parents=True)
    (tmp_path / "mtcnn" / "__init__.py").touch()
    (folder / "pnet.lz4").write_bytes(b"cos\nsystem\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkFailed, match="other bytes"):
        module.MTCNN()
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(WorkFailed, match="pip install mtcnn"):
        module.MTCNN()
