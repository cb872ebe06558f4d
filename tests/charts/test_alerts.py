from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfcore.monitoring import SCORE_BUCKETS
from tests.charts.alert_cases import CASES, HEALTHY, SCORES, Case
from tests.charts.tools import ROOT, find, run, write_rules

EVALUATED = "75m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's rules, rendered."""
    home: Path = tmp_path_factory.mktemp("rules")
    write_rules(home / "rules.yaml")
    return home


def alerts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the alerting rules by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in yaml.safe_load((folder / "rules.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                found.setdefault(rule["alert"], []).append(rule)
    return found


def test_the_rules_are_whole(folder: Path) -> None:
    run([find("promtool"), "check", "rules", "--lint=all", "--lint-fatal", folder / "rules.yaml"])


def test_each_alert_fires_when_it_must_and_only_then(folder: Path) -> None:
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "5m",
        "tests": [promtool_test(case) for case in CASES],
    }
    (folder / "tests.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    run([find("promtool"), "test", "rules", folder / "tests.yaml"])


def promtool_test(case: Case) -> dict[str, Any]:
    """Return one test: exactly these alerts fire."""
    inputs = {name: values for name, values in {**HEALTHY, **case.changes}.items() if values is not None}
    labels = [
        f'{{alertname="{alert}",signal="{signal}"}}' if signal else f'{{alertname="{alert}"}}'
        for alert, signal in sorted(case.fires)
    ]
    return {
        "name": case.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in inputs.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname, signal) (ALERTS{alertstate="firing"})',
                "eval_time": EVALUATED,
                "exp_samples": [{"labels": label, "value": 1} for label in labels],
            }
        ],
    }


def test_every_alert_has_a_case_in_which_it_fires(folder: Path) -> None:
    rules = {
        (name, rule["labels"].get("signal", ""))
        for name, several in alerts(folder).items()
        for rule in several
    }
    assert {pair for case in CASES for pair in case.fires} == rules


def test_every_alert_has_its_section_in_the_runbook(folder: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (Rampart\w+)$", text, flags=re.MULTILINE)
    assert sorted(sections) == sorted(alerts(folder))
    for name, several in alerts(folder).items():
        section = text.split(f"### {name}\n")[1].split("\n### ")[0]
        for part in ("**Meaning.**", "**First look.**", "**Action.**"):
            assert part in section, f"{name}: {part}"
        for rule in several:
            assert rule["annotations"]["runbook_url"].endswith(f"docs/operations.md#{name.lower()}")
            assert rule["labels"]["severity"] in ("warning", "critical")
            signal = rule["labels"].get("signal")
            assert signal is None or f"`{signal}`" in section, f"{name}: {signal}"


def test_the_rules_know_the_edges_of_the_buckets(folder: Path) -> None:
    from serving import metrics

    groups = yaml.safe_load((folder / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    (edges,) = (group["rules"] for group in groups if group["name"] == "rampart-bucket-edges")
    for kind, buckets in (("share", SCORE_BUCKETS), ("size", metrics._QUALITY)):
        wanted = [*map(_as_prometheus_writes, buckets), "+Inf"]
        found = [
            (rule["labels"]["below"], rule["labels"]["le"])
            for rule in edges
            if rule["labels"]["edges"] == kind
        ]
        assert found == list(pairwise(wanted))
    assert list(SCORES) == [*map(_as_prometheus_writes, SCORE_BUCKETS), "+Inf"]


def _as_prometheus_writes(edge: float) -> str:
    from prometheus_client.utils import floatToGoString

    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]  # the library leaves it bare


def test_a_message_names_the_model_and_the_figure(folder: Path) -> None:
    case = next(case for case in CASES if case.name == "below the floor")
    test = promtool_test(case)
    del test["promql_expr_test"]
    labels = {
        "namespace": "ns", "model": "faces", "version": "v1", "channel": "production",
        "scenario": "pgd20_2_255", "corpus": "ffpp", "epsilon": "2/255", "severity": "critical",
        "signal": "figure",
    }  # fmt: skip
    annotations = {
        "summary": "faces v1 no longer withstands attacks as it must",
        "description": "AUC under pgd20_2_255 on ffpp is 0.650, the floor is 0.7.",
        "runbook_url": "https://github.com/rampart/rampart/blob/main/docs/operations.md#rampartrobustnessbelowfloor",
    }
    test["alert_rule_test"] = [{
        "alertname": "RampartRobustnessBelowFloor", "eval_time": EVALUATED,
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
    }]  # fmt: skip
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "message.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    run([find("promtool"), "test", "rules", folder / "message.yaml"])
