"""Figures of the report, as text that goes into the page: SVG curves and PNG data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dfcore.evaluation.evidence import Evidence, Interval

__all__ = ["amplified_png", "cam_png", "face_png", "robustness_svg"]

# colour-blind safe, in the order of the models
_COLOURS = ("#b3401f", "#1f5fa8", "#2f7d4f", "#7a4fa3")
_MARKERS = ("o", "s", "^", "D")
_INK = "#1c2430"
Pixels = NDArray[np.float32]


def robustness_svg(evidences: Mapping[str, Evidence], corpus: str, metric: str, label: str) -> str:
    """Draw a metric over epsilon with its intervals, a line for each model; epsilon 0 is the clean figure."""
    figure = Figure(figsize=(5.0, 3.1), layout="constrained")
    axes = figure.subplots()
    for place, (name, evidence) in enumerate(evidences.items()):
        points = _curve(evidence, corpus, metric)
        if not points:
            continue
        levels = [level for level, _ in points]
        values = np.array([interval.value for _, interval in points])
        # a percentile interval need not contain the figure; a bar can't be negative
        below = np.maximum(0, values - [interval.low for _, interval in points])
        above = np.maximum(0, [interval.high for _, interval in points] - values)
        colour, marker = _COLOURS[place % 4], _MARKERS[place % 4]
        axes.errorbar(
            levels, values, yerr=np.stack([below, above]), label=name, color=colour, marker=marker,
            markersize=5, capsize=3, linewidth=1.8,
        )  # fmt: skip
        axes.set_xticks(sorted({*axes.get_xticks().tolist(), *levels} & set(levels)))
    if metric == "auc":
        axes.axhline(0.5, color="#8a93a0", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("epsilon, in 255ths (PGD)", color=_INK)
    axes.set_ylabel(label, color=_INK)
    axes.grid(visible=True, axis="y", color="#e4e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper right")
    return _svg(figure)


def _curve(evidence: Evidence, corpus: str, metric: str) -> list[tuple[float, Interval]]:
    points = []
    for result in evidence.results:
        model = result.threat_model
        searched = model.knowledge == "white-box" and (model.steps or 0) > 1
        if result.corpus != corpus or result.slice != "all" or result.role != "report":
            continue
        if metric in result.metrics and (searched or result.scenario == "clean"):
            points.append((round((model.epsilon or 0.0) * 255, 3), result.metrics[metric]))
    return sorted(points, key=lambda point: point[0])


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    # fixed salt and no date: the same evidence gives the same bytes; text stays text
    with mpl.rc_context({"svg.hashsalt": "rampart", "svg.fonttype": "none", "font.size": 10}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def face_png(pixels: Pixels) -> str:
    """Return (H, W, 3) pixels in [0, 1] as a data address, pixel for pixel."""
    stream = io.BytesIO()
    Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def amplified_png(clean: Pixels, attacked: Pixels, epsilon: float) -> str:
    """Return the perturbation, stretched so that +-epsilon becomes black and white around grey."""
    return face_png(np.asarray(0.5 + (attacked - clean) / (2 * max(epsilon, 1e-6)), dtype=np.float32))


def cam_png(pixels: Pixels, cam: Pixels) -> str:
    """Return the face with its CAM laid over it."""
    heat = mpl.colormaps["inferno"](cam)[..., :3].astype(np.float32)
    share = (0.25 + 0.45 * cam)[..., None]
    return face_png(np.asarray((1 - share) * pixels + share * heat, dtype=np.float32))
