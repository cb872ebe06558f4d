from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dfcore.errors import InvalidInput, MediaError
from dfcore.preprocessing import MediaLimits, decode_image, jpeg_roundtrip
from tests.preprocessing.clips import astronaut


def _bytes(image: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_png_is_exact_and_exif_turns_upright() -> None:
    image = astronaut()[:40, :60]
    assert (decode_image(_bytes(image, "PNG")) == image).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert (decode_image(_bytes(image, "PNG", exif=exif)) == image[::-1, ::-1]).all()


def test_grey_and_alpha_become_rgb() -> None:
    grey = astronaut()[:40, :60, 0]
    assert decode_image(_bytes(grey, "PNG")).shape == (40, 60, 3)
    assert decode_image(_bytes(np.dstack((astronaut()[:40, :60], grey)), "PNG")).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "got 0 bytes"),
        (b"text", r"got text \('text', 4 bytes\)"),
        (b"GIF89a" + bytes(50), "got a GIF"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(50), r"got a video \(mov"),
        (bytes(50), "got zeros"),
    ],
)
def test_other_bytes_are_refused_and_described(data: bytes, got: str) -> None:
    known = r"\(AVIF, BMP, JPEG, PNG, WEBP\)"
    with pytest.raises(MediaError, match=rf"expected an image {known}, {got}") as caught:
        decode_image(data)
    assert "BytesIO" not in str(caught.value)


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    grey = astronaut()[:40, :60, 1]
    wide = _bytes(grey.astype(np.uint16) * 257, "PNG")
    assert (decode_image(wide) == grey[..., None]).all()


def test_avif_is_read() -> None:
    picture = astronaut()[:64, :64]
    data = _bytes(picture, "AVIF")
    assert np.abs(decode_image(data).astype(int) - picture).mean() < 8
    broken = data.replace(b"meta", b"meat").replace(b"ipma", b"ipmo")
    for cut in (data[: len(data) // 2], broken):
        with pytest.raises(MediaError, match="expected an image"):
            decode_image(cut)


def test_cut_off_images_and_limits_are_refused() -> None:
    data = _bytes(astronaut(), "JPEG")
    with pytest.raises(
        MediaError, match=r"expected an image that decodes, got a JPEG image .* damaged"
    ) as caught:
        decode_image(data[: len(data) // 2])
    assert "BytesIO" not in str(caught.value)
    with pytest.raises(MediaError, match="max_bytes"):
        decode_image(data, MediaLimits(max_bytes=10))
    with pytest.raises(MediaError, match="max_pixels"):
        decode_image(data, MediaLimits(max_pixels=10))


def test_jpeg_loses_more_at_lower_quality() -> None:
    images = np.stack([astronaut()[:64, 200:264], astronaut()[64:128, 200:264]])
    high, low = (np.abs(jpeg_roundtrip(images, q).astype(int) - images).mean() for q in (95, 20))
    assert 0 < high < low
    with pytest.raises(InvalidInput, match="quality"):
        jpeg_roundtrip(images, 0)
