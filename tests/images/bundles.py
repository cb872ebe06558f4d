"""A signed bundle that a server can serve: a tiny untrained detector with reference, archive, ONNX file."""

from __future__ import annotations

import shutil
from pathlib import Path

from dfcore.models import load_detector
from dfcore.monitoring import build_reference
from dfcore.release import build_bundle, sign_bundle
from tests.serving.conftest import make_crops

__all__ = ["make_models", "open_to_all"]


def make_models(folder: Path, parts: Path, *notes: str) -> Path:
    """Build and sign a bundle for each note, beside the signer's public key, readable for every user.

    Args:
        folder: where `NOTE/` and `rampart.pub` are written.
        parts: a checkpoint, its evaluation, a decision, a report and a key, as tests/release makes them.
        notes: the bundles' names; another note makes another bundle.
    """
    reference = build_reference(load_detector(parts / "checkpoint"), make_crops(24))
    for note in notes:
        build_bundle(
            folder / note, parts / "checkpoint", parts / "evaluation", parts / "decision.json",
            parts / "report.html", {**reference, "note": note},
        )  # fmt: skip
        sign_bundle(folder / note, parts / "keys/rampart.key")
    shutil.copyfile(parts / "keys/rampart.pub", folder / "rampart.pub")
    return open_to_all(folder)


def open_to_all(folder: Path, mode: int = 0o755) -> Path:
    """Let every user read a folder, or with 777 write to it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode if path.is_dir() else 0o644)
    return folder
