"""KFP components: thin, one file for each step; each calls `dfcore`."""

from components.check_release_gate import check_release_gate
from components.deploy import deploy
from components.evaluate_robustness import evaluate_robustness
from components.prepare_faces import prepare_faces
from components.publish_bundle import publish_bundle
from components.reject_model import reject_model
from components.train_detector import train_detector
from components.write_report import write_report

__all__ = [
    "check_release_gate",
    "deploy",
    "evaluate_robustness",
    "prepare_faces",
    "publish_bundle",
    "reject_model",
    "train_detector",
    "write_report",
]
