"""Parts of the face and frequencies: collected from the detectors, drawn by the report."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from dfcore.data import Crops
from dfcore.errors import ConfigError
from dfcore.evaluation import Evidence, Looks, collect_looks, evaluate, write_report
from dfcore.evaluation.figures import Axis, Bar, bars_svg
from dfcore.evaluation.report_looks import looks_parts, spectra
from dfcore.explain import REGIONS, band_shares
from dfcore.models import Detector
from tests.evaluation.conftest import ATTACKS, SIZE
from tests.evaluation.test_report import check_whole

_FACE = np.array([[8, 9], [16, 9], [12, 13.5], [8.7, 18], [15.3, 18]], dtype=np.float32)


@pytest.fixture(scope="module")
def faces(crops: Crops) -> Crops:
    return dataclasses.replace(crops, landmarks=np.tile(_FACE, (len(crops), 1, 1)))


@pytest.fixture(scope="module")
def looks(trained: Detector, faces: Crops) -> Looks:
    detectors = {"baseline": trained.eval(), "robust": trained.eval()}
    return collect_looks(detectors, faces, corpus="ffpp", count=6)


@pytest.fixture(scope="module")
def evidence(trained: Detector, crops: Crops, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    out = tmp_path_factory.mktemp("looks")
    return evaluate(trained.eval(), {"c": crops}, suite=ATTACKS[:5], name="tiny", out=out, training_groups=[])


def test_looks_are_means_over_the_same_faces(looks: Looks) -> None:
    assert looks.faces == 6
    assert set(looks.areas) == set(REGIONS)
    assert sum(looks.areas.values()) == pytest.approx(1)
    first, second = looks.models.values()
    assert first.clean == second.clean
    assert sum(first.clean.values()) == pytest.approx(1)
    assert set(first.moved) == {"iinc", "ssim", "cosine", "top_iou"}
    assert first.moved["ssim"] < 1
    assert len(first.response) == len(looks.edges) - 1
    # the trace that the detector was taught is the finest pattern that there is
    assert first.response[-1] == np.nanmax(first.response)


def test_the_report_draws_them(evidence: Evidence, looks: Looks, tmp_path: Path) -> None:
    page = write_report(
        tmp_path / "a.html", {"baseline": evidence, "robust": evidence}, looks=[looks]
    ).read_text()
    check_whole(page)
    assert page.count('<svg class="chart"') == 2  # parts of the face, sensitivity
    assert page.count('<rect class="solid s0"') == page.count('<rect class="hollow s1"') == len(REGIONS)
    assert page.count('class="mark-line"') == len(REGIONS)
    assert "<title>Sensitivity by frequency on ffpp</title>" in page
    for name in ("noise_8", "fgsm_2", "pgd_8"):
        assert f'<tr><th scope="row" rowspan="2">{name}</th><td class="name">' in page
    assert '<a href="#looks">' in page
    assert '<a href="#frequencies">' in page
    assert '<section id="faces">' not in page
    with pytest.raises(ConfigError, match=r"every model \['baseline', 'robust'\], got \['m'\]"):
        write_report(tmp_path / "b.html", {"m": evidence}, looks=[looks])


def test_faces_without_landmarks_have_no_parts(
    trained: Detector, crops: Crops, evidence: Evidence, tmp_path: Path
) -> None:
    bare = collect_looks({"m": trained.eval()}, crops, corpus="ffpp", count=2)
    assert bare.areas == bare.models["m"].clean == {}
    (part,) = looks_parts([bare], ["m"])
    assert part["regions"] is None
    assert part["sensitivity"] is not None
    check_whole(write_report(tmp_path / "a.html", {"m": evidence}, looks=[bare]).read_text())


def test_a_detector_that_nothing_moves_has_no_curve(looks: Looks) -> None:
    still = dataclasses.replace(looks.models["baseline"], response=np.full(12, np.nan))
    (part,) = looks_parts([dataclasses.replace(looks, models={"m": still})], ["m"])
    assert part["sensitivity"] is None


def test_spectra_are_of_the_change(evidence: Evidence) -> None:
    """Noise is white; the attacks write the chequerboard that the detector reads."""
    found = {one.scenario: one.spectrum for one in evidence.results if one.slice == "all"}
    assert found["clean"] == []
    assert all(not one.spectrum for one in evidence.results if one.slice != "all")
    assert found["noise_8"] == pytest.approx(np.ones(8), abs=0.1)
    whole = np.array(found["pgd_8"], dtype=np.float64) @ band_shares((SIZE, SIZE), 8)
    assert whole == pytest.approx(1, abs=1e-5)
    assert found["pgd_8"][-1] == max(found["pgd_8"])


def test_one_row_for_an_attack_that_was_swept(evidence: Evidence) -> None:
    results = [
        one.model_copy(update={"scenario": name, "threat_model": model, "spectrum": [0.001, 1.0, 20.0, None]})
        for one in evidence.results if one.slice == "all" and one.scenario == "fgsm_2"
        for name, size in (("x_2_255", 2), ("x_8_255", 8), ("x_4_255", 4))
        for model in [one.threat_model.model_copy(update={"epsilon": size / 255})]
    ]  # fmt: skip
    table = spectra({"m": evidence.model_copy(update={"results": results})})
    assert table is not None
    (row,) = table["rows"]
    (view,) = row["views"]
    assert (row["scenario"], view["model"]) == ("x_8_255", "m")
    assert [cell and (cell["text"], cell["shade"]) for cell in view["cells"]] == [
        ("0.001", 0), ("1", 10), ("20", 19), None
    ]  # fmt: skip
    assert table["heads"] == ["over 6", "2.8-5.7", "1.9-2.8", "1.4-1.9"]
    assert spectra({"m": evidence.model_copy(update={"results": []})}) is None


def test_bars_are_as_long_as_they_say() -> None:
    axis = Axis("share", (0, 0.25, 0.5))
    svg = bars_svg("a & b", [("<part>", 0.125, [Bar(0, False, 0.25), Bar(7, True, 0.5)])], axis)
    assert "a &amp; b" in svg
    assert "&lt;part&gt;" in svg
    widths = {
        found[1]: float(found[2]) for found in re.finditer(r'class="(\w+ s\d)".*?width="([\d.]+)"', svg)
    }
    assert widths["hollow s1"] == pytest.approx(2 * widths["solid s0"])
