"""Follow people through a video: detect on some frames, refine in between, choose one person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.preprocessing.config import PreprocessingConfig
from dfcore.preprocessing.detectors import FaceDetector
from dfcore.preprocessing.face import Face
from dfcore.preprocessing.quality import face_size

__all__ = ["Track", "choose_track", "find_in_videos", "link_faces", "longest_track", "usable_faces"]

Image = NDArray[np.uint8]
Track = list[tuple[int, Face]]
"""(place of the frame, face) of one person, in display order."""

# Sampled frames lie far apart in time, so a head may leave its box: boxes are grown before they are compared.
_GROWTH = 2.0
_SAME_FACE_IOU = 0.2
# A mask that went through a video codec is not quite black where nothing was manipulated.
_BLACK = 16
# Below this share of the manipulated area no face was hit, only neighbouring pixels.
_HIT = 0.1


def find_in_videos(
    videos: Sequence[Sequence[Image]], detector: FaceDetector, config: PreprocessingConfig
) -> list[list[list[Face]]]:
    """Find the faces in the frames of several videos; the frames of all share batches.

    Faces are searched for in every `detect_every`-th frame and in each video's last. In a frame between two
    of these the detector refines each face's box, interpolated between them. Where it does not find a face
    that was expected, or neither of them shows one, the frame is searched like the others; what is missed
    is a person who comes and goes between them while another is there.

    Args:
        videos: each its frames in display order, (H, W, 3) uint8 RGB.
        detector: what finds faces.
        config: how often to detect, and which faces count.

    Returns:
        For each video and frame the faces that are large and sure enough, most confident first.
    """
    found: list[list[list[Face]]] = [[[] for _ in images] for images in videos]

    def search(places: Sequence[tuple[int, int]]) -> None:
        images = [videos[video][frame] for video, frame in places]
        for (video, frame), faces in zip(
            places, detector.detect(images, min_face=config.min_face), strict=True
        ):
            found[video][frame] = usable_faces(faces, config)

    keys = [list(range(0, len(images), config.detect_every)) for images in videos]
    for own, images in zip(keys, videos, strict=True):
        if images and own[-1] != len(images) - 1:
            own.append(len(images) - 1)
    search([(video, frame) for video, own in enumerate(keys) for frame in own])
    expected = [
        (video, frame, boxes)
        for video, own in enumerate(keys)
        for frame, boxes in _between(own, [found[video][frame] for frame in own])
    ]
    lost = [(video, frame) for video, frame, boxes in expected if not len(boxes)]
    expected = [each for each in expected if len(each[2])]
    images = [videos[video][frame] for video, frame, _ in expected]
    refined = detector.refine(images, [boxes for _, _, boxes in expected])
    for (video, frame, boxes), faces in zip(expected, refined, strict=True):
        found[video][frame] = usable_faces(faces, config)
        if any(
            all(_overlap(box, face.box) < _SAME_FACE_IOU for face in found[video][frame]) for box in boxes
        ):
            lost.append((video, frame))
    search(lost)
    return found


def usable_faces(faces: Sequence[Face], config: PreprocessingConfig) -> list[Face]:
    """Return the faces that are sure and large enough for the settings."""
    return [
        face
        for face in faces
        if face.confidence >= config.min_confidence and face_size(face) >= config.min_face
    ]


def _between(
    keys: Sequence[int], detections: Sequence[Sequence[Face]]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (frame, (n, 4) boxes) for the frames between key frames: where the faces of these should be."""
    tracks = [dict(track) for track in link_faces(detections)]
    for place, (before, after) in enumerate(pairwise(keys)):
        ends = [
            (track.get(place, track.get(place + 1)), track.get(place + 1, track.get(place)))
            for track in tracks
        ]
        for frame in range(before + 1, after):
            share = np.float32((frame - before) / (after - before))
            boxes = [a.box * (1 - share) + b.box * share for a, b in ends if a is not None and b is not None]
            yield frame, np.array(boxes, np.float32).reshape(-1, 4)


def link_faces(detections: Sequence[Sequence[Face]]) -> list[Track]:
    """Link faces over frames by the IoU of their grown boxes, the best pairs first.

    Args:
        detections: the faces of each frame.

    Returns:
        The tracks; each face is in exactly one, and a track has at most one face a frame. A track may
        pass over frames in which its face was not found.
    """
    tracks: list[Track] = []
    for place, faces in enumerate(detections):
        pairs = sorted(
            (
                (_overlap(track[-1][1].box, face.box), i, j)
                for i, track in enumerate(tracks)
                for j, face in enumerate(faces)
            ),
            reverse=True,
        )
        extended: set[int] = set()
        linked: set[int] = set()
        for overlap, i, j in pairs:
            if overlap >= _SAME_FACE_IOU and i not in extended and j not in linked:
                tracks[i].append((place, faces[j]))
                extended.add(i)
                linked.add(j)
        tracks.extend([(place, face)] for j, face in enumerate(faces) if j not in linked)
    return tracks


def longest_track(detections: Sequence[Sequence[Face]]) -> Track:
    """Return the longest track; of those as long as each other the one with the larger faces.

    Args:
        detections: the faces of each frame.

    Returns:
        The track; empty without faces.
    """
    return max(link_faces(detections), key=_length, default=[])


def choose_track(detections: Sequence[Sequence[Face]], masks: Sequence[Image | None] | None = None) -> Track:
    """Return the track that holds most of the manipulated area, or the longest if none holds any.

    Args:
        detections: the faces of each frame.
        masks: for each frame (H, W) or (H, W, 3) uint8 of the frame's size, brighter where it was more
            manipulated; None where there is none.

    Returns:
        The track; empty without faces.

    Raises:
        ShapeError: not one mask for each frame, or a mask of another shape or type.
    """
    if masks is None:
        return longest_track(detections)
    if len(masks) != len(detections):
        raise ShapeError(f"expected masks for {len(detections)} frames, got {len(masks)}; pass None for none")
    levels = [None if mask is None else _levels(mask) for mask in masks]
    tracks = link_faces(detections)
    held = [
        sum(_share_inside(level, face) for place, face in track if (level := levels[place]) is not None)
        for track in tracks
    ]
    best = max(range(len(tracks)), key=lambda i: (held[i], _length(tracks[i])), default=None)
    if best is None or held[best] < _HIT * len(tracks[best]):
        return longest_track(detections)
    return tracks[best]


def _levels(mask: Image) -> NDArray[np.float32]:
    if mask.ndim not in (2, 3) or mask.dtype != np.uint8:
        raise ShapeError(f"expected a mask (H, W) or (H, W, 3) uint8, got {mask.shape} {mask.dtype}")
    grey = (mask if mask.ndim == 2 else mask.max(axis=2)).astype(np.float32)
    return np.where(grey > _BLACK, grey, np.float32(0))


def _share_inside(level: NDArray[np.float32], face: Face) -> float:
    """Return what share of the manipulated area lies in the face's box; 0 where nothing was manipulated."""
    x0, y0, x1, y1 = np.rint(face.box).astype(int)
    whole = float(level.sum())
    return float(level[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].sum()) / whole if whole > 0 else 0.0


def _length(track: Track) -> tuple[int, float]:
    return len(track), sum(face_size(face) for _, face in track)


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """IoU of the two boxes grown about their centres."""
    first, second = _grown(a), _grown(b)
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - common
    return common / union if union > 0 else 0.0


def _grown(box: NDArray[np.float32]) -> NDArray[np.float32]:
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _GROWTH
    return np.concatenate((centre - half, centre + half))
