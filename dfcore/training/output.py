"""What a training run leaves: calibrated weights, their card, and the record of the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from dfcore.data.loader import SplitCrops
from dfcore.models import Calibration, Detector, DetectorCard, FoldedDetector, save_detector
from dfcore.preprocessing import PreprocessingConfig
from dfcore.provenance import source_commit, versions
from dfcore.training.calibration import best_threshold, platt
from dfcore.training.validation import logits_of

__all__ = ["CHECKPOINT_FILE", "TRAINING_FILE", "write_output"]

CHECKPOINT_FILE = "checkpoint.safetensors"
TRAINING_FILE = "training.json"

# whose crops moved the weights, and whose chose among them, set the threshold and the calibration
_GROUPS = ("training_groups", "validation_groups")


def write_output(
    out: Path, detector: Detector, twin: FoldedDetector, validation: SplitCrops, summary: dict[str, Any]
) -> None:
    """Calibrate on the validation split, then write everything; `training.json` comes last.

    Args:
        out: an existing folder; its checkpoint is removed at the end.
        detector: with the selected weights, uncalibrated.
        twin: its folded copy.
        validation: the only crops that calibration and threshold see.
        summary: what the engine knows about the run.
    """
    labels = validation.labels.numpy()
    raw = logits_of(twin, validation)
    scale, bias = (float(np.float32(value)) for value in platt(raw, labels))
    detector.calibrate(scale, bias)
    detector.threshold = best_threshold(expit(scale * raw + bias), labels)
    card = DetectorCard(
        architecture=detector.config.model_copy(update={"weights": None}),
        preprocessing=PreprocessingConfig.parse(summary["preprocessing"]),
        threshold=detector.threshold,
        calibration=Calibration(scale=scale, bias=bias),
        provenance={
            "commit": source_commit(),
            "data_digest": summary["data_digest"],
            "recipe": summary["recipe"],
            "seed": summary["recipe"]["seed"],
            "versions": versions(),
            **{key: _all_groups(detector, key, summary[key]) for key in _GROUPS},
        },
    )
    save_detector(out, detector, card)
    document = {key: value for key, value in summary.items() if key not in _GROUPS}
    temporary = out / f".{TRAINING_FILE}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=2, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(out / TRAINING_FILE)
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)


def _all_groups(detector: Detector, key: str, own: list[str]) -> list[str]:
    """Return the run's groups and those of the detector that it started from."""
    before = detector.card.provenance.get(key, []) if detector.card is not None else []
    return sorted({*own, *before})
