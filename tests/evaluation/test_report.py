"""The report is one page without outside parts, and says what the evidence says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dfcore.data import Crops
from dfcore.errors import ConfigError
from dfcore.evaluation import SUITES, Evidence, collect_pictures, evaluate, write_report
from dfcore.models import Detector

_VOID = {"meta", "img", "br", "link", "input"}


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


@pytest.fixture(scope="module")
def evidence(trained: Detector, crops: Crops, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    suite = (SUITES["quick"][0], *SUITES["quick"][4:7])
    folder = tmp_path_factory.mktemp("report")
    return evaluate(trained, {"ffpp & more": crops}, suite=suite, name="tiny", out=folder, training_groups=[])


def test_report_says_what_was_found(
    evidence: Evidence, detector: Detector, crops: Crops, tmp_path: Path
) -> None:
    pictures = collect_pictures({"baseline": detector, "robust": detector}, crops, corpus="ffpp", count=3)
    assert [picture.label for picture in pictures] == [1, 1, 0]
    rule = {"name": "auc_floor", "passed": False, "value": 0.25, "low": 0.2, "high": 0.3, "bound": ">= 0.75"}
    path = write_report(
        tmp_path / "deep" / "report.html",
        {"baseline": evidence, "robust": evidence},
        {"baseline": {"promoted": False, "rules": [rule]}, "robust": {"promoted": True, "rules": []}},
        pictures,
    )
    page = path.read_text(encoding="utf-8")
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page.replace("xlink:href", "href"))
    assert (
        page.index("not promoted")
        < page.index("Scenario by model")
        < page.index("Can the figures be trusted")
    )
    assert "auc_floor" in page
    assert "ffpp &amp; more" in page
    assert page.count("<svg") == 2
    assert page.count("<img") == 3 * 2 * 5
    found = evidence.find("pgd20_2_255", "ffpp & more")
    assert found is not None
    assert f"{found.metrics['auc'].value:.3f}" in page
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_same_evidence_same_page(evidence: Evidence, tmp_path: Path) -> None:
    first = write_report(tmp_path / "a.html", {"baseline": evidence}).read_bytes()
    assert write_report(tmp_path / "b.html", {"baseline": evidence}).read_bytes() == first
    assert b"no decision taken" in first


def test_invalid_evidence_is_the_verdict(evidence: Evidence, tmp_path: Path) -> None:
    tripped = evidence.guards[0].model_copy(update={"passed": False})
    broken = evidence.model_copy(update={"valid": False, "guards": [tripped]})
    page = write_report(
        tmp_path / "a.html", {"m": broken}, {"m": {"promoted": True, "rules": []}}
    ).read_text()
    assert "evaluation invalid" in page
    assert "INVALID" in page


def test_decision_without_evidence_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected evidence for every decision"):
        write_report(tmp_path / "a.html", {"m": evidence}, {"other": {"promoted": True, "rules": []}})
