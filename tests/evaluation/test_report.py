"""The report is one page without outside parts, and says what the evidence says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from dfcore.data import Crops
from dfcore.errors import CheckFailed, ConfigError
from dfcore.evaluation import SUITES, Evidence, Picture, collect_pictures, evaluate, write_report
from dfcore.evaluation.report_scores import read_scores
from dfcore.models import Detector
from tests.evaluation.browser import run_browser

_VOID = {"meta", "img", "br", "link", "input"}
_NASTY = "<script>alert('x')</script>&" + "long" * 20
_DASH = "\N{EN DASH}"
_STICKING_OUT = """[...document.body.querySelectorAll('*')]
    .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .filter(one => matchMedia('print').matches || !one.closest('.scroll'))
    .map(one => one.outerHTML.slice(0, 150))"""


class _Balance(HTMLParser):
    """Raises where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Evaluation(NamedTuple):
    """An evidence and its folder."""

    evidence: Evidence
    folder: Path


@pytest.fixture(scope="module")
def made(trained: Detector, crops: Crops, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    suite = (SUITES["quick"][0], *SUITES["quick"][4:7])
    folder = tmp_path_factory.mktemp("report")
    corpora = {"ffpp & more": crops}
    return Evaluation(
        evaluate(trained.eval(), corpora, suite=suite, name="tiny", out=folder, training_groups=[]), folder
    )


@pytest.fixture(scope="module")
def evidence(made: Evaluation) -> Evidence:
    return made.evidence


@pytest.fixture(scope="module")
def pictures(trained: Detector, crops: Crops) -> Sequence[Picture]:
    return collect_pictures(
        {"baseline": trained.eval(), "robust": trained.eval()}, crops, corpus="ffpp", count=3
    )


def check_whole(page: str) -> None:
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"<script|\sstyle=|\son\w+=", page)
    style = page.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert len(page) < 8_000_000


def test_report_says_what_was_found(made: Evaluation, pictures: Sequence[Picture], tmp_path: Path) -> None:
    evidence, folder = made
    assert [picture.label for picture in pictures] == [1, 1, 0]
    rule = {"name": "auc_floor", "passed": False, "value": 0.25, "low": 0.2, "high": 0.3, "bound": ">= 0.75"}
    path = write_report(
        tmp_path / "deep" / "report.html",
        {"baseline": evidence, "robust": evidence},
        {"baseline": {"promoted": False, "rules": [rule]}, "robust": {"promoted": True, "rules": []}},
        pictures,
        advice={"baseline": ["It has to rise by 0.5."]},
        scores={"baseline": folder, "robust": folder / "samples.parquet"},
    )
    page = path.read_text(encoding="utf-8")
    check_whole(page)
    words = [
        "Stopped", "It has to rise by 0.5.", "Promoted", "<h2>What it holds against", "<h2>How much attack",
        "<h2>Every threshold: ROC", "<h2>Where it looks", "<h2>What the attacker changed",
        "<h2>Who is left behind", '<th scope="row">auc_floor', "<h2>Can the figures be trusted",
        "<h2>What it cost", "<h2>Where the figures come from",
    ]  # fmt: skip
    places = [page.index(word) for word in words]
    assert places == sorted(places)
    assert "ffpp &amp; more" in page
    assert (
        page.count('<svg class="chart"') == 2 + 2
    )  # AUC and accuracy over epsilon; ROC clean and under the usual attack, here the worst
    assert page.count("<img") == 3 * (1 + 2 * 4)
    assert page.count("IINC 0.") == 3 * 2
    assert "change, 64" in page
    for result in evidence.results:
        if result.role == "report" and result.slice == "all":
            found = result.metrics["auc"]
            assert f"<b>{found.value:.3f}</b><small>{found.low:.3f}{_DASH}{found.high:.3f}</small>" in page
    for guard in evidence.guards:
        assert f'<th scope="row">{guard.name}</th>' in page
    for digest in (evidence.model.digest, evidence.samples_digest, evidence.corpora["ffpp & more"]):
        assert digest in page
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_same_evidence_same_page(made: Evaluation, pictures: Sequence[Picture], tmp_path: Path) -> None:
    pages = [
        write_report(
            tmp_path / name, {"baseline": made.evidence}, pictures=pictures, scores={"baseline": made.folder}
        ).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]
    assert b"no decision was taken" in pages[0]


