"""Figures of the report, as text that goes into the page: SVG charts and image data addresses.

The charts carry classes, no inline styles, so that the page's content security policy can forbid those.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from dfcore.explain import cam_overlay

__all__ = [
    "SERIES",
    "SHARES",
    "Axis",
    "Bar",
    "Line",
    "amplified_png",
    "bars_svg",
    "cam_jpeg",
    "chart_svg",
    "face_png",
    "key_svg",
]

SERIES = 6
"""How many looks the page's style has; models beyond repeat them in their order."""

Pixels = NDArray[np.float32]
_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 348, 12, 206
_NAMES, _END, _BAR, _GAP = 80, 336, 9, 9
_MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.6,-3.6H3.6V3.6H-3.6Z",
    "M0,-4.6L4.4,3.4H-4.4Z",
    "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
    "M0,4.6L4.4,-3.4H-4.4Z",
    "M-4.2,-1.5H-1.5V-4.2H1.5V-1.5H4.2V1.5H1.5V4.2H-1.5V1.5H-4.2Z",
)


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        series: place of its model, which decides colour and marker.
        points: (x, y) in order of x.
        bars: (low, high) of each point's interval; empty for none.
        dashed: for a second line of the same model.
        marked: whether its points have markers.
    """

    series: int
    points: Sequence[tuple[float, float]]
    bars: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    marked: bool = True


SHARES = (0, 0.25, 0.5, 0.75, 1)
"""Ticks of an axis for what lies in [0, 1]."""


@dataclass(frozen=True)
class Axis:
    """An axis from 0 to the last tick."""

    label: str
    ticks: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One bar: its model's place, which decides the colour, whether it is hollow, and its length."""

    series: int
    hollow: bool
    value: float


def chart_svg(
    title: str, lines: Sequence[Line], axis: Axis, up: Axis, *, guess: Literal["middle", "diagonal"] | None
) -> Markup:
    """Draw lines over [0, last tick] x [0, last tick].

    Args:
        title: what a screen reader says.
        lines: drawn in their order; lines at one x stand a little apart.
        axis: of x.
        up: of y.
        guess: draw guessing as the diagonal (ROC), as the middle, or not at all.
    """
    top = max(up.ticks)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(title)}</title>']
    for tick in up.ticks:
        y = _y(tick / top)
        parts.append(f'<path class="grid" d="M{_LEFT},{y}H{_RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:g}">{tick:g}</text>')
    end = max(axis.ticks) or 1
    parts += [
        f'<text class="tick mid" x="{_x(tick, end)}" y="{_BOTTOM + 17}">{tick:g}</text>'
        f'<path class="grid" d="M{_x(tick, end)},{_BOTTOM}v4"/>'
        for tick in axis.ticks
    ]
    if guess is not None:
        way = f"M{_LEFT},{_BOTTOM}L{_RIGHT},{_TOP}" if guess == "diagonal" else f"M{_LEFT},{_y(0.5)}H{_RIGHT}"
        parts.append(f'<path class="guess" d="{way}"/>')
    parts += [_draw(line, (end, top), _shift(place, lines)) for place, line in enumerate(lines)]
    parts.append(
        f'<text class="label mid" x="{(_LEFT + _RIGHT) / 2:g}" y="{_HEIGHT - 8}">{escape(axis.label)}</text>'
        f'<text class="label mid" transform="translate(14 {(_TOP + _BOTTOM) / 2:g}) rotate(-90)">'
        f"{escape(up.label)}</text></svg>"
    )
    return Markup("".join(parts))  # noqa: S704  # numbers, and titles that are escaped above


def _shift(place: int, lines: Sequence[Line]) -> float:
    """Return how far a line with intervals stands aside, so that bars at one x do not cover each other."""
    return 2.5 * (place - (len(lines) - 1) / 2) if len(lines) <= SERIES and lines[place].bars else 0.0


