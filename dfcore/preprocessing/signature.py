"""What bytes are, by how they begin: never by a file's name."""

from __future__ import annotations

__all__ = ["HEADER_BYTES", "demuxer", "describe_bytes", "is_video"]

HEADER_BYTES = 512

_MOV_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_STILL_BRANDS = (b"avif", b"heic", b"heix", b"mif1")
_TS_SYNC = 0x47
_TS_PACKETS = ((0, 188), (4, 192))  # (first sync byte, packet size): broadcast, camcorder
_SHOWN_CHARACTERS = 24
_SHOWN_BYTES = 8
# what is met in place of an image or a video
_KNOWN = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"OggS", "an Ogg file"),
    (b"\x30\x26\xb2\x75", "a Windows Media file"),
    (b"\x00\x00\x01\xba", "an MPEG program stream"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
)


def demuxer(header: bytes) -> str | None:
    """Name FFmpeg's demuxer by magic bytes; playlists, which could open other files, have none."""
    if header[4:8] in _MOV_ATOMS:
        return "mov"
    if header.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if header.startswith(b"RIFF") and header[8:12] == b"AVI ":
        return "avi"
    if header.startswith(b"FLV\x01"):
        return "flv"
    for first, size in _TS_PACKETS:
        if len(header) > first + size and header[first] == header[first + size] == _TS_SYNC:
            return "mpegts"
    return None


def is_video(data: bytes) -> bool:
    """Say by magic bytes whether this is a video container (MP4/MOV, Matroska/WebM, AVI, FLV, MPEG-TS).

    HEIC and AVIF stills share MP4's container and are told apart by their brand.
    """
    return demuxer(data[:HEADER_BYTES]) is not None and not _is_still(data)


def _is_still(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _STILL_BRANDS


def describe_bytes(header: bytes, size: int) -> str:
    """Say what a file looks like, for a message.

    Args:
        header: how it begins; 512 bytes are enough.
        size: how many bytes it has in all.

    >>> describe_bytes(b"", 0), describe_bytes(b"Not Found, sorry", 16)
    ('0 bytes', "text ('Not Found, sorry', 16 bytes)")
    """
    if not size:
        return "0 bytes"
    header = header[:HEADER_BYTES]
    if not any(header):
        return f"zeros ({size} bytes), as an unfinished download leaves them"
    if _is_still(header):
        return f"a HEIC or AVIF image ({size} bytes)"
    if is_video(header):
        return f"a video ({demuxer(header)}, {size} bytes)"
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return f"a WebP image ({size} bytes)"
    for magic, name in _KNOWN:
        if header.startswith(magic):
            return f"{name} ({size} bytes)"
    text = _text(header)
    if text is not None:
        return (
            f"text ({text[:_SHOWN_CHARACTERS]!r}{'…' if len(text) > _SHOWN_CHARACTERS else ''}, {size} bytes)"
        )
    return f"bytes of no known kind ({header[:_SHOWN_BYTES].hex(' ')}…, {size} bytes)"


def _text(header: bytes) -> str | None:
    # a character may be cut in two at the end of the header
    text = header.decode("utf-8", errors="ignore" if len(header) == HEADER_BYTES else "replace")
    whole = "\ufffd" not in text and len(text.encode()) >= len(header) - 3
    return text if whole and all(c.isprintable() or c.isspace() for c in text) else None
