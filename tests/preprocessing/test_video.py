from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfcore.errors import InvalidInput, MediaError, ShapeError
from dfcore.preprocessing import MediaLimits, decode_video, encode_video, h264_roundtrip, is_video
from tests.preprocessing.clips import moving_astronaut


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_frames_are_spread_over_the_whole_video_and_carry_their_own_pixels() -> None:
    clip = moving_astronaut()
    frames = decode_video(encode_video(None, clip, fps=12), 4)
    assert [frame.index for frame in frames] == [3, 9, 15, 21]
    assert [frame.timestamp for frame in frames] == pytest.approx([0.25, 0.75, 1.25, 1.75])
    for frame in frames:
        nearest = min(range(len(clip)), key=lambda t: _difference(frame.image, clip[t]))
        assert nearest == frame.index


def test_fewer_frames_than_asked_for_are_never_repeated() -> None:
    frames = decode_video(encode_video(None, moving_astronaut()[:3]), 8)
    assert [frame.index for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("wanted", [1, 2, 5, 23, 24])
def test_as_many_different_frames_as_asked_for(wanted: int) -> None:
    frames = decode_video(encode_video(None, moving_astronaut()), wanted)
    assert len({frame.index for frame in frames}) == len(frames) == wanted


def test_encoding_is_deterministic_and_a_file_equals_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "clip.mp4"
    data = encode_video(path, moving_astronaut())
    assert data == path.read_bytes() == encode_video(None, moving_astronaut())
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.mp4"]
    assert is_video(data)
    first, second = decode_video(path, 3), decode_video(data, 3)
    assert all((a.image == b.image).all() for a, b in zip(first, second, strict=True))


def test_a_cut_off_video_gives_the_good_frames() -> None:
    data = encode_video(None, moving_astronaut())
    whole = decode_video(data, 24)
    frames = decode_video(data[: len(data) * 3 // 4], 24)
    assert 1 <= len(frames) < len(whole)
    for frame in frames:
        assert (frame.image == whole[frame.index].image).all()


def test_a_damaged_stretch_does_not_end_the_video() -> None:
    data = bytearray(encode_video(None, moving_astronaut()))
    middle = len(data) * 3 // 4
    data[middle : middle + 400] = bytes(400)
    frames = decode_video(bytes(data), 24)
    assert len(frames) >= 4


def test_higher_crf_loses_more_and_odd_sizes_come_back() -> None:
    clip = moving_astronaut()[:6, :59, :61]
    mild, harsh = h264_roundtrip(clip, 10), h264_roundtrip(clip, 45)
    assert mild.shape == harsh.shape == clip.shape
    assert mild.dtype == np.uint8
    assert 0 < _difference(mild, clip) < _difference(harsh, clip)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (MediaLimits(max_bytes=100), "max_bytes"),
        (MediaLimits(max_pixels=100), "max_pixels"),
        (MediaLimits(max_frames=5), "max_frames"),
        (MediaLimits(max_seconds=0.2), "max_seconds"),
    ],
)
def test_each_limit_is_named(limits: MediaLimits, name: str) -> None:
    with pytest.raises(MediaError, match=name):
        decode_video(encode_video(None, moving_astronaut()), 2, limits)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no video",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"\x00\x00\x00\x18ftypisom" + bytes(500),
    ],
    ids=["empty", "text", "playlist", "header-only"],
)
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="expected a video"):
        decode_video(data, 2)


def test_a_video_cut_inside_its_first_frame_is_refused() -> None:
    data = encode_video(None, moving_astronaut())
    with pytest.raises(MediaError, match="expected a video with frames"):
        decode_video(data[: data.index(b"mdat") + 100], 2)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="none"):
        decode_video(tmp_path / "none.mp4", 2)


def test_wrong_arguments_are_refused() -> None:
    clip = moving_astronaut()[:2]
    with pytest.raises(InvalidInput, match="num_frames"):
        decode_video(b"", 0)
    with pytest.raises(InvalidInput, match="crf=99"):
        encode_video(None, clip, crf=99)
    with pytest.raises(ShapeError, match="even"):
        encode_video(None, clip[:, :31])
    with pytest.raises(ShapeError, match="uint8"):
        h264_roundtrip(clip.astype(np.float32), 23)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="N, H, W, 3"):
        h264_roundtrip(clip[0], 23)


def test_stills_are_no_video() -> None:
    assert not is_video(b"\x00\x00\x00\x1cftypavif" + bytes(20))
    assert not is_video(b"\xff\xd8\xff\xe0" + bytes(300))
    assert is_video(b"\x1a\x45\xdf\xa3")
    assert is_video(b"RIFF1234AVI LIST")
