from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from dfcore.errors import ShapeError
from dfcore.preprocessing import Face, blockiness, blur, face_size, h264_roundtrip, jpeg_roundtrip
from tests.preprocessing.clips import astronaut


def test_blur_falls_when_the_image_is_smoothed() -> None:
    image = astronaut()[::4, ::4]
    smooth = ((image[:-1].astype(int) + image[1:]) // 2).astype(np.uint8)
    assert 0 == blur(np.zeros_like(image)) < blur(smooth) < blur(image)


@pytest.mark.parametrize("picture", ["face", "coffee", "smooth"])
def test_blockiness_rises_as_jpeg_quality_falls_wherever_the_crop_begins(picture: str) -> None:
    image = {
        "face": astronaut()[40:264, 120:344],
        "coffee": np.asarray(skimage.data.coffee(), np.uint8)[:224, :224],
        "smooth": np.asarray(cv2.GaussianBlur(astronaut()[:224, 120:344], (0, 0), 3), np.uint8),
    }[picture]
    measured = [blockiness(image)]
    measured += [blockiness(jpeg_roundtrip(image[None], q)[0][3:, 5:]) for q in (90, 75, 50, 30, 10)]
    assert measured == sorted(measured)
    assert measured[0] < 0.05
    assert measured[-1] > 1


def test_h264_leaves_a_grid_too() -> None:
    clip = np.repeat(astronaut()[None, 40:264, 120:344], 2, axis=0)
    mild, harsh = (blockiness(h264_roundtrip(clip, crf)[0]) for crf in (10, 45))
    assert mild < 0.1 < harsh


def test_images_without_steps_have_no_blocks() -> None:
    assert blockiness(np.full((64, 64, 3), 9, np.uint8)) == 0
    assert blockiness(astronaut()[:8, :8]) == 0


def test_the_longer_side_is_the_size() -> None:
    assert face_size(Face(np.array([3, 4, 13, 34], np.float32), np.zeros((5, 2), np.float32), 1.0)) == 30


@pytest.mark.parametrize("measure", [blur, blockiness])
def test_other_arrays_are_refused(measure: object) -> None:
    for image in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ShapeError, match="H, W, 3"):
            measure(image)  # type: ignore[operator]