def test_invalid_evidence_is_said_first(evidence: Evidence, tmp_path: Path) -> None:
    tripped = evidence.guards[0].model_copy(update={"passed": False, "detail": "3 logits are not finite"})
    broken = evidence.model_copy(update={"valid": False, "guards": [*evidence.guards[1:], tripped]})
    page = write_report(
        tmp_path / "a.html", {"m": broken}, {"m": {"promoted": True, "rules": []}}
    ).read_text()
    check_whole(page)
    assert page.index("The evaluation of m is invalid") < page.index("these figures do not count")
    assert page.index("3 logits are not finite") < page.index("What it holds against")
    assert "INVALID" in page
    assert "Promoted" not in page


def test_missing_figures_are_dashes(evidence: Evidence, tmp_path: Path) -> None:
    """The first model's attacked figures are missing; the second was not measured on that corpus."""
    bare = [
        result if result.scenario == "clean" else result.model_copy(update={"metrics": {}})
        for result in evidence.results
    ]
    nan = evidence.results[0].metrics["auc"].model_copy(update={"value": float("nan")})
    bare[0] = bare[0].model_copy(update={"metrics": {**bare[0].metrics, "auc": nan}})
    first = evidence.model_copy(update={"results": bare})
    other = evidence.model_copy(update={"results": [], "corpora": {"other": "0" * 64}})
    page = write_report(tmp_path / "a.html", {"first": first, "other": other}).read_text()
    check_whole(page)
    assert page.count(f'<td class="absent">{_DASH}</td>') == 4 * 4
    assert not re.search(r"\bnan\b", page.split("</style>")[1])
    assert '<svg class="chart"' not in page


@pytest.mark.parametrize("suite", ["quick", "standard", "full"])
def test_every_suite_has_its_page(evidence: Evidence, suite: str, tmp_path: Path) -> None:
    """Each figure stands in the matrix; sweeps get curves, AutoAttack's of the accuracy only."""
    slices = [result for result in evidence.results if result.scenario == "clean"]
    results = [
        result.model_copy(
            update={"scenario": one.name, "role": one.role, "threat_model": one.threat_model(0)}
        )
        for one in SUITES[suite] for result in slices
    ]  # fmt: skip
    scenarios = {one.name: one for one in SUITES[suite]}
    whole = evidence.model_copy(update={"suite": suite, "results": results, "scenarios": scenarios})
    page = write_report(tmp_path / "a.html", {"m": whole}).read_text()
    check_whole(page)
    shown = re.findall(r'<tr><th scope="row">([a-z0-9_]+)<span', page)
    assert shown == [one.name for one in SUITES[suite] if one.role == "report"]
    assert "<th>pgd20_2_255</th>" in page  # the usual attack
    curves = re.findall("<figcaption>([A-Za-z]+) under ([a-z0-9]+) on", page)
    swept = {"quick": ["pgd20"], "standard": ["fgsm", "bim10", "pgd20"]}
    expected = [
        (name, attack) for attack in swept.get(suite, swept["standard"]) for name in ("AUC", "Accuracy")
    ]
    assert curves == expected + ([("Accuracy", "autoattack")] if suite == "full" else [])


def test_any_number_of_models(evidence: Evidence, pictures: Sequence[Picture], tmp_path: Path) -> None:
    names = [_NASTY, *(f"model-{number}" for number in range(8))]
    page = write_report(tmp_path / "a.html", dict.fromkeys(names, evidence), pictures=pictures).read_text()
    check_whole(page)
    assert page.count('<tr><th scope="row">clean<span') == 1
    assert "&lt;script&gt;alert" in page


