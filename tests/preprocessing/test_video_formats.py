"""Every odd kind of video comes out as it is shown, and as a full decode would give it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from dfcore.errors import MediaError
from dfcore.preprocessing import FrameSampling, MediaLimits, decode
from tests.preprocessing.clips import (
    add_stream,
    astronaut,
    decoded_in_full,
    encoded,
    mux,
    small_clip,
)

KINDS = {
    "h264": {},
    "h264-one-gop": {"gop": 250},
    "h264-open-gop": {"options": {"x264-params": "open-gop=1"}},
    "h264-intra-refresh": {"options": {"x264-params": "intra-refresh=1"}},
    "h264-interlaced": {"options": {"x264-params": "interlaced=1"}},
    "h264-10-bit": {"pix_fmt": "yuv420p10le"},
    "hevc-10-bit": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "fragmented": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "mpegts": {"container": "mpegts"},
    "mpegts-intra-refresh": {"container": "mpegts", "options": {"x264-params": "intra-refresh=1"}},
    "matroska": {"container": "matroska"},
    "matroska-live": {"container": "matroska", "muxing": {"live": "1"}},
    "flv": {"container": "flv"},
    "avi-h264": {"container": "avi"},
    "avi-mpeg4": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
    "avi-ffv1": {"container": "avi", "codec": "ffv1"},
    "webm-vp9": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8"},
    },
    "mov-prores": {"container": "mov", "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "odd-size": {"pix_fmt": "yuv444p"},
}  # fmt: skip


def _of_kind(kind: str) -> bytes:
    frames = small_clip(24, (45, 61) if kind == "odd-size" else (48, 64))
    return encoded(frames, **KINDS[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 7, 99])
def test_jumps_and_skips_change_no_pixel(kind: str, count: int) -> None:
    data = _of_kind(kind)
    whole = decoded_in_full(data)
    video = decode(data, FrameSampling(count=count))
    assert video.damage == ""
    assert video.num_frames == len(whole) == 24
    assert video.duration == pytest.approx(1.0, abs=0.01)
    assert len(video.frames) == min(count, 24)
    for frame in video.frames:
        assert frame.timestamp == pytest.approx(frame.index / 24, abs=0.01)
        assert (frame.image == whole[frame.index]).all()


def test_frames_of_every_kind_are_the_same_moments() -> None:
    chosen = {
        tuple(frame.index for frame in decode(_of_kind(kind), FrameSampling(count=3)).frames)
        for kind in ("h264", "matroska", "flv", "mpegts")
    }
    assert chosen == {(4, 12, 20)}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_display_matrix_turns_upright(degrees: int, mirrored: bool) -> None:
    clip = small_clip(2)
    plain = decode(encoded(clip), FrameSampling(count=1)).frames[0].image
    turned = decode(encoded(clip, rotation=(degrees, mirrored)), FrameSampling(count=1)).frames[0].image
    expected = np.rot90(plain, degrees // 90)
    assert (turned == (expected[:, ::-1] if mirrored else expected)).all()
    assert turned.flags.c_contiguous


PATCHES = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 150, 120),
)


def _patches(size: int = 16) -> np.ndarray:
    row = np.repeat(np.array(PATCHES, dtype=np.uint8), size, axis=0)
    return np.broadcast_to(row, (2, 32, *row.shape)).copy()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("full_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 9], ids=["bt709", "bt601", "bt2020"])
def test_colours_follow_the_declared_matrix_and_range(matrix: int, full_range: int, pix_fmt: str) -> None:
    data = encoded(_patches(), pix_fmt=pix_fmt, colour=(matrix, full_range), options={"crf": "1"})
    image = decode(data, FrameSampling(count=1)).frames[0].image
    for number, colour in enumerate(PATCHES):
        found = image[4:-4, number * 16 + 4 : number * 16 + 12].reshape(-1, 3).mean(axis=0)
        assert found == pytest.approx(colour, abs=3)


def test_pc_levels_by_the_old_pixel_format() -> None:
    data = encoded(_patches(), "matroska", "mjpeg", pix_fmt="yuvj420p", options={"q": "1"})
    image = decode(data, FrameSampling(count=1)).frames[0].image.astype(float)
    for number, level in ((3, 255), (4, 0), (5, 128)):
        assert image[16, number * 16 + 8] == pytest.approx([level] * 3, abs=3)


@pytest.mark.parametrize("size", [(48, 64), (45, 61)], ids=["even", "odd"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_conversion_has_no_bias(pix_fmt: str, size: tuple[int, int]) -> None:
    if size[0] % 2 and pix_fmt != "yuv444p":
        pix_fmt, codec = "yuv420p", "ffv1"  # the encoders that take odd sizes
    else:
        codec = "libx264"
    grey = np.repeat(small_clip(2, size)[..., :1], 3, axis=-1)
    options = {} if codec == "ffv1" else {"crf": "1"}
    data = encoded(grey, "matroska", codec, pix_fmt=pix_fmt, options=options)
    image = decode(data, FrameSampling(count=1)).frames[0].image
    assert abs(float(image.astype(float).mean() - grey[1].astype(float).mean())) < 0.6


def test_variable_frame_rate_is_sampled_by_time() -> None:
    times = [*range(20), 100, 200, 201, 202]
    video = decode(encoded(small_clip(), times=times), FrameSampling(count=4))
    assert [frame.index for frame in video.frames] == [19, 20, 21, 22]
    assert [frame.timestamp for frame in video.frames] == pytest.approx(
        [19 / 24, 100 / 24, 200 / 24, 201 / 24]
    )
    every = decode(encoded(small_clip(), times=times), FrameSampling(every_seconds=2))
    # the frame of 0.79 s is on screen at 2 s and at 4 s, that of 4.17 s at 6 s and at 8 s
    assert [frame.index for frame in every.frames] == [0, 19, 20]


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska"])
def test_time_starts_at_the_first_frame(container: str) -> None:
    data = encoded(small_clip(), container, times=range(1000, 1024))
    video = decode(data, FrameSampling(count=2))
    assert [frame.index for frame in video.frames] == [6, 18]
    assert [frame.timestamp for frame in video.frames] == pytest.approx([0.25, 0.75], abs=0.002)
    assert video.duration == pytest.approx(1.0, abs=0.01)
    assert video.damage == ""


@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_what_an_edit_list_cuts_off_does_not_show(b_frames: str) -> None:
    data = bytearray(encoded(small_clip(), gop=250, options={"bf": b_frames}))
    whole = decoded_in_full(bytes(data))
    # media time in the first and only edit: version, flags, count, duration, media time
    where = data.index(b"elst") + 4 + 4 + 4 + 4
    per_frame = 512
    start = struct.unpack(">i", data[where : where + 4])[0] + 10 * per_frame
    data[where : where + 4] = struct.pack(">i", start)
    video = decode(bytes(data), FrameSampling(count=99))
    assert video.num_frames == len(video.frames) == 14
    assert video.damage == ""
    for frame in video.frames:
        assert (frame.image == whole[frame.index + 10]).all()


def test_the_largest_stream_is_taken_whatever_the_order() -> None:
    small, large = small_clip(6, (32, 32)), small_clip(6)
    for clips in ((small, large), (large, small)):
        file = io.BytesIO()
        with av.open(file, "w", format="mpegts") as output:  # which marks none as the default
            for clip in clips:
                add_stream(output, clip)
            mux(output, clips)
        video = decode(file.getvalue(), FrameSampling(count=2))
        assert {frame.image.shape for frame in video.frames} == {(48, 64, 3)}
        assert video.num_frames == 6


def test_the_default_stream_goes_before_the_largest() -> None:
    small, large = small_clip(6, (32, 32)), small_clip(6)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        add_stream(output, large)
        add_stream(output, small)
        output.streams.video[0].disposition = Disposition(0)
        output.streams.video[1].disposition = Disposition.default
        mux(output, (large, small))
    video = decode(file.getvalue(), FrameSampling(count=2))
    assert {frame.image.shape for frame in video.frames} == {(32, 32, 3)}


def _with_cover(clip: np.ndarray | None) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        if clip is not None:
            add_stream(output, clip)
        cover = output.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 256, 256, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(astronaut()[:256, :256]), format="rgb24")
        picture.pts = 0
        packets = cover.encode(picture) + cover.encode(None)
        if clip is not None:
            mux_one = output.streams.video[0]
            for number, image in enumerate(clip):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts = number
                output.mux(mux_one.encode(frame))
            output.mux(mux_one.encode(None))
        output.mux(packets)
    return file.getvalue()


def test_a_cover_picture_is_no_video() -> None:
    video = decode(_with_cover(small_clip(6)), FrameSampling(count=2))
    assert {frame.image.shape for frame in video.frames} == {(48, 64, 3)}
    with pytest.raises(MediaError, match="expected a video stream, got only a cover picture"):
        decode(_with_cover(None), FrameSampling(count=2))


def test_sound_alone_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(MediaError, match="expected a video stream, got none"):
        decode(file.getvalue(), FrameSampling(count=2))


def test_a_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """Behind the video stands a long atom that no reader needs."""
    path = tmp_path / "long.mp4"
    with path.open("wb") as stream:
        stream.write(encoded(small_clip()))
        stream.write(struct.pack(">I4s", 1, b"free") + struct.pack(">Q", 2**33))
        stream.truncate(2**33)
    video = decode(path, FrameSampling(count=3), MediaLimits(max_bytes=2**34))
    assert [frame.index for frame in video.frames] == [4, 12, 20]
