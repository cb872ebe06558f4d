"""Explanations for people: matplotlib figures, and the PNG or SVG bytes that a report or an answer carries.

Figures are made without pyplot, so that nothing is global and any thread may draw.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from dfcore.errors import ShapeError
from dfcore.explain.cam_metrics import compare_cams
from dfcore.explain.frequency import DeltaSpectrum, FrequencySensitivity
from dfcore.explain.regions import REGIONS, face_regions

__all__ = [
    "CamPair",
    "cam_grid",
    "cam_overlay",
    "delta_curves",
    "figure_png",
    "figure_svg",
    "overlay_png",
    "region_bars",
    "region_picture",
    "sensitivity_curves",
]

Pixels = NDArray[np.float32]
Energies = Mapping[str, NDArray[np.float64]]
# colour-blind safe, as in the report's other figures: models in their order
_COLOURS = ("#b3401f", "#1f5fa8", "#2f7d4f", "#7a4fa3")
_MARKERS = ("o", "s", "^", "D")
_INK, _FAINT, _GRID = "#1c2430", "#8a93a0", "#e4e7eb"
# told apart beside each other: no two neighbours on a face share a hue
_REGION_COLOURS = dict(
    zip(
        REGIONS,
        ("#5b6470", "#d95f02", "#e6ab02", "#0b5cd6", "#7a3fb0", "#e7298a", "#8fc31f", "#00b3a4"),
        strict=True,
    )
)


@dataclass(frozen=True, eq=False)
class CamPair:
    """One face as one detector sees it, clean and attacked.

    Attributes:
        clean, attacked: (H, W, 3) float32 in [0, 1].
        clean_cam, attacked_cam: (H, W) float32 in [0, 1].
        clean_score, attacked_score: P(fake).
        threshold: from which the detector says fake.
    """

    clean: Pixels
    attacked: Pixels
    clean_cam: Pixels
    attacked_cam: Pixels
    clean_score: float
    attacked_score: float
    threshold: float


def cam_overlay(pixels: Pixels, cam: Pixels) -> Pixels:
    """Return a face with its CAM laid over it.

    Args:
        pixels: (H, W, 3) float32 in [0, 1].
        cam: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 1]: the brighter and the more opaque, the more the CAM speaks.

    Raises:
        ShapeError: pixels and CAM of different sizes.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or cam.shape != pixels.shape[:2]:
        raise ShapeError(f"expected pixels (H, W, 3) and a CAM (H, W), got {pixels.shape} and {cam.shape}")
    heat = mpl.colormaps["inferno"](cam)[..., :3]
    share = (0.25 + 0.45 * cam)[..., None]
    return np.asarray(np.clip((1 - share) * pixels + share * heat, 0, 1), dtype=np.float32)


def overlay_png(pixels: Pixels, cam: Pixels) -> bytes:
    """Return `cam_overlay` as a PNG file, pixel for pixel."""
    stream = io.BytesIO()
    levels = (cam_overlay(pixels, cam) * 255).round().astype(np.uint8)
    Image.fromarray(levels).save(stream, format="PNG")
    return stream.getvalue()


def cam_grid(faces: Sequence[Mapping[str, CamPair]]) -> Figure:
    """Draw CAMs, a row for each face and two columns for each detector: clean and attacked.

    Above each face stand its score and label; beneath each attacked one, how far its CAM moved.

    Args:
        faces: for each face the detectors by name, the same ones in the same order.

    Raises:
        ShapeError: no face, or faces of different detectors.
    """
    names = list(faces[0]) if faces else []
    if not names or any(list(face) != names for face in faces):
        raise ShapeError(f"expected faces of the same detectors, got {[list(face) for face in faces]}")
    figure = Figure(figsize=(3.9 * len(names), 2.55 * len(faces) + 0.35), layout="constrained")
    parts = figure.subfigures(1, len(names), wspace=0.03, squeeze=False)[0]
    for column, part in enumerate(parts):
        name = names[column]
        part.suptitle(name, color=_COLOURS[column % 4], fontsize=11, fontweight="bold")
        axes = part.subplots(len(faces), 2, squeeze=False)
        for row, face in zip(axes, faces, strict=True):
            _draw_pair(row, face[name])
    return figure


def _draw_pair(axes: Any, pair: CamPair) -> None:
    shown = (
        ("clean", pair.clean, pair.clean_cam, pair.clean_score),
        ("attacked", pair.attacked, pair.attacked_cam, pair.attacked_score),
    )
    for place, (state, pixels, cam, score) in zip(axes, shown, strict=True):
        place.imshow(cam_overlay(pixels, cam), interpolation="nearest")
        label = "fake" if score >= pair.threshold else "real"
        if not cam.any():
            place.text(
                0.5, 0.03, "nothing speaks for fake", transform=place.transAxes, ha="center", fontsize=8,
                color="white", bbox={"facecolor": _INK, "edgecolor": "none", "alpha": 0.75, "pad": 2},
            )  # fmt: skip
        place.set_title(f"{state}: {score:.2f} {label}", fontsize=9, color=_INK, pad=3)
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    moved = compare_cams(pair.clean_cam[None], pair.attacked_cam[None]).means()
    axes[1].set_xlabel(
        f"IINC {moved['iinc']:.2f}   SSIM {moved['ssim']:.2f}\n"
        f"cosine {moved['cosine']:.2f}   top IoU {moved['top_iou']:.2f}",
        fontsize=8, color=_INK, labelpad=3,
    )  # fmt: skip


