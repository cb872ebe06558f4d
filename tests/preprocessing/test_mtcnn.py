from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from dfcore.errors import InvalidInput, ShapeError, WorkFailed
from dfcore.preprocessing import Face
from dfcore.preprocessing import mtcnn as module
from dfcore.preprocessing.mtcnn import MTCNN
from tests.preprocessing.clips import astronaut
from tests.preprocessing.golden.make_golden import GOLDEN, MIN_FACE, digest
from tests.preprocessing.golden.pictures import draw


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
    with pytest.raises(ShapeError, match="boxes for 1 images"):
        mtcnn.refine([astronaut()], [])
    with pytest.raises(ShapeError, match="n, 4"):
        mtcnn.refine([astronaut()], [np.zeros(4, np.float32)])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    common = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def _as_faces(golden: list[dict[str, Any]]) -> list[Face]:
    return [
        Face(np.array(face["box"]), np.array(face["landmarks"]), face["confidence"])
        for face in golden
        if face["confidence"] >= 0.9
    ]


def _nearest(face: Face, others: Sequence[Face]) -> tuple[float, float]:
    """Return the best IoU and how far the landmarks of that face are, in shares of the box."""
    best = max(others, key=lambda other: _iou(face.box, other.box))
    far = np.abs(face.landmarks - best.landmarks).max() / (face.box[2:] - face.box[:2]).max()
    return _iou(face.box, best.box), float(far)


@pytest.fixture(scope="module")
def golden(mtcnn: MTCNN) -> list[tuple[str, list[Face], list[Face], list[Face]]]:
    """Name, our faces, mtcnn's, facenet-pytorch's for each picture that is still what the references saw."""
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))["pictures"]
    pictures = draw()
    assert {name: digest(image) for name, image in pictures.items()} == {
        name: value["sha256"] for name, value in kept.items()
    }, "the pictures have changed; make the golden values anew, see make_golden.py"
    found = mtcnn.detect(list(pictures.values()), min_face=MIN_FACE)
    return [
        (name, faces, _as_faces(kept[name]["mtcnn"]), _as_faces(kept[name]["facenet_pytorch"]))
        for name, faces in zip(pictures, found, strict=True)
    ]


Golden = list[tuple[str, list[Face], list[Face], list[Face]]]


def test_boxes_and_landmarks_are_those_of_mtcnn(golden: Golden) -> None:
    count = 0
    for name, ours, reference, _ in golden:
        ours = [face for face in ours if face.confidence >= 0.9]
        assert len(ours) == len(reference), name
        for face in reference:
            overlap, far = _nearest(face, ours)
            assert overlap >= 0.95, (name, overlap)
            assert far <= 0.02, (name, far)
            count += 1
    assert count == 34


def test_boxes_are_as_near_to_facenet_pytorch_as_the_references_are_to_each_other(golden: Golden) -> None:
    """The references' own boxes overlap by 0.92 in the median and 0.61 at worst, so none is near to both."""
    ours_far, references_far = [], []
    for name, ours, mtcnn_faces, facenet in golden:
        for face in facenet:
            if not mtcnn_faces or _nearest(face, mtcnn_faces)[0] < 0.5:
                continue  # mtcnn does not see this one
            ours_far.append(_nearest(face, ours))
            references_far.append(_nearest(face, mtcnn_faces))
            assert ours_far[-1][0] > references_far[-1][0] - 0.05, name
            assert ours_far[-1][1] < references_far[-1][1] + 0.02, name
    overlaps, points = np.array(ours_far).T
    assert len(overlaps) == 34
    assert np.median(overlaps) > 0.91
    assert np.median(points) < 0.03


def test_refining_a_shifted_box_finds_the_face_again(mtcnn: MTCNN) -> None:
    image = astronaut()
    ((face,),) = mtcnn.detect([image])
    side = float(face.box[3] - face.box[1])
    for dx, dy, scale in ((0, 0, 1.0), (0.2, -0.1, 1.0), (-0.5, 0.4, 1.1), (0.1, 0.1, 0.8)):
        shift = np.array([dx, dy, dx, dy], np.float32) * side
        centre = np.tile((face.box[:2] + face.box[2:]) / 2, 2)
        box = (face.box - centre) * np.float32(scale) + centre + shift
        ((again,),) = mtcnn.refine([image], [box[None].astype(np.float32)])
        assert _iou(again.box, face.box) > 0.8
        assert np.abs(again.landmarks - face.landmarks).max() < 0.06 * side
    nothing = np.array([[350, 350, 450, 450]], np.float32)
    assert mtcnn.refine([image, image], [nothing, np.zeros((0, 4), np.float32)]) == [[], []]
    assert mtcnn.refine([], []) == []


def test_refining_follows_each_of_two_faces(mtcnn: MTCNN) -> None:
    half = cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    two = np.concatenate((half, half), axis=1)
    ((a, b),) = mtcnn.detect([two])
    ((c, d),) = mtcnn.refine([two], [np.stack((b.box + 4, a.box - 30))])
    assert sorted(round(_iou(x.box, y.box)) for x in (a, b) for y in (c, d)) == [0, 0, 1, 1]


def test_an_image_wider_than_opencv_can_warp_at_once(mtcnn: MTCNN) -> None:
    wide = np.zeros((64, 40_000, 3), np.uint8)
    wide[:, 39_000:39_064] = cv2.resize(astronaut()[:260, 90:350], (64, 64), interpolation=cv2.INTER_AREA)
    ((face,),) = mtcnn.detect([wide], min_face=20)
    assert 39_000 < face.box[0] < 39_064


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds(mtcnn: MTCNN) -> None:
    pictures = list(draw().values())
    on_gpu = MTCNN("cuda").detect(pictures)
    for expected, found in zip(mtcnn.detect(pictures), on_gpu, strict=True):
        assert len(found) == len(expected)
        for face in expected:
            assert _nearest(face, found)[0] > 0.95


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
