"""Pictures: files that open, the same bytes each time, and what stands in them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dfcore.errors import ShapeError
from dfcore.explain import (
    REGIONS,
    CamPair,
    DeltaSpectrum,
    FrequencySensitivity,
    cam_grid,
    cam_overlay,
    compare_cams,
    delta_curves,
    figure_png,
    figure_svg,
    overlay_png,
    region_bars,
    region_picture,
    sensitivity_curves,
)

SIDE = 48


def _pixels(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((SIDE, SIDE, 3), dtype=np.float32)


def _cam(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((SIDE, SIDE), dtype=np.float32)


def _pair(seed: int = 0) -> CamPair:
    return CamPair(_pixels(), _pixels(1), _cam(seed), _cam(seed + 1), 0.93, 0.12, 0.5)


def _curve(seed: int, bands: int = 8) -> FrequencySensitivity:
    random = np.random.default_rng(seed)
    modes = np.arange(bands)  # the first band holds no frequency
    response = np.where(modes > 0, random.random((3, bands)), np.nan)
    edges = np.linspace(0, np.sqrt(0.5), bands + 1)
    return FrequencySensitivity(edges, modes, response, random.random((3, bands)), 1.0)


def _spectrum(seed: int, bands: int = 8) -> DeltaSpectrum:
    share = np.random.default_rng(seed).dirichlet(np.ones(bands), size=3)
    share[2] = np.nan
    return DeltaSpectrum(np.linspace(0, np.sqrt(0.5), bands + 1), share, share * bands)


def _texts(figure: object) -> str:
    return figure_svg(figure)  # type: ignore[arg-type]


def test_overlay_lights_what_the_cam_shows() -> None:
    pixels, cam = np.full((SIDE, SIDE, 3), 0.2, np.float32), np.zeros((SIDE, SIDE), np.float32)
    cam[10, 10] = 1
    shown = cam_overlay(pixels, cam)
    assert shown.shape == pixels.shape
    assert shown.dtype == np.float32
    assert shown[10, 10].mean() > shown[0, 0].mean() + 0.2
    read = np.asarray(Image.open(io.BytesIO(overlay_png(pixels, cam))))
    np.testing.assert_array_equal(read, (shown * 255).round().astype(np.uint8))


def test_overlay_refuses_another_size() -> None:
    with pytest.raises(ShapeError, match=r"pixels \(H, W, 3\) and a CAM \(H, W\)"):
        cam_overlay(_pixels(), _cam()[:-1])


def test_cam_grid_names_detectors_scores_and_distances() -> None:
    text = _texts(
        cam_grid([{"baseline": _pair(), "robust": _pair(5)}, {"baseline": _pair(2), "robust": _pair(3)}])
    )
    for part in ("baseline", "robust", "clean: 0.93 fake", "attacked: 0.12 real"):
        assert part in text
    first = compare_cams(_cam(0)[None], _cam(1)[None]).means()
    assert f"IINC {first['iinc']:.2f}" in text
    assert f"top IoU {first['top_iou']:.2f}" in text


def test_cam_grid_says_where_a_cam_is_empty() -> None:
    dark = dataclasses.replace(_pair(), attacked_cam=np.zeros((SIDE, SIDE), np.float32))
    assert _texts(cam_grid([{"baseline": dark}])).count("nothing speaks for fake") == 1
    assert "nothing speaks" not in _texts(cam_grid([{"baseline": _pair()}]))


def test_cam_grid_refuses_faces_of_different_detectors() -> None:
    for faces in ([], [{"a": _pair()}, {"b": _pair()}]):
        with pytest.raises(ShapeError, match="faces of the same detectors"):
            cam_grid(faces)


def test_region_picture_names_parts_and_shares() -> None:
    face = np.array([[14.4, 19.4], [27.6, 19.3], [21, 26.9], [15.6, 34.6], [26.5, 34.6]])
    text = _texts(region_picture(_pixels(), face, dict.fromkeys(REGIONS, 0.125)))
    assert all(f"{name}  12%" in text for name in REGIONS)
    assert "%" not in _texts(region_picture(_pixels(), face)).partition("</style>")[2].replace("100%", "")


def test_region_bars_leave_out_what_is_not_known() -> None:
    shares = {name: np.array([0.125, np.nan]) for name in REGIONS}
    figure = region_bars({"baseline": shares, "robust": shares}, shares)
    (axes,) = figure.axes
    assert "baseline, n = 1" in figure_svg(figure)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.125] * 2 * len(REGIONS))
    nothing = {name: np.array([np.nan]) for name in REGIONS}
    assert figure_png(region_bars({"baseline": nothing}, nothing))


def test_curves_show_the_middle_of_the_images() -> None:
    curve = _curve(0)
    (axes,) = sensitivity_curves({"baseline": curve, "robust": _curve(1)}).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(curve.response[:, 1:], axis=0))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "baseline", "robust", "by the gradient alone"
    ]  # fmt: skip


def test_spectra_leave_out_images_without_a_perturbation() -> None:
    spectrum = _spectrum(0)
    (axes,) = delta_curves({"pgd": spectrum, "unet": _spectrum(1)}).axes
    expected = np.exp(np.log(spectrum.density[:2]).mean(0))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    nothing = DeltaSpectrum(spectrum.edges, spectrum.share[2:], spectrum.density[2:])
    assert figure_png(delta_curves({"none": nothing}))


def test_the_same_figure_gives_the_same_bytes() -> None:
    def draw() -> tuple[bytes, str]:
        figure = cam_grid([{"baseline": _pair()}])
        return figure_png(figure), figure_svg(figure)

    (png, svg), (again, svg_again) = draw(), draw()
    assert png == again
    assert svg == svg_again
    assert svg.startswith("<svg")
    assert Image.open(io.BytesIO(png)).format == "PNG"