def region_picture(
    pixels: Pixels, landmarks: NDArray[np.floating], energies: Mapping[str, float] | None = None
) -> Figure:
    """Draw the parts of one face in colour, with its landmarks.

    Args:
        pixels: (H, W, 3) float32 in [0, 1].
        landmarks: (5, 2) in pixels.
        energies: a CAM's share in each part, by name; written in the legend.
    """
    labels = face_regions(landmarks[None], pixels.shape[:2])[0]
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    tint = np.zeros((*labels.shape, 4), dtype=np.float32)
    for place, name in enumerate(REGIONS):
        here = labels == place
        tint[here, :3] = mpl.colors.to_rgb(_REGION_COLOURS[name])
        tint[here, 3] = 0.3 if name == "background" else 0.45
    axes.imshow(pixels, interpolation="nearest")
    axes.imshow(tint, interpolation="nearest")
    axes.plot(*landmarks.T, "+", color="white", markersize=9, markeredgewidth=1.6)
    axes.set_axis_off()
    share = {} if energies is None else {name: f"  {energies[name]:.0%}" for name in REGIONS}
    entries = [Patch(color=_REGION_COLOURS[name], label=name + share.get(name, "")) for name in REGIONS]
    figure.legend(handles=entries, loc="outside right center", frameon=False, labelcolor=_INK)
    return figure


def region_bars(energies: Mapping[str, Energies], areas: Energies) -> Figure:
    """Draw how much of the CAMs lies in each part of the face, a bar for each detector or state.

    Args:
        energies: by detector ("baseline", "robust") or state ("clean", "attacked"): the shares (N,) by part,
            as `explain` gives them. Bars are means over the
            images that have a share, n of them.
        areas: the parts' shares of the image (N,); their means are drawn as marks: a CAM that looks
            everywhere alike would end there.
    """
    figure = Figure(figsize=(5.2, 0.9 + 0.17 * len(REGIONS) * (len(energies) + 1)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(energies))
    middle = np.arange(len(REGIONS))
    for place, (name, shares) in enumerate(energies.items()):
        offset = (place + 0.5) * height - 0.4
        values = [_mean(shares[region]) for region in REGIONS]
        known = int((~np.isnan(shares[REGIONS[0]])).sum())
        label = f"{name}, n = {known}"
        axes.barh(middle + offset, values, height=height * 0.9, color=_COLOURS[place % 4], label=label)
    chance = [_mean(areas[region]) for region in REGIONS]
    axes.vlines(chance, middle - 0.44, middle + 0.44, color=_INK, linewidth=1.6, label="share of the area")
    axes.set_yticks(middle, REGIONS)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the CAM", color=_INK)
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    _style(axes, grid="x")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=_INK)
    return figure


def sensitivity_curves(curves: Mapping[str, FrequencySensitivity]) -> Figure:
    """Draw how much the logit moves for a perturbation of one size in each frequency band.

    A line is the median over the images, with the middle half of them shaded; dotted is what the gradient
    alone predicts.

    Args:
        curves: by detector, measured with perturbations of one size.
    """
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        middle, colour = _middles(curve.edges), _COLOURS[place % 4]
        held = curve.modes > 0
        low, median, high = np.quantile(curve.response[:, held], (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(middle[held], low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            middle[held],
            median,
            label=name,
            color=colour,
            marker=_MARKERS[place % 4],
            markersize=4,
            linewidth=1.8,
        )
        linear = np.median(curve.expected[:, held], axis=0)
        axes.plot(middle[held], linear, color=colour, linestyle=":", linewidth=1.4)
    axes.plot([], [], color=_FAINT, linestyle=":", linewidth=1.4, label="by the gradient alone")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("change of the logit (RMS)", color=_INK)
    _frequency_axis(axes)
    return figure


def delta_curves(spectra: Mapping[str, DeltaSpectrum]) -> Figure:
    """Draw what frequencies attackers write: the radially averaged power spectrum of their perturbations.

    A line is the geometric mean over the images; 1 is white noise.

    Args:
        spectra: by attacker.
    """
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.subplots()
    for place, (name, spectrum) in enumerate(spectra.items()):
        known = spectrum.density[~np.isnan(spectrum.share).any(axis=1)]
        held = ~np.isnan(known).any(axis=0)
        tiny = np.finfo(np.float32).tiny
        mean = np.exp(np.log(np.maximum(known[:, held], tiny)).mean(axis=0)) if len(known) else []
        axes.plot(
            _middles(spectrum.edges)[held] if len(known) else [], mean, label=name, color=_COLOURS[place % 4],
            marker=_MARKERS[place % 4], markersize=4, linewidth=1.8,
        )  # fmt: skip
    axes.axhline(1.0, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_ylabel("power, white noise = 1", color=_INK)
    _frequency_axis(axes)
    return figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a PNG file; the same figure gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def figure_svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element for a page; the same figure gives the same text."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "rampart", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _frequency_axis(axes: Any) -> None:
    axes.axvline(0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, np.sqrt(0.5))
    axes.set_xlabel("radial frequency, cycles a pixel", color=_INK)
    _style(axes, grid="y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=_INK)


def _style(axes: Any, grid: str) -> None:
    axes.grid(visible=True, axis=grid, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _middles(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((edges[1:] + edges[:-1]) / 2, dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
