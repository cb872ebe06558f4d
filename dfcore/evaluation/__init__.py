"""Evaluation: scenarios, metrics with intervals, guards, evidence, report."""

from __future__ import annotations

from dfcore.evaluation.evaluate import crops_digest, detector_digest, evaluate
from dfcore.evaluation.evidence import Evidence, GuardResult, Interval, ScenarioResult
from dfcore.evaluation.metrics import Estimate, auc, measure, paired_difference
from dfcore.evaluation.pictures import Picture, collect_pictures
from dfcore.evaluation.report import write_report
from dfcore.evaluation.scenarios import SUITES, Scenario, ThreatModel, get_suite

__all__ = [
    "SUITES",
    "Estimate",
    "Evidence",
    "GuardResult",
    "Interval",
    "Picture",
    "Scenario",
    "ScenarioResult",
    "ThreatModel",
    "auc",
    "collect_pictures",
    "crops_digest",
    "detector_digest",
    "evaluate",
    "get_suite",
    "measure",
    "paired_difference",
    "write_report",
]
