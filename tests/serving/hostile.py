"""Files and bodies that somebody might send: odd but good ones, and bad ones with what they try."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from dfcore.preprocessing import encode_video

__all__ = ["bad_images", "bad_videos", "odd_images", "png_chunk", "unusual_bodies"]

_BOMBS = ("png bomb", "jpeg bomb", "webp bomb")
_MAGIC = b"\x89PNG\r\n\x1a\n"


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return _MAGIC + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def odd_images(pixels: np.ndarray) -> dict[str, bytes]:
    """Return good files of unusual kinds that show the same face."""
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    clear = image.convert("RGBA")
    clear.putalpha(200)
    return {
        "cmyk": _saved(image.convert("CMYK"), "JPEG", quality=95),
        "exif": _saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif),
        "alpha": _saved(clear, "PNG"),
        "palette": _saved(clear.quantize(200), "PNG"),
        "grey": _saved(image.convert("L"), "PNG"),
        "16 bit": _saved(Image.fromarray(pixels[..., 1].astype(np.uint16) * 257), "PNG"),
        "webp": _saved(image, "WEBP", quality=95),
        "avif": _saved(image, "AVIF", quality=90),
        "animated": _saved(image, "WEBP", save_all=True, append_images=[image] * 3, quality=95),
        "apng": _saved(image, "PNG", save_all=True, append_images=[image] * 2),
        "polyglot": _saved(image, "JPEG", quality=95) + b"PK\x03\x04<script>alert(1)</script>",
        "progressive": _saved(image, "JPEG", quality=95, progressive=True),
    }


def bad_images(pixels: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """Return files that are no image, or more than one wants, each with the reason of its refusal."""
    jpeg = _saved(Image.fromarray(pixels), "JPEG", quality=90)
    png = _saved(Image.fromarray(pixels), "PNG")
    webp = _saved(Image.fromarray(pixels), "WEBP", lossless=True)
    size = jpeg.index(b"\xff\xc0") + 5  # height and width in the frame header
    vp8l = webp.index(b"VP8L") + 9
    found = {
        "png bomb": _png(60_000, 60_000, png_chunk(b"IDAT", zlib.compress(bytes(100)))),
        "png of no size": _png(0, 0, png_chunk(b"IDAT", zlib.compress(b""))),
        "png text bomb": _png(
            8, 8, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))),
            png_chunk(b"IDAT", zlib.compress(bytes(8 * 25))),
        ),
        "jpeg bomb": jpeg[:size] + b"\xff\xdc\xff\xdc" + jpeg[size + 4 :],
        "webp bomb": webp[:vp8l] + b"\xff\xff\xff\x0f" + webp[vp8l + 4 :],
        "cut jpeg": jpeg[: len(jpeg) // 3],
        "cut png": png[: len(png) // 3],
        "cut webp": webp[: len(webp) // 3],
        "only magic": b"\xff\xd8\xff",
        "gif": _saved(Image.fromarray(pixels), "GIF"),
        "tiff": _saved(Image.fromarray(pixels), "TIFF"),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "zip": b"PK\x03\x04" + bytes(100),
        "zeros": bytes(5000),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n",
    }  # fmt: skip
    return {name: (data, "too_large" if name in _BOMBS else "media") for name, data in found.items()}


def bad_videos(clip: bytes) -> dict[str, tuple[bytes, str]]:
    """Return files that are no video, or more than one wants, each with the reason of its refusal.

    The limits are those of the test server: 1,000,000 pixels, 200 frames, 900 seconds.
    """
    clock = clip.index(b"mdhd") + 16  # units of time in a second
    plain = np.zeros((1, 1100, 1100, 3), np.uint8)
    many = np.zeros((260, 32, 32, 3), np.uint8)
    return {
        "huge frames": (bytes(encode_video(None, plain)), "too_large"),
        # without its edit list, which ends it after its nominal duration
        "endless": (
            (clip[:clock] + struct.pack(">I", 1) + clip[clock + 4 :]).replace(b"edts", b"free"),
            "too_large",
        ),
        "many frames": (bytes(encode_video(None, many)), "too_large"),
        "header alone": (clip[:48], "media"),
        "no samples": (clip[: clip.index(b"mdat")], "media"),
        "an image": (_saved(Image.fromarray(plain[0, :64, :64]), "JPEG"), "media"),
        "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n", "media"),
        "concatenation": (b"ffconcat version 1.0\nfile /etc/passwd\n", "media"),
        "zeros": (bytes(5000), "media"),
    }


def unusual_bodies() -> dict[str, bytes]:
    """Return V1 and V2 bodies that a parser could trip over."""
    tensor = '{"inputs": [{"name": "images", "shape": %s, "datatype": "UINT8", "data": %s}]}'
    return {
        "deep": b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "many": b'{"instances": [' + b"{}," * 9_999 + b"{}]}",
        "nan": b'{"instances": [{"crop": [[[NaN]]]}]}',
        "huge number": b'{"instances": [{"crop": ' + b"9" * 10_000 + b"}]}",
        "huge exponent": b'{"instances": [{"crop": [[[1e999]]]}]}',
        "long text among numbers": b'{"instances": [{"crop": ["'
        + b"a" * 200_000
        + b'"'
        + b",1" * 50_000
        + b"]}]}",
        "ragged": b'{"instances": [{"crop": [[1, 2], [3]]}]}',
        "true": b'{"instances": [{"crop": [[[true, false, true]]]}]}',
        "mixed": b'{"instances": [{"crop": [[[1,2,3]]]}, {"image": {"b64": "AAAA"}}]}',
        "surrogate": b'{"instances": [{"image": {"b64": "\\ud800"}}]}',
        "null byte": b'{"instances": [{"uri": "s3://a/\\u0000"}]}',
        "byte order": "\ufeff".encode() + b'{"instances": []}',
        "utf-16": '{"instances": []}'.encode("utf-16"),
        "twice": b'{"instances": [], "instances": [1]}',
        "huge shape": (tensor % ("[1, 99999999999999999999, 3]", "[1]")).encode(),
        "long shape": (tensor % ([1] * 1000, "[1]")).encode(),
        "shape of nothing": (tensor % ("[]", "[1]")).encode(),
        "float shape": (tensor % ("[1.5]", "[1]")).encode(),
        "texts": (tensor % ("[1, 2]", '["' + "a" * 100_000 + '", 1]')).encode(),
        "two inputs": b'{"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8", "data": [1]}, '
        b'{"name": "images", "shape": [1], "datatype": "UINT8", "data": [1]}]}',
        "same output twice": b'{"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8", '
        b'"data": [1]}], "outputs": [{"name": "score"}, {"name": "score"}]}',
        "size as text": b'{"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8", '
        b'"parameters": {"binary_data_size": "1"}}]}',
        "negative size": b'{"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8", '
        b'"parameters": {"binary_data_size": -1}}]}',
        "html": b"<!doctype html><title>hello</title>",
        "form": b"instances=1&b64=AAAA",
    }
