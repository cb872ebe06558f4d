from __future__ import annotations

import numpy as np
import pytest

from dfcore.errors import ShapeError
from dfcore.preprocessing import (
    MTCNN,
    Face,
    Frame,
    PreprocessingConfig,
    blur,
    crop_face,
    crop_tracked,
    decode_video,
    encode_video,
    extract_faces,
    longest_track,
)
from tests.preprocessing.clips import astronaut, moving_astronaut


def _face(left: float, top: float, side: float = 50, confidence: float = 0.99) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    return Face(box, np.tile(box[:2] + side / 2, (5, 1)), confidence)


def test_a_real_video_gives_one_crop_a_frame_with_landmarks_inside() -> None:
    config = PreprocessingConfig(frames_per_video=3, image_size=64)
    frames = decode_video(encode_video(None, moving_astronaut()), 3)
    crops = extract_faces(frames, MTCNN(), config)
    assert [crop.frame_index for crop in crops] == [frame.index for frame in frames]
    for crop in crops:
        assert crop.image.shape == (64, 64, 3)
        assert crop.image.dtype == np.uint8
        assert ((crop.landmarks > 8) & (crop.landmarks < 56)).all()
        assert crop.landmarks[0, 0] < crop.landmarks[1, 0]


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


def test_the_longest_track_wins_over_the_larger_face() -> None:
    frames = [[_face(10, 10), _face(300, 100, 120)], [_face(300, 105, 120), _face(25, 12)], [_face(45, 15)]]
    track = longest_track(frames)
    assert [(place, float(face.box[0])) for place, face in track] == [(0, 10), (1, 25), (2, 45)]
    assert longest_track(frames[:2])[0][1].box[0] == 300
    assert longest_track([[], []]) == []


def test_small_and_unsure_faces_do_not_count() -> None:
    frame = Frame(astronaut(), 0, 0.0)
    config = PreprocessingConfig(min_face=40, min_confidence=0.9)
    assert crop_tracked([frame], [[_face(10, 10, 30), _face(200, 100, 60, 0.5)]], config) == []
    with pytest.raises(ShapeError, match="1 frames"):
        crop_tracked([frame], [], config)


def test_blur_falls_when_the_image_is_smoothed() -> None:
    image = astronaut()[::4, ::4]
    smooth = ((image[:-1].astype(int) + image[1:]) // 2).astype(np.uint8)
    assert 0 == blur(np.zeros_like(image)) < blur(smooth) < blur(image)