def test_pictures_that_would_make_the_page_heavy_are_left_out(
    evidence: Evidence, pictures: Sequence[Picture], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).random((224, 224, 3), dtype=np.float32)
    cam = np.zeros((224, 224), dtype=np.float32)
    view = pictures[0].views[0]
    heavy = [
        Picture("c", 1, "swap", 2 / 255, noise, (
            type(view)("m", noise, 0.5, 0.5, 0.5, cam, cam),) * 4)
        for _ in range(9)
    ]  # fmt: skip
    page = write_report(tmp_path / "a.html", {"m": evidence}, pictures=heavy).read_text()
    assert 4_000_000 < len(page) < 8_000_000
    shown = page.count("the clean face") - page.count("looks at the clean face")
    assert 0 < shown < 9
    assert f"{9 - shown} more faces were left out" in page


def test_what_is_about_no_model_is_refused(made: Evaluation, tmp_path: Path) -> None:
    evidences = {"m": made.evidence}
    with pytest.raises(ConfigError, match="expected evidence for every model"):
        write_report(tmp_path / "a.html", evidences, {"other": {"promoted": True, "rules": []}})
    with pytest.raises(ConfigError, match=r"\['other'\], got \['m'\]"):
        write_report(tmp_path / "a.html", evidences, scores={"other": made.folder})
    with pytest.raises(ConfigError, match="expected evidence"):
        write_report(tmp_path / "a.html", {})


def test_roc_curves_are_of_the_evidence(made: Evaluation, tmp_path: Path) -> None:
    """The area under the drawn curve is the AUC; other scores than the evidence's are refused."""
    table = read_scores(made.folder, made.evidence)
    rows = table.filter((np.asarray(table["scenario"]) == "clean").tolist())
    clean = made.evidence.find("clean", "ffpp & more")
    assert clean is not None
    drawn = roc_auc_score(np.asarray(rows["label"]), np.asarray(rows["score"]))
    assert drawn == pytest.approx(clean.metrics["auc"].value)
    with pytest.raises(CheckFailed, match="expected scores at"):
        read_scores(tmp_path, made.evidence)
    other = tmp_path / "samples.parquet"
    other.write_bytes(b"no table")
    with pytest.raises(CheckFailed, match="the scores that the evidence of tiny was made from, got others"):
        read_scores(tmp_path, made.evidence)
    for content in (b"no table", _without_scores(made.folder, tmp_path)):
        other.write_bytes(content)
        claimed = made.evidence.model_copy(update={"samples_digest": hashlib.sha256(content).hexdigest()})
        with pytest.raises(CheckFailed, match="expected a table of scores"):
            read_scores(tmp_path, claimed)


def _without_scores(folder: Path, scratch: Path) -> bytes:
    pq.write_table(pq.read_table(folder / "samples.parquet").drop(["score"]), scratch / "bare.parquet")
    return (scratch / "bare.parquet").read_bytes()


def test_in_a_real_browser(made: Evaluation, pictures: Sequence[Picture], tmp_path: Path) -> None:
    """Phone, desktop and paper: nothing is asked of a network, nothing complains, nothing sticks out."""
    evidence, folder = made
    path = write_report(
        tmp_path / "report.html", {"baseline": evidence, _NASTY: evidence}, pictures=pictures,
        scores={"baseline": folder},
    )  # fmt: skip
    with run_browser(tmp_path) as page:
        for width, mobile, media in ((390, True, "screen"), (1280, False, "screen"), (695, False, "print")):
            page.size(width, mobile=mobile, media=media)
            times = []
            for _ in range(3):
                page.open(path)
                times.append(page.script("performance.getEntriesByType('navigation')[0].loadEventStart"))
                assert page.requests() == [path.as_uri()]
                assert page.complaints() == []
            assert min(times) < 1000
            if media == "screen":
                page.script("document.querySelectorAll('details').forEach(one => { one.open = true })")
            width_now = page.script("document.documentElement.scrollWidth")
            assert width_now <= width, page.script(_STICKING_OUT)
            assert page.script("[...document.images].every(image => image.naturalWidth > 0)")
        shown = page.script("getComputedStyle(document.querySelector('td.h20, td.h19')).backgroundColor")
        assert shown.startswith("rgb(1")
        assert len(base64.b64decode(page.send("Page.printToPDF")["data"])) > 10_000
