from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfcore.errors import ConfigError, ShapeError
from dfcore.preprocessing import Face, FaceDetector, PreprocessingConfig, build_face_detector
from dfcore.preprocessing.mtcnn import MTCNN
from tests.preprocessing.onnx_models import write_retinaface, write_yunet


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {"yunet": write_yunet(folder / "y.onnx"), "retinaface": write_retinaface(folder / "r.onnx")}


def _build(name: str, path: Path) -> FaceDetector:
    return build_face_detector(PreprocessingConfig.parse({"face_detector": name, "detector_weights": path}))


def _scene(left: int, top: int, value: int = 255) -> np.ndarray:
    """A frame of 1280 x 720 with a white square that is one cell of the networks after halving."""
    image = np.zeros((720, 1280, 3), np.uint8)
    image[top : top + 32, left : left + 32] = value
    return image


def _check(face: Face, box: list[float], points: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(face.box, box, atol=0.1)
    np.testing.assert_allclose(face.landmarks, points, atol=0.1)
    assert face.confidence > 0.9


def test_mtcnn_is_the_default() -> None:
    assert isinstance(build_face_detector(PreprocessingConfig()), MTCNN)


def test_yunet_finds_faces_at_their_place_in_the_frame(files: dict[str, Path]) -> None:
    detector = _build("yunet", files["yunet"])
    found = detector.detect([_scene(640, 320), _scene(64, 32, 0), _scene(64, 96)], min_face=40)
    assert [len(faces) for faces in found] == [1, 0, 1]
    # scaled by 20 / 40 the square is the cell at (320, 160); the box is 32 x 48 about its centre
    points = [(640, 320), (672, 320), (656, 336), (640, 352), (672, 352)]
    _check(found[0][0], [624, 288, 688, 384], points)
    np.testing.assert_allclose(found[2][0].box, [48, 64, 112, 160], atol=0.1)
    (again,) = detector.refine([_scene(640, 320)], [np.array([[624, 304, 674, 354]], np.float32)])
    _check(again[0], [624, 288, 688, 384], points)
    assert detector.detect([]) == []


def test_retinaface_finds_faces_at_their_place_in_the_frame(files: dict[str, Path]) -> None:
    detector = _build("retinaface", files["retinaface"])
    found = detector.detect([_scene(640, 320), _scene(64, 32, 0)], min_face=40)
    assert [len(faces) for faces in found] == [1, 0]
    # 1280 becomes 640: the prior of 64 pixels is 128 wide, made twice as high by the offset
    points = [(643.2, 323.2), (668.8, 323.2), (656, 336), (643.2, 348.8), (668.8, 348.8)]
    _check(found[0][0], [592, 208, 720, 464], points)
    assert detector.detect([_scene(640, 320)], min_face=300) == [[]]
    (again,) = detector.refine([_scene(640, 320)], [np.array([[592, 208, 720, 464]], np.float32)])
    _check(again[0], [592, 208, 720, 464], points)
    portrait = np.ascontiguousarray(_scene(640, 320).transpose(1, 0, 2))
    ((face,),) = detector.detect([portrait])
    np.testing.assert_allclose(face.box, [272, 528, 400, 784], atol=0.1)


@pytest.mark.parametrize("name", ["yunet", "retinaface"])
def test_wrong_files_and_inputs_are_refused(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got no file"):
        _build(name, tmp_path / "missing.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("<html>not found</html>")
    with pytest.raises(ConfigError, match="download it again"):
        _build(name, text)
    other = {"yunet": "retinaface", "retinaface": "yunet"}[name]
    with pytest.raises(ConfigError, match=f"the ONNX file of {name}"):
        _build(name, files[other])
    detector = _build(name, files[name])
    with pytest.raises(ShapeError, match="H, W, 3"):
        detector.detect([np.zeros((8, 8), np.uint8)])
    with pytest.raises(ShapeError, match="n, 4"):
        detector.refine([np.zeros((8, 8, 3), np.uint8)], [np.zeros(4, np.float32)])


def test_weights_and_detector_must_fit() -> None:
    with pytest.raises(ConfigError, match="expected detector_weights, the ONNX file of yunet"):
        PreprocessingConfig.parse({"face_detector": "yunet"})
    with pytest.raises(ConfigError, match="detector_weights is ignored by mtcnn"):
        PreprocessingConfig.parse({"detector_weights": "x.onnx"})
