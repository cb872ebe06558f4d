"""A small trained detector with fitted attack scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfcore.attacks import build_attack
from dfcore.models import Detector
from dfcore.monitoring import build_reference
from tests.evaluation.conftest import build_tiny, make_crops, train

__all__ = ["build_tiny", "make_crops", "train"]

PGD = {"kind": "pgd", "epsilon": "8/255", "steps": 5}


@pytest.fixture(scope="session")
def trained() -> Detector:
    torch.set_num_threads(1)
    return train(build_tiny(), make_crops(96, seed=2, prefix="train"), steps=40)


@pytest.fixture(scope="session")
def reference(trained: Detector) -> dict[str, Any]:
    """Fitted on 480 crops of 120 videos, against PGD."""
    return build_reference(trained, make_crops(480, seed=3, prefix="val"), attackers=[build_attack(PGD)])
