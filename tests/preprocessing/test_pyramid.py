from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfcore.preprocessing.pyramid import area_pyramid
from tests.preprocessing.clips import astronaut


@pytest.mark.parametrize(("shape", "min_face"), [((180, 320), 24), ((97, 201), 12), ((131, 64), 40)])
def test_every_level_is_the_area_average_of_the_whole_image(shape: tuple[int, int], min_face: int) -> None:
    images = [astronaut()[: shape[0], : shape[1]], astronaut()[100 : 100 + shape[0], 60 : 60 + shape[1]]]
    levels = list(area_pyramid(images, min_face))
    scale = 12 / min_face
    for found, level in levels:
        assert found == pytest.approx(scale)
        size = (int(shape[0] * scale), int(shape[1] * scale))
        assert min(size) >= 12
        for image, own in zip(images, level, strict=True):
            whole = cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            np.testing.assert_allclose(own, whole, atol=2e-3)
        scale *= 0.709
    assert int(min(shape) * scale) < 12


def test_images_below_the_cell_have_no_level() -> None:
    assert list(area_pyramid([astronaut()[:30, :30]], 40)) == []