def bars_svg(title: str, rows: Sequence[tuple[str, float, Sequence[Bar]]], axis: Axis) -> Markup:
    """Draw bars in groups.

    Args:
        title: what a screen reader says.
        rows: of each group its name, a mark that its bars are read against, and the bars, top to bottom.
        axis: of the length.
    """
    end, y, parts = max(axis.ticks), float(_TOP), []
    for name, mark, bars in rows:
        middle = y + _BAR * len(bars) / 2
        parts.append(f'<text class="tick end" x="{_NAMES - 6}" y="{middle + 4:g}">{escape(name)}</text>')
        for place, bar in enumerate(bars):
            width, kind = _along(bar.value, end) - _NAMES, "hollow" if bar.hollow else "solid"
            parts.append(
                f'<rect class="{kind} s{bar.series % SERIES}" x="{_NAMES}" y="{y + _BAR * place + 1:g}" '
                f'width="{width:g}" height="{_BAR - 2}"/>'
            )
        parts.append(f'<path class="mark-line" d="M{_along(mark, end)},{y - 1:g}v{_BAR * len(bars) + 2}"/>')
        y += _BAR * len(bars) + _GAP
    ticks = [
        f'<path class="grid" d="M{_along(tick, end)},{_TOP}V{y:g}"/>'
        f'<text class="tick mid" x="{_along(tick, end)}" y="{y + 15:g}">{100 * tick:g} %</text>'
        for tick in axis.ticks
    ]
    label = f'<text class="label mid" x="{(_NAMES + _END) / 2:g}" y="{y + 34:g}">{escape(axis.label)}</text>'
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {y + 42:g}" role="img"><title>{escape(title)}</title>'
    return Markup("".join([head, *ticks, *parts, label, "</svg>"]))  # noqa: S704  # escaped above


def _along(value: float, end: float) -> float:
    return round(_NAMES + (_END - _NAMES) * min(1.0, value / end), 1)


def _draw(line: Line, ends: tuple[float, float], shift: float) -> str:
    end, top = ends
    places = [(round(_x(x, end) + shift, 1), _y(y / top)) for x, y in line.points]
    parts = [f'<g class="s{line.series % SERIES}">']
    for (x, _), (low, high) in zip(places, line.bars, strict=False):
        head, foot = _y(high / top), _y(low / top)
        parts.append(f'<path class="bar" d="M{x},{head}V{foot}M{x - 3:g},{head}h6M{x - 3:g},{foot}h6"/>')
    way = "L".join(f"{x:g},{y:g}" for x, y in places)
    parts.append(f'<path class="line{" dashed" if line.dashed else ""}" d="M{way}"/>')
    if line.marked:
        marker = _MARKERS[line.series % SERIES]
        parts += [f'<path class="dot" transform="translate({x:g} {y:g})" d="{marker}"/>' for x, y in places]
    return "".join([*parts, "</g>"])


def _x(value: float, end: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * value / end, 1)


def _y(value: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * min(1.0, max(0.0, value)), 1)


def key_svg(series: int, *, dashed: bool = False) -> Markup:
    """Draw a line's entry in a legend."""
    line = f'<path class="line{" dashed" if dashed else ""}" d="M0,6H30"/>'
    marker = f'<path class="dot" transform="translate(15 6)" d="{_MARKERS[series % SERIES]}"/>'
    text = f'<svg class="key s{series % SERIES}" viewBox="0 0 30 12" aria-hidden="true">{line}{marker}</svg>'
    return Markup(text)  # noqa: S704  # a number


def face_png(pixels: Pixels) -> str:
    """Return (H, W, 3) pixels in [0, 1] as a data address, pixel for pixel."""
    stream = io.BytesIO()
    _image(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def amplified_png(clean: Pixels, attacked: Pixels, epsilon: float) -> str:
    """Return the perturbation, stretched so that +-epsilon becomes black and white around grey."""
    return face_png(np.asarray(0.5 + (attacked - clean) / (2 * max(epsilon, 1e-6)), dtype=np.float32))


def cam_jpeg(pixels: Pixels, cam: Pixels) -> str:
    """Return the face with its CAM laid over it as a data address; a heat map need not be pixel for pixel."""
    stream = io.BytesIO()
    _image(cam_overlay(pixels, cam)).save(stream, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
