from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.preprocessing import Face, PreprocessingConfig, choose_track, longest_track
from dfcore.preprocessing.mtcnn import MTCNN
from dfcore.preprocessing.tracking import find_in_videos
from tests.preprocessing.clips import astronaut


class CountingMTCNN(MTCNN):
    """The real detector, counting the frames that it searched and refined."""

    searched = refined = 0

    def detect(self, images: Sequence[NDArray[np.uint8]], *, min_face: int = 40) -> list[list[Face]]:
        self.searched += len(images)
        return super().detect(images, min_face=min_face)

    def refine(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[Face]]:
        self.refined += len(images)
        return super().refine(images, boxes)


def _face(left: float, top: float, side: float = 50, confidence: float = 0.99) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    return Face(box, np.tile(box[:2] + side / 2, (5, 1)), confidence)


def _scene(*places: tuple[float, float, float]) -> NDArray[np.uint8]:
    """A grey frame of 200 x 360 with a head at each (left, top, side)."""
    scene = np.full((200, 360, 3), 90, np.uint8)
    for left, top, side in places:
        x, y, size = round(left), round(top), round(side)
        scene[y : y + size, x : x + size] = cv2.resize(
            astronaut()[:260, 90:350], (size, size), interpolation=cv2.INTER_AREA
        )
    return scene


def _two_people(num_frames: int = 21) -> list[NDArray[np.uint8]]:
    """One head walks and grows, the other nods; both as fast as heads are in frames 0.3 s apart."""
    time = np.arange(num_frames)
    return [
        _scene((10 + 6 * t, 15 + 12 * np.sin(t / 2), 120 + 2 * t), (250, 40 + 25 * np.sin(t / 1.5), 100))
        for t in time[: num_frames * 2 // 3]
    ] + [_scene((250, 40 + 25 * np.sin(t / 1.5), 100)) for t in time[num_frames * 2 // 3 :]]


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    common = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def test_following_finds_what_detection_on_every_frame_finds() -> None:
    frames = _two_people()
    settings = {"min_face": 30}
    full, following = CountingMTCNN(), CountingMTCNN()
    (wanted,) = find_in_videos([frames], full, PreprocessingConfig.parse(settings | {"detect_every": 1}))
    (found,) = find_in_videos([frames], following, PreprocessingConfig.parse(settings | {"detect_every": 4}))
    assert (full.searched, full.refined) == (21, 0)
    assert following.searched <= 10
    assert following.refined == 15
    overlaps = [
        max((_iou(face.box, other.box) for other in others), default=0.0)
        for faces, others in zip(wanted, found, strict=True)
        for face in faces
    ]
    assert len(overlaps) == 14 + 21
    assert min(overlaps) > 0.75
    assert np.median(overlaps) > 0.88
    # and nothing else
    assert [len(faces) for faces in found] == [len(faces) for faces in wanted]
    points = [
        np.abs(a.landmarks - b.landmarks).max() / (a.box[2] - a.box[0])
        for faces, others in zip(wanted, found, strict=True)
        for a in faces
        for b in others
        if _iou(a.box, b.box) > 0.5
    ]
    assert np.median(points) < 0.05


def test_a_face_that_jumps_between_two_detections_is_searched_for() -> None:
    here, there = (10.0, 40.0, 100.0), (240.0, 60.0, 100.0)
    frames = [_scene(here), _scene(here), _scene(there), _scene(here), _scene(here)]
    mtcnn = CountingMTCNN()
    (found,) = find_in_videos([frames], mtcnn, PreprocessingConfig(min_face=30, detect_every=4))
    assert [len(faces) for faces in found] == [1] * 5
    assert found[2][0].box[0] > 200
    assert (mtcnn.searched, mtcnn.refined) == (3, 3)


def test_frames_between_two_empty_ones_are_searched() -> None:
    mtcnn = CountingMTCNN()
    frames = [_scene(), _scene(), _scene((10, 40, 100)), _scene(), _scene()]
    found, none = find_in_videos([frames, []], mtcnn, PreprocessingConfig(min_face=30, detect_every=4))
    assert [len(faces) for faces in found] == [0, 0, 1, 0, 0]
    assert (mtcnn.searched, mtcnn.refined) == (5, 0)
    assert none == []


def test_the_longest_track_wins_over_the_larger_face() -> None:
    frames = [[_face(10, 10), _face(300, 100, 120)], [_face(300, 105, 120), _face(25, 12)], [_face(45, 15)]]
    track = longest_track(frames)
    assert [(place, float(face.box[0])) for place, face in track] == [(0, 10), (1, 25), (2, 45)]
    assert longest_track(frames[:2])[0][1].box[0] == 300
    assert longest_track([[], []]) == []


def test_two_people_who_pass_each_other_are_not_mixed_up() -> None:
    frames = [[_face(10 + 15 * t, 20, 60), _face(130 - 15 * t, 90, 60)] for t in range(8)]
    track = longest_track(frames)
    assert len({float(face.box[1]) for _, face in track}) == 1


def test_the_mask_decides_who_is_followed() -> None:
    frames = [
        [_face(10, 10, 60), _face(100, 20, 40)],
        [_face(12, 12, 60), _face(102, 20, 40)],
        [_face(14, 12, 60)],
    ]
    mask = np.zeros((100, 200), np.uint8)
    mask[25:55, 105:135] = 255
    assert [face.box[0] for _, face in choose_track(frames, [None, mask, None])] == [100, 102]
    coloured = np.repeat(mask[..., None], 3, axis=2)
    assert choose_track(frames, [coloured, coloured, coloured])[0][1].box[0] == 100
    # black but for what the codec left, or beside every face: the longest
    noise = np.full((100, 200), 8, np.uint8)
    beside = np.zeros((100, 200), np.uint8)
    beside[80:, 180:] = 255
    for unusable in (noise, beside, None):
        assert choose_track(frames, [unusable] * 3)[0][1].box[0] == 10
    assert choose_track([[], []], [mask, mask]) == []


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ShapeError, match="masks for 2 frames"):
        choose_track([[], []], [None])
    with pytest.raises(ShapeError, match="mask"):
        choose_track([[_face(0, 0)]], [np.zeros((4, 4), np.float32)])  # type: ignore[list-item]
