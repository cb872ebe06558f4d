"""Bad input: what is no video, what is cut off, what is damaged, what is too much."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from dfcore.errors import ConfigError, MediaError
from dfcore.preprocessing import FrameSampling, MediaLimits, decode
from tests.preprocessing.clips import decoded_in_full, encoded, small_clip

FEW = FrameSampling(count=4)
ALL = FrameSampling(count=24)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "got 0 bytes"),
        (b"<html><title>404 Not Found</title></html>", r"got text \('<html><title>404 Not Fou'…, 41 bytes\)"),
        ("für alle".encode() * 200, "got text"),
        (bytes(4096), "got zeros"),
        (b"\xff\xd8\xff\xe0" + bytes(300), "got a JPEG image"),
        (b"PK\x03\x04" + bytes(300), "got a ZIP archive"),
        (b"RIFF0000WEBPVP8 " + bytes(300), "got a WebP image"),
        (b"\x00\x00\x00\x1cftypheic" + bytes(300), "got a HEIC or AVIF image"),
        (bytes(range(128, 228)), "got bytes of no known kind"),
    ],
    ids=["empty", "page", "text", "zeros", "jpeg", "zip", "webp", "heic", "noise"],
)
def test_the_message_says_what_the_bytes_look_like(data: bytes, got: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(MediaError, match=f"expected a video .*{got}") as caught:
            decode(source, FEW)
        assert "BytesIO" not in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ") == isinstance(source, Path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.mp4: expected a readable file, got: No such file"):
        decode(tmp_path / "none.mp4", FEW)
    with pytest.raises(MediaError, match="expected a readable file, got: Is a directory"):
        decode(tmp_path, FEW)


def test_a_cut_off_file_with_its_index_at_the_end_says_so() -> None:
    data = encoded(small_clip())
    assert data.index(b"moov") > data.index(b"mdat")
    for part in (data[: len(data) // 2], data[:-100]):
        with pytest.raises(
            MediaError, match=r"expected a video with frames, got an MP4 without its whole index .* cut off"
        ) as caught:
            decode(part, FEW)
        assert "BytesIO" not in str(caught.value)


def test_atoms_that_lead_nowhere_are_no_index() -> None:
    start = struct.pack(">I4s4s", 12, b"ftyp", b"isom")
    for rest in (
        struct.pack(">I4s", 3, b"free") + bytes(90),
        struct.pack(">I4sQ", 1, b"mdat", 400) + bytes(90),
    ):
        with pytest.raises(MediaError, match="its whole index"):
            decode(start + rest, FEW)


@pytest.mark.parametrize("container", ["matroska", "avi", "flv"])
def test_a_header_alone_is_refused(container: str) -> None:
    data = encoded(small_clip(), container)
    with pytest.raises(MediaError, match="expected a video") as caught:
        decode(data[:200] + b"\xff" * 200, FEW)
    assert "BytesIO" not in str(caught.value)


def test_an_index_without_frames_is_refused() -> None:
    data = encoded(small_clip(), muxing={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    with pytest.raises(MediaError, match="expected a video"):
        decode(data[: data.index(b"moof") - 4], FEW)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
def test_a_cut_off_video_gives_its_good_frames_spread_over_what_is_left(container: str) -> None:
    clip = small_clip()
    data = encoded(clip, container)
    if container == "mp4":
        data = _index_first(data)
    whole = decoded_in_full(data)
    video = decode(data[: len(data) * 6 // 10], FEW)
    assert len(video.frames) == 4
    assert video.frames[-1].index < 20
    for frame in video.frames:
        assert (frame.image == whole[frame.index]).all()
    if container == "mp4":
        assert f"the file is cut off: {24 - video.num_frames} of 24 frames are missing" in video.damage


def test_a_cut_off_matroska_is_noticed_by_its_declared_length() -> None:
    data = encoded(small_clip(), "matroska", rate=4)
    video = decode(data[: len(data) // 2], FEW)
    assert "the file is cut off" in video.damage
    assert "of 6.0 s are missing" in video.damage


def _index_first(data: bytes) -> bytes:
    """Move the index before the data, as a server does, and correct the offsets."""
    media, index = data.index(b"mdat") - 4, data.index(b"moov") - 4
    moov = bytearray(data[index:])
    where = moov.index(b"stco") + 8
    for number in range(int.from_bytes(moov[where : where + 4])):
        place = slice(where + 4 + 4 * number, where + 8 + 4 * number)
        moov[place] = (int.from_bytes(moov[place]) + len(moov)).to_bytes(4)
    return data[:media] + bytes(moov) + data[media:index]


def _damaged(data: bytes, share: float, length: int = 400) -> bytes:
    """Overwrite a stretch of the media data."""
    start = data.index(b"mdat") + 4 if b"mdat" in data else 0
    end = data.index(b"moov") if b"moov" in data else len(data)
    middle = start + int((end - start) * share)
    return data[:middle] + np.random.default_rng(0).bytes(length) + data[middle + length :]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_damaged_stretch_costs_only_the_frames_around_it(share: float) -> None:
    data = encoded(small_clip())
    whole = decoded_in_full(data)
    video = decode(_damaged(data, share), ALL)
    assert 12 <= len(video.frames) < 24
    lost = 24 - len(video.frames)
    assert video.damage == f"{lost} of 24 wanted frames don't decode; {24 - lost} good ones are given"
    assert video.num_frames == 24
    for frame in video.frames:
        assert (frame.image == whole[frame.index]).all(), frame.index


def test_good_frames_stand_in_for_damaged_ones() -> None:
    data = encoded(small_clip(), gop=250)
    whole = decoded_in_full(data)
    video = decode(_damaged(data, 0.6), FEW)
    assert len(video.frames) == 4
    assert "of 4 wanted frames don't decode; 4 good ones are given" in video.damage
    assert all((frame.image == whole[frame.index]).all() for frame in video.frames)


def test_only_damage_that_is_met_is_reported() -> None:
    damaged = _damaged(encoded(small_clip()), 0.9)
    assert decode(damaged, FrameSampling(count=1)).damage == ""


def test_lost_transport_packets_cost_their_group_of_pictures() -> None:
    data = encoded(small_clip(), "mpegts")
    whole = decoded_in_full(data)
    middle = len(data) // 2 // 188 * 188
    video = decode(data[:middle] + data[middle + 3 * 188 :], ALL)
    assert 12 <= len(video.frames) < 24
    assert video.damage != ""
    exact = [min(np.abs(f.image.astype(int) - w).max() for w in whole) == 0 for f in video.frames]
    assert all(exact)


def test_a_video_without_any_good_frame_is_refused() -> None:
    data = encoded(small_clip(4))
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    with pytest.raises(MediaError, match="expected a video with frames that decode, got none of 4"):
        decode(data[:start] + bytes(end - start) + data[end:], FEW)


def test_a_capture_that_starts_between_key_frames() -> None:
    data = encoded(small_clip(), "matroska", gop=12, muxing={"live": "1"})
    # drop the first cluster block: the key frame's
    video = decode(_without_first_block(data), ALL)
    whole = decoded_in_full(data)
    assert 12 <= len(video.frames) < 24
    assert "wanted frames don't decode" in video.damage
    assert all(any((frame.image == image).all() for image in whole) for frame in video.frames)


def _without_first_block(data: bytes) -> bytes:
    """Turn the first SimpleBlock (id A3) into a Void (id EC)."""
    cluster = data.index(b"\x1f\x43\xb6\x75")
    block = data.index(b"\xa3", cluster + 12)
    return data[:block] + b"\xec" + data[block + 1 :]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (MediaLimits(max_bytes=100), "max_bytes=100, got"),
        (MediaLimits(max_pixels=100), "max_pixels=100 a frame, got 3072"),
        (MediaLimits(max_frames=5), "max_frames=5"),
        (MediaLimits(max_seconds=0.2), "max_seconds=0.2"),
        (MediaLimits(max_memory_bytes=20_000), "max_memory_bytes=20000 of frames, got 36864"),
        (MediaLimits(seconds_to_decode=1e-9), "seconds_to_decode=1e-09"),
    ],
)
def test_each_limit_is_named_with_the_file(limits: MediaLimits, name: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded(small_clip()))
    with pytest.raises(MediaError, match=name) as caught:
        decode(path, FEW, limits)
    assert str(path) in str(caught.value)


def test_the_limits_let_through_what_just_fits() -> None:
    data = encoded(small_clip())
    exact = MediaLimits(
        max_bytes=len(data),
        max_pixels=48 * 64,
        max_frames=24,
        max_seconds=1,
        max_memory_bytes=4 * 48 * 64 * 3,
    )
    assert len(decode(data, FEW, exact).frames) == 4


def test_sampling_has_to_say_how_much() -> None:
    with pytest.raises(ConfigError, match="expected count, every_seconds or both, got neither"):
        FrameSampling.parse({})
