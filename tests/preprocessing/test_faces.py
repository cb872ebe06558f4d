from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dfcore.errors import ShapeError
from dfcore.preprocessing import (
    Face,
    Frame,
    PreprocessingConfig,
    crop_tracked,
    crop_whole,
    decode_video,
    encode_video,
    extract_faces,
    find_faces,
)
from dfcore.preprocessing.mtcnn import MTCNN
from tests.preprocessing.clips import astronaut, moving_astronaut


@pytest.fixture(scope="module")
def mtcnn() -> MTCNN:
    return MTCNN()


def _face(left: float, top: float, side: float = 50, confidence: float = 0.99) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    return Face(box, np.tile(box[:2] + side / 2, (5, 1)), confidence)


def _frames(*images: np.ndarray) -> list[Frame]:
    return [Frame(image, number, number / 25) for number, image in enumerate(images)]


def test_a_real_video_gives_one_crop_a_frame_with_landmarks_inside(mtcnn: MTCNN, tmp_path: Path) -> None:
    config = PreprocessingConfig(frames_per_video=3, image_size=64)
    path = tmp_path / "clip.mp4"
    encode_video(path, moving_astronaut())
    frames = decode_video(path, 3)
    crops = extract_faces(frames, mtcnn, config)
    assert [crop.frame_index for crop in crops] == [frame.index for frame in frames]
    for crop in crops:
        assert crop.image.shape == (64, 64, 3)
        assert crop.image.dtype == np.uint8
        assert ((crop.landmarks > 8) & (crop.landmarks < 56)).all()
        assert crop.landmarks[0, 0] < crop.landmarks[1, 0]


def test_several_videos_together_equal_each_alone(mtcnn: MTCNN) -> None:
    config = PreprocessingConfig(image_size=32, min_face=30, detect_every=2)
    still = np.ascontiguousarray(astronaut()[:260, 80:340])
    videos = [_frames(*moving_astronaut(5)), _frames(still), [], _frames(*moving_astronaut(4, shift=20))]
    together = find_faces(videos, mtcnn, config)
    assert [len(crops) for crops in together] == [5, 1, 0, 4]
    for frames, crops in zip(videos, together, strict=True):
        for alone, crop in zip(extract_faces(frames, mtcnn, config), crops, strict=True):
            np.testing.assert_allclose(alone.face.box, crop.face.box, atol=0.1)


def test_the_mask_chooses_the_person_also_at_another_size(mtcnn: MTCNN) -> None:
    head = cv2.resize(astronaut()[:260, 90:350], (160, 160), interpolation=cv2.INTER_AREA)
    small = cv2.resize(head[:, ::-1], (110, 110), interpolation=cv2.INTER_AREA)
    scene = np.zeros((160, 320, 3), np.uint8)
    scene[:, :160], scene[20:130, 200:310] = head, small
    frames = _frames(scene, scene)
    mask = np.zeros((80, 160), np.uint8)
    mask[15:60, 105:150] = 255
    config = PreprocessingConfig(image_size=32, min_face=30)
    ((larger, _),) = find_faces([frames], mtcnn, config)
    assert larger.face.box[0] < 160
    ((chosen, _),) = find_faces([frames], mtcnn, config, masks=[[None, mask]])
    assert chosen.face.box[0] > 200
    with pytest.raises(ShapeError, match="masks for 1 videos"):
        find_faces([frames], mtcnn, config, masks=[])
    with pytest.raises(ShapeError, match="masks for 2 frames"):
        find_faces([frames], mtcnn, config, masks=[[mask]])


def test_a_crop_that_comes_cropped_is_taken_whole(mtcnn: MTCNN) -> None:
    face = np.ascontiguousarray(astronaut()[20:220, 130:310])
    crops = crop_whole(
        _frames(face, np.zeros((50, 40, 3), np.uint8)), mtcnn, PreprocessingConfig(image_size=64)
    )
    first, second = crops
    assert first.image.shape == (64, 64, 3)
    assert first.face.box.tolist() == [0, 0, 180, 200]
    assert first.face.confidence > 0.9
    assert ((first.landmarks > 10) & (first.landmarks < 54)).all()
    assert second.face.confidence == 0
    assert np.isnan(second.landmarks).all()
    assert second.frame_index == 1


def test_small_and_unsure_faces_do_not_count() -> None:
    frame = Frame(astronaut(), 0, 0.0)
    config = PreprocessingConfig(min_face=40, min_confidence=0.9)
    assert crop_tracked([frame], [[_face(10, 10, 30), _face(200, 100, 60, 0.5)]], config) == []
    with pytest.raises(ShapeError, match="1 frames"):
        crop_tracked([frame], [], config)
