"""A picture of a store: faces of any slice, each with what the index says of it; people look at data."""

from __future__ import annotations

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dfcore.data.manifest import FAKE
from dfcore.data.store import CropStore
from dfcore.errors import DataError

__all__ = ["contact_sheet"]

_SLICE = ("label", "method", "compression", "split")
_TILE, _GAP, _CAPTION, _TITLE = 144, 8, 34, 34
_COLUMNS = 10
_BACKGROUND, _TEXT, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
# Told apart without red and green: blue and orange.
_COLOURS = {"real": (31, 119, 180), "fake": (214, 108, 10)}
_MOST = 400


def contact_sheet(store: CropStore, rows: NDArray[np.int64], *, count: int = 60, title: str = "") -> bytes:
    """Draw crops with label, method, compression and split.

    Args:
        store: where the crops are.
        rows: which crops may be shown, from `CropStore.rows`.
        count: how many at most: as many of each slice (label, method, compression, split) as there are while
            they last, and different videos before a second crop of one.
        title: above the picture; the number of crops is added.

    Returns:
        A PNG file.

    Raises:
        DataError: a count that is no number of crops to look at.
    """
    if not 1 <= count <= _MOST:
        raise DataError(f"expected a count of 1 to {_MOST} crops, got {count}; look at a smaller slice")
    chosen = _balanced(store, rows, count)
    facts = store.index.take(chosen).select([*_SLICE, "sample_id", "frame_index"]).to_pylist()
    images = store.read(chosen).images
    columns = min(_COLUMNS, max(4, math.ceil(math.sqrt(len(chosen) * 1.6))))
    lines = math.ceil(len(chosen) / columns)
    width = _GAP + columns * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, _TITLE + lines * (_TILE + _CAPTION + _GAP) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    heading = f"{title + ': ' if title else ''}{len(chosen)} of {len(rows)} crops"
    draw.text((_GAP, _GAP), _fit(heading, 15, width - 2 * _GAP), _TEXT, _font(15))
    for place, (fact, image) in enumerate(zip(facts, images, strict=True)):
        left = _GAP + place % columns * (_TILE + _GAP)
        top = _TITLE + place // columns * (_TILE + _CAPTION + _GAP)
        _draw_tile(sheet, (left, top), image, fact)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()


def _draw_tile(
    sheet: Image.Image, place: tuple[int, int], image: NDArray[np.uint8], fact: dict[str, Any]
) -> None:
    left, top = place
    draw = ImageDraw.Draw(sheet)
    # nearest where it grows: what is looked for are pixels, not their interpolation
    method = Image.Resampling.LANCZOS if image.shape[0] > _TILE else Image.Resampling.NEAREST
    sheet.paste(Image.fromarray(image).resize((_TILE, _TILE), method), place)
    label = "fake" if fact["label"] == FAKE else "real"
    draw.rectangle((left, top + _TILE, left + _TILE - 1, top + _TILE + 3), _COLOURS[label])
    first = _fit(f"{label}  {fact['method']}", 12, _TILE)
    draw.text((left, top + _TILE + 5), first, _COLOURS[label], _font(12))
    stem = fact["sample_id"].rpartition("/")[2]
    second = _fit(f"{fact['split']}  {fact['compression']}  {stem}", 11, _TILE)
    draw.text((left, top + _TILE + 19), second, _FAINT, _font(11))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fit(text: str, size: int, width: int) -> str:
    """Shorten a line until it fits."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _balanced(store: CropStore, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Take from each slice in turn; like beside like."""
    slices: dict[tuple[Any, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    columns = store.index.select([*_SLICE, "sample_id"]).take(rows).to_pydict()
    for row, sample, *key in zip(
        rows.tolist(), columns["sample_id"], *(columns[name] for name in _SLICE), strict=True
    ):
        slices[tuple(key)][sample].append(row)
    order = sorted(slices)
    turns = zip_longest(*(_videos_first(slices[key]) for key in order))
    taken = [(place, row) for turn in turns for place, row in enumerate(turn) if row is not None][:count]
    return np.array([row for _, row in sorted(taken)], dtype=np.int64)


def _videos_first(videos: dict[str, list[int]]) -> Iterator[int]:
    """Yield the middle crop of each video, then the crops next to it, in an order that any store shares."""
    names = sorted(videos, key=lambda name: hashlib.sha256(name.encode()).digest())
    by_distance = [_from_middle(videos[name]) for name in names]
    for turn in zip_longest(*by_distance):
        yield from (row for row in turn if row is not None)


def _from_middle(rows: list[int]) -> list[int]:
    middle = len(rows) // 2
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: abs(place - middle))]
