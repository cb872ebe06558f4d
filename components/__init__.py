"""KFP components: thin, one file for each step; each calls `dfcore`."""

from components.audit_robustness import audit_robustness
from components.check_release_gate import check_release_gate
from components.deploy import deploy
from components.evaluate_robustness import evaluate_robustness
from components.flag_regression import flag_regression
from components.join_stores import join_stores
from components.prepare_faces import prepare_faces
from components.publish_bundle import publish_bundle
from components.reject_model import reject_model
from components.scan_data import scan_data
from components.train_detector import train_detector
from components.write_report import write_report

__all__ = [
    "audit_robustness",
    "check_release_gate",
    "deploy",
    "evaluate_robustness",
    "flag_regression",
    "join_stores",
    "prepare_faces",
    "publish_bundle",
    "reject_model",
    "scan_data",
    "train_detector",
    "write_report",
]
