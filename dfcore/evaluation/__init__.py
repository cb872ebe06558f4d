"""Evaluation: scenarios, metrics with intervals, guards, evidence, report."""

from __future__ import annotations

from dfcore.evaluation.arms import craft, detector_digest, fit_attack
from dfcore.evaluation.corpus import Corpus, crops_digest, read_corpus
from dfcore.evaluation.evaluate import check_unseen, evaluate
from dfcore.evaluation.evidence import Evidence, GuardResult, Interval, RefereeResult, ScenarioResult
from dfcore.evaluation.lipschitz import local_lipschitz
from dfcore.evaluation.looks import Looks, collect_looks
from dfcore.evaluation.metrics import Estimate, auc, measure, paired_difference
from dfcore.evaluation.pictures import Picture, collect_pictures
from dfcore.evaluation.referee import Referee
from dfcore.evaluation.report import write_report
from dfcore.evaluation.scenarios import Scenario, ThreatModel
from dfcore.evaluation.suites import SUITES, get_suite

__all__ = [
    "SUITES",
    "Corpus",
    "Estimate",
    "Evidence",
    "GuardResult",
    "Interval",
    "Looks",
    "Picture",
    "Referee",
    "RefereeResult",
    "Scenario",
    "ScenarioResult",
    "ThreatModel",
    "auc",
    "check_unseen",
    "collect_looks",
    "collect_pictures",
    "craft",
    "crops_digest",
    "detector_digest",
    "evaluate",
    "fit_attack",
    "get_suite",
    "local_lipschitz",
    "measure",
    "paired_difference",
    "read_corpus",
    "write_report",
]
